"""Children in bad hands, or sick: whatever they say costs them, and at most their own request."""

import asyncio
import base64
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.children import image_lane
from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.generation import Clip, GenerationFailure, GenerationRequest
from pipeline.children.generator import ClipGenerator
from pipeline.children.image_pool import ImagePool, PoisonImage
from pipeline.children.line_budget import LineBudget
from pipeline.children.protocol import Inspected, Load, Prepared, Rejected, Unavailable
from tests.pipeline.children.test_generator import order
from tests.pipeline.children.test_protocol import REPLIES, SHA256, SPEC

ROOT = Path(__file__).parents[3]
GOOD = json.dumps(
    {"type": "inspected", "sha256": SHA256, "size": 1, "width": 9, "height": 9, "format": "PNG"}
)
PREPARED = '{"type":"prepared"}'
MESSAGES: list[dict[str, Any]] = [json.loads(line) for line in REPLIES]

values = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=30),
    st.none() | st.booleans(),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.floats(), max_size=3),
    st.sampled_from([0, -1, 1e308, "x" * 20_000, "\ud800", "00", "A" * 64, f"{SHA256}\n"]),
)


@st.composite
def nearly_right(draw: st.DrawFn) -> bytes:
    """A message of any kind with one value changed, left out or added, for the right job or not."""
    message = dict(draw(st.sampled_from(MESSAGES)))
    if "job" in message:
        message["job"] = draw(st.sampled_from(["1", "", "2"]))
    key = draw(st.sampled_from([*message, "more"]))
    if isinstance(message.get(key), dict) and draw(st.booleans()):
        inner = message[key] = dict(message[key])
        inner[draw(st.sampled_from([*inner]))] = draw(values)
    elif draw(st.integers(0, 5)) == 0:
        message.pop(key, None)
    elif draw(st.booleans()):
        message[key] = draw(values)
    return json.dumps(message).encode()


anything = st.lists(
    nearly_right() | st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()),
    min_size=1,
    max_size=3,
).map(lambda lines: b"".join(line + b"\n" for line in lines))


class Parrots:
    """The daemon's image pool over children that answer with the content of the picture."""

    def __init__(self, folder: Path) -> None:
        self.losses: list[ChildFailure] = []
        self.runner = asyncio.Runner()
        self.output = folder / "clean.png"
        self._picture = folder / "picture.png"
        self._pool = ImagePool(lambda _: None, self.losses.append)

    def inspect(self, answer: bytes | str) -> Inspected | Rejected | Unavailable:
        self._write(answer)
        return self.runner.run(self._pool.inspect(self._picture))

    def prepare(self, answer: bytes | str) -> Prepared | Rejected | Unavailable:
        self._write(answer)
        return self.runner.run(self._pool.prepare(self._picture, SHA256, SPEC, self.output))

    def wait(self) -> None:
        self.runner.run(asyncio.sleep(0.05))

    def close(self) -> None:
        self.runner.run(self._pool.close())
        self.runner.close()

    def _write(self, answer: bytes | str) -> None:
        content = answer.encode() if isinstance(answer, str) else answer
        self._picture.write_bytes(content if content.endswith(b"\n") else content + b"\n")


