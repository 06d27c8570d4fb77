"""Everything around the work on Ray: the session, jobs, capacity and placement of workers."""
