"""How good the verdicts are: held-out rendered goods through the real worker, and what came out beside the truth."""
