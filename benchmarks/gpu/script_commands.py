"""How long each command of a script takes, from the lines that it says before them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Final

from tests.engine_life.repeating import repeated

SAID: Final = "== assay "
EVERY_S: Final = 0.2


class Commands:
    """Looks at `log`, in which docs/engine-life.sh says each command that it begins."""

    def __init__(self, log: Path, clock: Callable[[], float] = monotonic) -> None:
        self._log = log
        self._clock = clock
        self._begun: list[tuple[str, float]] = []
        self._ended_s = 0.0

    @contextmanager
    def followed(self) -> Iterator[None]:
        """While the script runs; its last command ends with this."""
        with repeated(self.look, EVERY_S):
            yield
        self.look()

    def look(self) -> None:
        """Note what began since the last look."""
        self._ended_s = self._clock()
        said = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        named = [name_of(line) for line in said if line.startswith(SAID)]
        self._begun += [(name, self._ended_s) for name in named[len(self._begun) :]]

    def seconds(self) -> Mapping[str, list[float]]:
        """By command, in order."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        ends = [began_s for _, began_s in self._begun[1:]] + [self._ended_s]
        for (name, began_s), ended_s in zip(self._begun, ends, strict=True):
            found[name].append(round(ended_s - began_s, 1))
        return dict(found)


def name_of(said: str) -> str:
    """Of `== assay engine build ...` what is run: engine build."""
    words = said.removeprefix(SAID).split()
    return " ".join(words[: 2 if words[0] == "engine" else 1])
