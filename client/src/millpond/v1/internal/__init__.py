"""Generated stubs of what brokers keep and say among themselves."""
