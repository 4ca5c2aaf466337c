"""The watcher: what is noticed over many verdicts."""
