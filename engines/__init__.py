"""Encoders: manifest, quantization, building and running. Knows no Kafka and no database."""
