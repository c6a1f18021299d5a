"""The programs: coordinator, client, command line, simulation, and the study interface."""
