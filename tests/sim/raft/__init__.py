"""The metadata group under faults: voters in one simulated world, from one seed. See `__main__` to run it."""
