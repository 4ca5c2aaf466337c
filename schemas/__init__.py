"""The contract: jobs that enter, verdicts and dead letters that leave, and how they are encoded."""
