"""The gRPC wire: messages, method names, channel options, and who is at the other end."""
