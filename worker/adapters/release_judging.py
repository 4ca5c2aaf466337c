"""Judges the releases that run, and does what follows: promotes, takes back or holds, with the numbers on record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from engines.errors import EngineRefused
from engines.lifecycle import State, Verb
from worker.adapters.alarm_outbox import Outbox
from worker.adapters.engine_releases import Ending, EngineRelease, EngineReleases
from worker.core.alerts import release_alert
from worker.core.release_judge import JudgeRule, ReleaseJudgement, judge_release

JUDGE = "assay engine judge"
BACK: Final[Verb] = "take back"  # whoever takes no traffic any more is no canary
_log = structlog.get_logger()


def silent(_name: str) -> None:
    """Announces nothing: workers poll."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRelease:
    """A release, what was found, and how it ended; `ending` is None where it goes on, or somebody else ended it."""

    release: EngineRelease
    judgement: ReleaseJudgement
    ending: Ending | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseJudging:
    """Implements worker.watch.Releases. Several may judge at once: a release is ended once. `announce` is told the name
    of each encoder whose release was ended, so that workers look sooner."""

    releases: EngineReleases
    rule: JudgeRule
    outbox: Outbox
    announce: Callable[[str], object] = silent

    def decide(self, now: datetime) -> int:
        """Judge whatever runs; how many releases were ended. Raises ServiceUnavailable."""
        ended = [one for one in self.judge(now) if one.ending is not None]
        for one in ended:
            told = one.ending.event.detail if one.ending is not None and one.ending.event is not None else ""
            _log.warning("engine_release_decided", name=one.release.name, detail=told)
        return len(ended)

    def judge(self, now: datetime) -> list[JudgedRelease]:
        """Judge whatever runs, and end what is decided. Raises ServiceUnavailable."""
        return [self._judge(release, now) for release in self.releases.running()]

    def look(self, release: EngineRelease) -> ReleaseJudgement:
        """How it stands, without doing anything. Raises ServiceUnavailable."""
        return judge_release(self.releases.counts(release.id, self.rule.slower), self.rule)

    def _judge(self, release: EngineRelease, now: datetime) -> JudgedRelease:
        judgement = self.look(release)
        ending = _overtaken(release, judgement) or _ending(release, judgement)
        ended = None if ending is None else self._end(release, ending, now)
        return JudgedRelease(release=release, judgement=judgement, ending=ended)

    def _end(self, release: EngineRelease, ending: Ending, now: datetime) -> Ending | None:
        """What was written; a move that the rules refuse holds the release, so that it is not tried for ever."""
        try:
            return self._write(release, ending, now)
        except EngineRefused as refusal:
            held = replace(ending, state="held", verb=BACK, why=f"{ending.state} was refused: {refusal}")
        try:
            return self._write(release, held, now)
        except EngineRefused:  # somebody moved the candidate meanwhile
            return self._write(release, replace(held, verb=None), now)

    def _write(self, release: EngineRelease, ending: Ending, now: datetime) -> Ending | None:
        told = f"{release.name} version {release.candidate_version} is {_WORDS[ending.state]}: {ending.why}"
        told_of = replace(ending, event=release_alert(release.id, told, raised_at=now))
        if self.releases.end(release, told_of, self.outbox) is None:
            return None
        self.announce(release.name)
        return told_of


_WORDS = {"promoted": "promoted", "taken_back": "taken back", "held": "held"}


def _ending(release: EngineRelease, judgement: ReleaseJudgement) -> Ending | None:
    about = judgement.to_json()
    match judgement.decision:
        case "promote":
            return Ending(state="promoted", by=JUDGE, why=judgement.why, decision=about, verb="promote")
        case "take_back":
            return Ending(state="taken_back", by=JUDGE, why=judgement.why, decision=about, verb=BACK)
        case "hold":
            return Ending(state="held", by=JUDGE, why=judgement.why, decision=about, verb=BACK)
        case "continue":
            return None


def _overtaken(release: EngineRelease, judgement: ReleaseJudgement) -> Ending | None:
    """Where a person moved one of the engines meanwhile, the comparison is of engines that are not in these places."""
    about = {**judgement.to_json(), "decision": "overtaken"}
    tried, served = release.candidate_state, release.current_state
    if tried is State.CURRENT:
        return Ending(state="promoted", by=JUDGE, why="the candidate was made current meanwhile", decision=about)
    if tried is not State.CANARY:
        return Ending(state="taken_back", by=JUDGE, why=f"the candidate is {tried} meanwhile", decision=about)
    if served is not State.CURRENT:
        why = f"the engine that it would replace is {served} now"
        return Ending(state="held", by=JUDGE, why=why, decision=about, verb=BACK)
    return None
