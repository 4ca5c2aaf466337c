"""The Assay worker: Kafka jobs in, authentication verdicts out. Open pipeline.py first."""
