"""What must be so before any test module is imported."""

import os

# As `millpond._transport` has it; tests import grpc by themselves, some before it. See there.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
