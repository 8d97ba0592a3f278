"""The replicated log of metadata commands: its port, its codec, its journal, and who runs it.

The one package that may import a Raft library; a single broker runs the same journal without one.
"""
