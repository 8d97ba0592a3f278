"""The world under test, simulated: deterministic from one seed, and as unkind as the real one may
be.
"""
