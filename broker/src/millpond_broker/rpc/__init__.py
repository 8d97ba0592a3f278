"""gRPC: protobuf messages to core types and back, and nothing else. One servicer a service."""