@pytest.fixture
def parrots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parrots]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(image_lane, "_MODULE", "tests.pipeline.parrot")
    monkeypatch.setattr("pipeline.children.image_pool._FAST_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr("pipeline.children.image_pool._SLOW_TIMEOUT_SECONDS", 1.0)
    parrots = Parrots(tmp_path)
    yield parrots
    parrots.close()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(answer=anything, ask=st.sampled_from(["inspect", "prepare"]))
@example(answer=GOOD.replace('"height": 9', '"height": 0').encode(), ask="inspect")
@example(answer=GOOD.replace('"size": 1', '"size": -1').encode(), ask="inspect")
@example(answer=GOOD.replace(SHA256, "no hex").encode(), ask="inspect")
@example(answer=GOOD.encode(), ask="prepare")
@example(answer=PREPARED.encode(), ask="inspect")
@example(answer=b'{"type":"hello"}', ask="prepare")
@example(answer=b"[" * 100_000, ask="inspect")
@example(answer=b'{"type":"rejected","reason":"' + b"x" * 900_000 + b'"}', ask="inspect")
@example(answer=b"x" * (2 << 20), ask="inspect")
def test_whatever_a_picture_child_says_costs_that_child_alone(
    parrots: Parrots, answer: bytes, ask: str
) -> None:
    found = getattr(parrots, ask)(answer)
    assert isinstance(found, (Inspected, Prepared, Rejected, Unavailable))
    if isinstance(found, PoisonImage):
        assert {loss.cause for loss in parrots.losses} <= {"channel", "hang"}
    if isinstance(found, (Rejected, Unavailable)):
        assert len(found.reason) <= 2100
    assert parrots.inspect(GOOD) == Inspected.model_validate_json(GOOD)


@pytest.mark.parametrize(
    "more", [GOOD, PREPARED, '{"type":"hello"}', "rubbish", "x" * (2 << 20)], ids=range(5)
)
def test_what_is_said_after_the_answer_is_no_answer_to_the_next_picture(
    parrots: Parrots, more: str
) -> None:
    other = GOOD.replace("PNG", "BMP")
    assert parrots.inspect(f"{GOOD}\n{more}") == Inspected.model_validate_json(GOOD)
    parrots.wait()
    assert parrots.inspect(other) == Inspected.model_validate_json(other)
    assert [loss.cause for loss in parrots.losses] == ["channel"]
    assert "no work" in parrots.losses[0].reason


def test_a_picture_is_sound_whatever_pixels_the_child_left(parrots: Parrots) -> None:
    """This child says that it is done and has written nothing."""
    assert parrots.prepare(PREPARED) == Prepared()
    with Image.open(parrots.output, formats=["PNG"]) as clean:
        clean.load()
        assert (clean.mode, clean.size) == ("RGB", (SPEC.width, SPEC.height))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(said=anything)
@example(said=b'{"type":"progress","job":"1","stage":"denoise","step":9,"steps":3}\n')
@example(said=b'{"type":"progress","job":"1","stage":"denoise","step":-1,"steps":3}\n')
@example(said=b'{"type":"frames_ready","job":"1"}\n{"type":"frames_ready","job":"1"}\n')
@example(said=b'{"type":"clip_done","job":"1"}\n')
@example(said=b'{"type":"free_memory","free":-5}\n')
@example(said=b"x" * (2 << 20))
def test_whatever_a_worker_says_is_a_failure_or_a_clip(worker: "Worker", said: bytes) -> None:
    assert isinstance(worker.make(said), (Clip, GenerationFailure))
    done = (
        '{"type":"frames_ready","job":"1"}\n{"type":"clip_done","job":"1","output":{"sha256":"'
        + SHA256
        + '","size":1,"codec":"h264","width":64,"height":64,"frames":16,"fps":8,"duration":2.0},'
        '"measurements":{"black":0,"grey":0,"motion":9,"similarity":1},"seconds":{},'
        '"peak_memory":null}\n'
    )
    after = worker.make(done.encode())
    if isinstance(after, GenerationFailure):  # it was still talking when it was asked
        assert (after.kind, after.retry) == ("lost", True)
        after = worker.make(done.encode())
    assert isinstance(after, Clip)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1", "1e400", '"x"'])
def test_a_figure_that_is_no_number_ends_the_worker(worker: "Worker", number: str) -> None:
    said = (
        '{"type":"quality_rejected","job":"1","stage":"denoise","flaw":"black","reason":"r",'
        f'"measurements":{{"black":0,"grey":0,"motion":{number},"similarity":0}}}}\n'
    )
    outcome = worker.make(said.encode())
    assert isinstance(outcome, GenerationFailure)
    assert outcome.child_failure
    assert outcome.child_failure.cause == "channel"


class Worker:
    """The maker of clips over a worker that says what it is told."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self._generator = ClipGenerator(
            Load(model="micro", device="cpu", dtype="float32"),
            lambda _: None,
            lambda _: None,
            timeouts=dict.fromkeys(("condition", "denoise", "decode", "encode_video", "load"), 0.5),
            env={"PYTHONPATH": str(ROOT)},
            module="tests.pipeline.parrot",
        )

    def make(self, said: bytes) -> Clip | GenerationFailure:
        asked: GenerationRequest = order(base64.b64encode(said).decode())
        return self.runner.run(self._generator.generate(asked, lambda _: None))

    def close(self) -> None:
        self.runner.run(self._generator.close())
        self.runner.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


# --- signals


@pytest.mark.parametrize("number", [36, 40, signal.SIGUSR1])
def test_a_picture_child_that_a_signal_ends_condemns_no_picture(
    parrots: Parrots, number: int, descendants: Callable[[str], list[int]]
) -> None:
    parrots.inspect(GOOD)
    (child,) = descendants("tests.pipeline.parrot")
    os.kill(child, number)
    parrots.wait()
    assert parrots.inspect(GOOD) == Inspected.model_validate_json(GOOD)
    cause = "killed" if number in (36, 40) else "crash"
    assert [loss.cause for loss in parrots.losses] == [cause]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGRTMIN + 2])
def test_a_picture_whose_children_are_killed_from_outside_waits(
    parrots: Parrots, number: int
) -> None:
    for found in parrots.inspect(f"signal {number}"), parrots.prepare(f"signal {number}"):
        assert isinstance(found, Unavailable)
        assert "the picture is tried again" in found.reason
    assert isinstance(parrots.inspect(GOOD), Inspected)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGSYS, signal.SIGXCPU])
def test_a_picture_that_crashes_two_children_is_condemned(parrots: Parrots, number: int) -> None:
    assert isinstance(parrots.inspect(f"signal {number}"), PoisonImage)


def test_a_child_that_cannot_start_condemns_no_picture(
    parrots: Parrots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_lane, "_MODULE", "tests.no_such_module")
    for found in parrots.inspect(GOOD), parrots.prepare(PREPARED):
        assert isinstance(found, Unavailable)
        assert "(in start)" in found.reason


@pytest.fixture
def descendants() -> Callable[[str], list[int]]:
    """Children of this process that run a module."""

    def find(module: str) -> list[int]:
        tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        pids = [pid for task in tasks for pid in task.read_text().split()]
        return [
            int(pid) for pid in pids if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    return find


# --- stderr


def test_a_child_that_fills_the_log_is_cut_short() -> None:
    budget = LineBudget(3)
    said = [line for number in range(10) for line in budget.spend(str(number), now=5.0)]
    assert said == ["0", "1", "2"]
    assert budget.spend("later", now=70.0) == ["... 7 more lines", "later"]
    assert budget.spend("and", now=71.0) == ["and"]
    assert budget.settle() == []
    assert budget.spend("x" * 100_000, now=72.0) == ["x" * 1000]
