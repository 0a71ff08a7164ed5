"""Three to five real engines in one process, under virtual time. See docs/SIMULATION.md."""
