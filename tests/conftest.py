"""What must be so before any test module is imported."""

import os

import hypothesis

# As `millpond._transport` has it; tests import grpc by themselves, some before it. See there.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

# What a busy machine takes long for is not a failure.
hypothesis.settings.register_profile(
    "millpond", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("millpond")
