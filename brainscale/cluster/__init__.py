"""The Ray around the work: session, jobs, capacity, placement."""
