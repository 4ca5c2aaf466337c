"""`assay watch`: looks over many verdicts for counterfeits that belong together, and for drift."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated

import typer

from worker.adapters.alarm_outbox import Outbox
from worker.adapters.alarms import PostgresAlarms, WatchRules
from worker.adapters.kafka_sender import KafkaSender
from worker.cli import terminal
from worker.cli.engine_release import open_judging
from worker.cli.opening import open_database
from worker.cli.service import serve
from worker.core.drift import DriftRule
from worker.core.repeated import LinkRule
from worker.observe import Meter
from worker.settings import Settings, WatchSettings, load_settings
from worker.watch.watcher import Watcher


def watch(once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False) -> None:
    """Raise alarms: counterfeits that belong together, and score calibrations that jobs have drifted from. Judges the
    releases of engines, and promotes or takes back.

    Goes on until SIGTERM, as a service of its own; several may run.
    """
    settings = load_settings()
    with _watcher(settings) as watcher:
        if once:
            raised, published = watcher.round()
            terminal.say(f"Raised {raised} alarms, published {published} alerts.")
        else:
            serve(settings, "watcher", watcher.run, _meter(watcher))


@contextlib.contextmanager
def _watcher(settings: Settings) -> Iterator[Watcher]:
    with open_database(settings) as database:
        alarms = PostgresAlarms(database=database, outbox=Outbox.of(settings.kafka), rules=rules(settings.watch))
        sender = KafkaSender(settings.kafka.client_config())
        judging = open_judging(settings, database)
        yield Watcher(alarms, judging, sender.send, interval_s=settings.watch.interval_s)


def rules(watch_settings: WatchSettings) -> WatchRules:
    """The settings as what decides."""
    chosen = watch_settings
    return WatchRules(
        links=LinkRule(
            least_items=chosen.least_items,
            alike=chosen.alike,
            alike_views=chosen.alike_views,
            hash_bits=chosen.hash_bits,
            submitter_p=chosen.submitter_p,
        ),
        drift=DriftRule(
            false_alarms_a_year=chosen.drift_false_alarms_a_year,
            tolerance=chosen.drift_tolerance,
            least_jobs=chosen.drift_least_jobs,
        ),
        window=timedelta(days=chosen.window_days),
        submitter_label=chosen.submitter_label,
        longest_days=chosen.drift_longest_days,
        settles_after=timedelta(seconds=chosen.drift_settles_s),
    )


def _meter(watcher: Watcher) -> Meter:
    meter = Meter()
    meter.watch("assay_watch_age_seconds", "Since the last round", lambda: {"": watcher.age_s()})
    meter.watch("assay_watch_open_alarms", "Alarms that are not over, by kind", watcher.open_alarms, "kind")
    meter.watch("assay_calibration_stale", "Stale calibrations, by category", watcher.stale_calibrations, "category")
    meter.watch("assay_watch_unpublished_alerts", "Alerts not published yet", lambda: {"": watcher.unpublished()})
    return meter
