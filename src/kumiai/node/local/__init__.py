"""A whole federation on one machine: for the demo, for development, for tests and benchmarks."""
