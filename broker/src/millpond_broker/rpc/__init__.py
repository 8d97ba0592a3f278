"""gRPC: protobuf messages to core types and back, and nothing else. One servicer a service."""

import os

# Read once, when grpc is first imported. What it remarks on connections is no JSON, and stderr is the log.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
