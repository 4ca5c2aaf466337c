"""`python -m benchmarks.gpu SECTION...`: what the GPU path reaches, in sections of some minutes, each of its own."""
