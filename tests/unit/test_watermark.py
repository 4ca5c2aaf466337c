from __future__ import annotations

import threading

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from schemas.message import OutputRecord, Source
from worker.ports import Partition
from worker.watermark import Ready, Watermark

A, B = ("jobs", 0), ("jobs", 1)


def source(offset: int, partition: Partition = A) -> Source:
    return Source(topic=partition[0], partition=partition[1], offset=offset)


def output(name: object) -> OutputRecord:
    return OutputRecord(topic="results", key=None, value=str(name).encode(), headers=())


def names(ready: Ready) -> list[str]:
    return [record.value.decode() for record in ready.outputs]


def test_only_the_finished_prefix_is_ready_and_offsets_may_have_gaps() -> None:
    watermark = Watermark()
    epoch = watermark.assign([A])
    for offset in (3, 7, 8, 20):
        assert watermark.delivered(source(offset), epoch)
    for offset in (8, 3):
        assert watermark.finished(source(offset), epoch, output(offset), tag=offset)
    first = watermark.ready(10)
    assert (names(first), first.tags, first.offsets) == (["3"], (3,), {A: 4})
    watermark.finished(source(7), epoch, output(7))
    ready = watermark.ready(10)
    assert (names(ready), ready.offsets) == (["3", "7", "8"], {A: 9})
    watermark.published(ready)
    assert not watermark.ready(10)
    assert watermark.in_flight(A) == 1


def test_the_first_outcome_wins_and_what_is_stale_or_unknown_is_refused() -> None:
    watermark = Watermark()
    old = watermark.assign([A])
    watermark.delivered(source(1), old)
    assert watermark.expects(source(1), old)
    assert watermark.finished(source(1), old, output("first"))
    assert not watermark.expects(source(1), old)
    assert not watermark.finished(source(1), old, output("second"))
    assert not watermark.finished(source(2), old, output("never delivered"))
    new = watermark.assign([A])
    assert not watermark.delivered(source(2), old)
    assert not watermark.finished(source(1), old, output("late"))
    assert watermark.delivered(source(1), new)
    assert not watermark.delivered(source(1), new)
    assert watermark.finished(source(1), new, output("again"))
    assert names(watermark.ready(10)) == ["again"]


def test_a_snapshot_is_not_owned_any_more_once_its_partition_was_dropped_or_assigned_anew() -> None:
    watermark = Watermark()
    epoch = watermark.assign([A])
    watermark.assign([B])
    watermark.delivered(source(1), epoch)
    watermark.finished(source(1), epoch, output(1))
    stale = watermark.ready(10)
    watermark.drop([B])
    assert watermark.still_owned()
    watermark.drop([A])
    assert not watermark.still_owned()
    epoch = watermark.assign([A])
    assert not watermark.still_owned()
    watermark.delivered(source(1), epoch)
    watermark.published(stale)
    assert watermark.in_flight(A) == 1


def test_what_the_broker_has_committed_is_forgotten_finished_or_not() -> None:
    watermark = Watermark()
    epoch = watermark.assign([A])
    for offset in (1, 2, 3):
        watermark.delivered(source(offset), epoch)
    watermark.finished(source(3), epoch, output(3))
    watermark.drop_below({A: 3, B: 9})
    assert names(watermark.ready(10)) == ["3"]
    assert not watermark.finished(source(1), epoch, output(1))


def test_a_small_transaction_starves_no_partition() -> None:
    watermark = Watermark()
    epoch = watermark.assign([A, B])
    for partition in (A, B):
        for offset in range(4):
            watermark.delivered(source(offset, partition), epoch)
            watermark.finished(source(offset, partition), epoch, output(f"{partition[1]}/{offset}"))
    served = []
    for _ in range(4):
        ready = watermark.ready(2)
        served += names(ready)
        watermark.published(ready)
    assert served == ["0/0", "0/1", "1/0", "1/1", "0/2", "0/3", "1/2", "1/3"]


def test_a_snapshot_holds_so_many_bytes_and_never_less_than_one_record() -> None:
    watermark = Watermark()
    epoch = watermark.assign([A, B])
    for partition, sizes in ((A, (10, 900, 10)), (B, (10, 10))):
        for offset, size in enumerate(sizes):
            watermark.delivered(source(offset, partition), epoch)
            watermark.finished(source(offset, partition), epoch, output(f"{partition[1]}{offset}".ljust(size)))
    served = []
    while ready := watermark.ready(10, max_bytes=25):
        served.append([name.strip() for name in names(ready)])
        watermark.published(ready)
    assert served == [["00", "10"], ["01"], ["11", "02"]], "the large one leaves alone, and before what came after it"


