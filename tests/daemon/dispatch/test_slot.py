"""Restart delay of a slot: doubled with each lost worker, reset once a worker answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.dispatch.slot import Slot
from pipeline.children.generation import GenerationFailure
from pipeline.children.generator import ClipGenerator
from pipeline.children.protocol import Load

LOST = GenerationFailure("lost", "it died", retry=True)


def slot() -> Slot:
    load = Load(model="micro", device="cpu", dtype="float32")
    return Slot("cpu", ClipGenerator(load, print, print))


def test_the_pause_doubles_up_to_a_limit() -> None:
    one = slot()
    assert one.restart_delay(5.0) == 0.0
    pauses = []
    for _ in range(8):
        one.record_outcome(LOST)
        pauses.append(one.restart_delay(5.0))
    assert pauses == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]


@given(st.floats(0, 1e6), st.integers(1, 5000))
def test_a_crash_loop_never_spins_and_never_stops(backoff: float, losses: int) -> None:
    one = slot()
    one.consecutive_failures = losses
    assert 0.5 <= one.restart_delay(backoff) <= 300.0


@pytest.mark.parametrize("kind", ["failed", "memory"])
def test_a_worker_that_answered_ends_the_series(kind: str) -> None:
    one = slot()
    one.record_outcome(LOST)
    one.record_outcome(GenerationFailure("load", "no model", retry=True))
    assert one.consecutive_failures == 2
    assert one.problem
    one.record_outcome(GenerationFailure(kind, "why", retry=False))  # type: ignore[arg-type]
    assert one.consecutive_failures == 0


def test_other_outcomes_do_not_change_the_count() -> None:
    one = slot()
    one.record_outcome(LOST)
    one.record_outcome(GenerationFailure("cancelled", "cancelled", retry=False))
    one.record_outcome(GenerationFailure("ended", "ended by us", retry=True))
    assert one.consecutive_failures == 1
