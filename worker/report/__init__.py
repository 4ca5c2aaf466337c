"""Reports for people: one self-contained HTML page a job, and an index of many."""
