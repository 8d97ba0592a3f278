"""Broker processes on this machine: what `millpond.testing` and `millpond up` are both made of.

Their configuration files and ports, and each process from its start to its end; the standard library only.
"""
