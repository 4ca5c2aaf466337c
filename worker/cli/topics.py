"""`assay topics`: make Kafka's topics as the contract documents them."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from worker.adapters.kafka import TopicChange, apply_topics, plan_topics
from worker.cli import terminal
from worker.settings import Settings, load_settings

app = typer.Typer(no_args_is_help=True, help="Make the topics as the contract documents them.")


@app.command()
def plan(as_json: terminal.AsJson = False) -> None:
    """Show what `apply` would do. Changes nothing."""
    _print(_plan(load_settings()), as_json)


@app.command()
def apply(as_json: terminal.AsJson = False) -> None:
    """Make what is missing and set what is set otherwise. Deletes nothing; safe to run again."""
    settings = load_settings()
    changes = _plan(settings)
    apply_topics(settings.kafka.client_config(), changes, replication=settings.kafka.replication)
    _print(changes, as_json)


def _plan(settings: Settings) -> list[TopicChange]:
    kafka = settings.kafka
    return plan_topics(kafka.client_config(), kafka.topics, partitions=kafka.partitions, replication=kafka.replication)


def _print(changes: Sequence[TopicChange], as_json: bool) -> None:
    if as_json:
        terminal.print_json(
            [
                {"action": c.action, "topic": c.topic, "partitions": c.partitions, "config": dict(c.config)}
                for c in changes
            ]
        )
        return
    rows = [(c.action, c.topic, c.partitions, ", ".join(f"{k}={v}" for k, v in c.config.items())) for c in changes]
    terminal.print_table(("action", "topic", "partitions", "settings"), rows, empty="Every topic is as documented.")
