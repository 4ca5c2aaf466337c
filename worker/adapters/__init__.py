"""Thin adapters that put third-party systems behind the ports of worker.ports."""
