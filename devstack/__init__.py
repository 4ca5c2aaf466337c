"""Real Kafka, PostgreSQL with pgvector and Redis as local processes, for the demo, tests and laptops."""