def test_draining_waits_for_publication_and_gives_up_at_the_deadline() -> None:
    watermark = Watermark()
    epoch = watermark.assign([A])
    watermark.delivered(source(1), epoch)
    watermark.finished(source(1), epoch, output(1))
    assert not watermark.wait_drained([A], 0.0)
    settle = threading.Thread(target=lambda: watermark.published(watermark.ready(1)))
    settle.start()
    assert watermark.wait_drained([A, B], 30.0)
    settle.join()


def test_a_record_that_nobody_saw_can_be_withdrawn() -> None:
    watermark = Watermark()
    epoch = watermark.assign([A])
    watermark.delivered(source(1), epoch)
    watermark.delivered(source(2), epoch)
    watermark.withdraw(source(1), epoch)
    watermark.withdraw(source(2), epoch)
    assert watermark.unpublished() == 1


class WatermarkMachine(RuleBasedStateMachine):
    """Against a model that keeps, a partition, the delivered offsets, what finished, and the published prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.watermark = Watermark()
        self.epochs: dict[Partition, int] = {}
        self.delivered: dict[Partition, list[int]] = {A: [], B: []}
        self.done: dict[Partition, set[int]] = {A: set(), B: set()}
        self.base: dict[Partition, int] = {A: 0, B: 0}
        self.out: list[tuple[Partition, int, int]] = []  # partition, epoch, offset

    @initialize()
    def own_both(self) -> None:
        self.assign(A)
        self.assign(B)

    @rule(partition=st.sampled_from([A, B]))
    def assign(self, partition: Partition) -> None:
        self.epochs[partition] = self.watermark.assign([partition])
        self.delivered[partition], self.done[partition] = [], set()

    @rule(partition=st.sampled_from([A, B]))
    def drop(self, partition: Partition) -> None:
        self.watermark.drop([partition])
        self.epochs.pop(partition, None)
        self.delivered[partition], self.done[partition] = [], set()

    @rule(partition=st.sampled_from([A, B]), gap=st.integers(1, 3))
    def deliver(self, partition: Partition, gap: int) -> None:
        offset = self.base[partition] + gap
        taken = self.watermark.delivered(source(offset, partition), self.epochs.get(partition, 0))
        assert taken == (partition in self.epochs)
        if taken:
            self.base[partition] = offset
            self.delivered[partition].append(offset)

    @precondition(lambda self: any(self.delivered.values()))
    @rule(data=st.data(), stale=st.booleans())
    def finish(self, data: st.DataObject, stale: bool) -> None:
        partition = data.draw(st.sampled_from([p for p, offsets in self.delivered.items() if offsets]))
        offset = data.draw(st.sampled_from(self.delivered[partition]))
        epoch = self.epochs[partition] - stale
        first = self.watermark.finished(source(offset, partition), epoch, output(f"{partition[1]}/{offset}"))
        assert first == (not stale and offset not in self.done[partition])
        if first:
            self.done[partition].add(offset)

    @rule(at_most=st.integers(1, 5), commit=st.booleans())
    def publish(self, at_most: int, commit: bool) -> None:
        ready = self.watermark.ready(at_most)
        assert len(ready.outputs) <= at_most
        found: list[str] = names(ready)
        for partition, next_offset in ready.offsets.items():
            prefix = [offset for offset in self.delivered[partition] if offset < next_offset]
            assert prefix and set(prefix) <= self.done[partition]
            assert prefix[-1] + 1 == next_offset
            assert [n for n in found if n.startswith(f"{partition[1]}/")] == [f"{partition[1]}/{o}" for o in prefix]
            if commit:
                self.delivered[partition] = self.delivered[partition][len(prefix) :]
                self.out += [(partition, self.epochs[partition], offset) for offset in prefix]
        if commit:
            self.watermark.published(ready)

    @invariant()
    def counts_agree(self) -> None:
        assert {p: self.watermark.in_flight(p) for p in (A, B)} == {p: len(o) for p, o in self.delivered.items()}
        assert self.watermark.unpublished() == sum(map(len, self.delivered.values()))

    @invariant()
    def nothing_is_published_twice(self) -> None:
        assert len(self.out) == len(set(self.out))

    @invariant()
    def a_finished_head_is_ready(self) -> None:
        heads = {p for p, offsets in self.delivered.items() if offsets and offsets[0] in self.done[p]}
        assert set(self.watermark.ready(1_000).offsets) == heads


TestWatermarkMachine = WatermarkMachine.TestCase
TestWatermarkMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
