"""The audit ledger's own process: the sealer."""
