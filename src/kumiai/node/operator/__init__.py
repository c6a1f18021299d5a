"""Clients of the coordinator's HTTP API: one for threads, one for an event loop."""
