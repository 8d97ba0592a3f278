"""What must be so before any test module is imported."""

import os
import signal

import hypothesis

# As `millpond._transport` has it; tests import grpc by themselves, some before it. See there.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

# A shell without job control has whatever it starts in the background ignore Ctrl-C, and so all its children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What a busy machine takes long for is not a failure.
hypothesis.settings.register_profile(
    "millpond", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("millpond")
