"""The maker and the client, over a real child process that speaks the real protocol."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline import ladder, protocol
from pipeline.anatomy import anatomy_of
from pipeline.client import Child, Died, Silent
from pipeline.maker import Clip, Maker, NoClip, Order, StepDown
from pipeline.memory import peak
from pipeline.mode import Rung
from pipeline.presets import MICRO_FAMILY
from pipeline.protocol import Hello, Load, Loaded, Progress
from pipeline.spec import Spec

ROOT = Path(__file__).parent.parent.parent
ENV = {"PYTHONPATH": str(ROOT)}


def order(prompt: str, fallback: str = "auto") -> Order:
    spec = Spec(prompt=prompt, preset="draft", width=64, height=64, frames=16, fps=8, motion_fps=16,
                steps=10, guidance=1.0, seed=1, fallback=fallback)  # fmt: skip
    rungs = ladder.rungs(spec, MICRO_FAMILY, predicted)
    return Order("1", spec, rungs, lambda rung, _: predicted(rung), Path("p.png"), Path("staging"))


def predicted(rung: Rung) -> int:
    return peak(rung, anatomy_of("micro"), "float32", guided=False).most


class Bench:
    """A maker with all that it said."""

    def __init__(self, model: str = "micro", max_memory: int | None = None) -> None:
        self.lines: list[str] = []
        self.deaths: list[str] = []
        self.news: list[Progress | Loaded | StepDown] = []
        load = Load(model=model, device="cpu", dtype="float32", max_memory=max_memory)
        self.maker = Maker(
            load, self.lines.append, self.deaths.append, env=ENV, module="tests.pipeline.peer"
        )

    async def make(self, prompt: str, fallback: str = "auto") -> Clip | NoClip:
        return await self.maker.make(order(prompt, fallback), self.news.append)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.maker.close()


async def test_one_child_makes_clip_after_clip(bench: Bench) -> None:
    first = await bench.make("made")
    pid = bench.maker.pid
    second = await bench.make("made")
    assert isinstance(first, Clip)
    assert isinstance(second, Clip)
    assert bench.maker.pid == pid
    assert [type(news) for news in bench.news] == [Loaded, Progress, Progress]


async def test_what_a_child_prints_comes_through_and_never_reaches_the_channel(
    bench: Bench,
) -> None:
    assert isinstance(await bench.make("made"), Clip)
    await bench.maker.close()
    assert sorted(bench.lines) == ["a library prints to stdout", "peer: hello"]


async def test_out_of_memory_goes_down_one_rung_at_a_time(bench: Bench) -> None:
    clip = await bench.make("oom oom oom oom oom made")
    assert isinstance(clip, Clip)
    rungs = order("").ladder
    assert [step.rung for step in clip.steps_down] == list(rungs[:5])
    assert clip.rung == rungs[5]
    assert clip.rung.degrades(order("").spec)
    assert bench.deaths == []


async def test_the_end_of_the_ladder_is_a_failure_that_says_where_it_was(bench: Bench) -> None:
    outcome = await bench.make("oom", fallback="never")
    assert isinstance(outcome, NoClip)
    assert outcome.kind == "memory"
    assert not outcome.retry
    assert "out of memory at 64x64, 16 frames, offload" in outcome.reason
    assert isinstance(await bench.make("made"), Clip)


async def test_a_rung_that_has_no_room_is_told_and_not_tried() -> None:
    rungs = order("").ladder
    bench = Bench(max_memory=predicted(rungs[2]))
    try:
        clip = await bench.make("oom made")
    finally:
        await bench.maker.close()
    assert isinstance(clip, Clip)
    assert clip.rung == rungs[3]
    assert [(step.rung, step.stage) for step in clip.steps_down] == [
        (rungs[0], "forecast"),
        (rungs[1], "forecast"),
        (rungs[2], "denoise"),
    ]
    assert "GB may be used" in clip.steps_down[0].detail
    assert clip.steps_down[2].room == predicted(rungs[2])
    assert [news for news in bench.news if isinstance(news, StepDown)] == list(clip.steps_down)


@pytest.mark.parametrize(("word", "retry"), [("fail", False), ("retry", True)])
async def test_a_failure_says_whether_a_retry_may_help(
    bench: Bench, word: str, retry: bool
) -> None:
    outcome = await bench.make(word)
    assert isinstance(outcome, NoClip)
    assert (outcome.kind, outcome.retry, outcome.died) == ("failed", retry, False)
    assert "spoilt" in outcome.reason
    assert "decode" in outcome.reason


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("die", "exit code 7: peer: my last words"),
        ("kill", "SIGKILL"),
        ("rubbish", "rubbish"),
        ("out-of-turn", "out of turn"),
    ],
)
async def test_a_lost_child_is_told_and_replaced(bench: Bench, word: str, says: str) -> None:
    outcome = await bench.make(word)
    assert isinstance(outcome, NoClip)
    assert outcome.died
    assert outcome.retry
    assert says in outcome.reason
    assert len(bench.deaths) == 1
    assert isinstance(await bench.make("made"), Clip)


async def test_a_child_that_is_silent_too_long_is_killed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(await bench.make("made"), Clip)
    pid = bench.maker.pid
    assert pid is not None
    monkeypatch.setitem(protocol.SILENCE, "denoise", 0.3)
    outcome = await bench.make("hang")
    assert isinstance(outcome, NoClip)
    assert outcome.kind == "hung"
    assert "denoise" in outcome.reason
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_cancel_ends_the_clip_and_keeps_the_child(bench: Bench) -> None:
    making = asyncio.create_task(bench.make("wait"))
    while not any(isinstance(news, Progress) for news in bench.news):
        await asyncio.sleep(0.01)
    await bench.maker.cancel()
    outcome = await making
    assert isinstance(outcome, NoClip)
    assert outcome.kind == "cancelled"
    assert bench.deaths == []


async def test_a_cancel_that_comes_while_the_model_loads_is_not_lost() -> None:
    bench = Bench(model="slow")
    making = asyncio.create_task(bench.make("made"))
    while not bench.news:
        await asyncio.sleep(0.01)
    await bench.maker.cancel()
    outcome = await making
    assert isinstance(outcome, NoClip)
    assert outcome.kind == "cancelled"
    assert isinstance(await bench.make("made"), Clip)
    await bench.maker.close()


async def test_kill_ends_whatever_is_going_on(bench: Bench) -> None:
    making = asyncio.create_task(bench.make("hang"))
    while not any(isinstance(news, Progress) for news in bench.news):
        await asyncio.sleep(0.01)
    await bench.maker.kill()
    outcome = await making
    assert isinstance(outcome, NoClip)
    assert outcome.died
    assert bench.deaths == []
    assert isinstance(await bench.make("made"), Clip)


async def test_a_model_that_does_not_load_is_its_own_kind_of_failure() -> None:
    bench = Bench(model="broken")
    outcome = await bench.make("made")
    assert isinstance(outcome, NoClip)
    assert outcome.kind == "load"
    assert "no such model" in outcome.reason
    assert bench.maker.pid is None


async def test_a_child_that_cannot_start_has_died() -> None:
    child = await Child.spawn("no.such.module", lambda _: None)
    answer = await child.receive(30)
    assert isinstance(answer, Died)
    assert "exit code 1" in str(answer)
    assert "no" in str(answer)
    await child.kill()


async def test_an_orphan_ends_with_its_channel() -> None:
    child = await Child.spawn("tests.pipeline.peer", lambda _: None, ENV)
    assert isinstance(await child.receive(30), Hello)
    assert isinstance(await child.receive(0.05), Silent)
    await child.close()
    assert not child.alive


async def test_ctrl_c_in_the_terminal_does_not_reach_a_child() -> None:
    child = await Child.spawn("tests.pipeline.peer", lambda _: None, ENV)
    assert isinstance(await child.receive(30), Hello)
    assert os.getpgid(child.pid) != os.getpgid(0)
    os.kill(child.pid, signal.SIGINT)
    assert isinstance(await child.receive(0.2), Silent)
    await child.close()
