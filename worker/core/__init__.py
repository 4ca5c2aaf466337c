"""Pure functions from embeddings to a verdict: no I/O, no clock, no logging, no randomness."""
