"""Decisions, and nothing else: machines and tables that take values and return values.

No file, socket, clock, randomness, thread or logger is imported below this package.
"""
