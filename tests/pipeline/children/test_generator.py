"""The maker and the client, over a real child process that speaks the real protocol."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.generation import Clip, GenerationFailure, GenerationRequest, StepDown
from pipeline.children.generator import ClipGenerator, retry_seed
from pipeline.children.process import Child, Exited, TimedOut
from pipeline.children.protocol import Dtype, Hello, Load, Loaded, Progress, QualityRejected
from pipeline.memory import ladder
from pipeline.memory.dimensions import dimensions_of
from pipeline.memory.modes import Rung
from pipeline.memory.peak_memory import peak
from pipeline.request.presets import MICRO_FAMILY
from pipeline.request.spec import Spec

ROOT = Path(__file__).parents[3]
ENV = {"PYTHONPATH": str(ROOT)}


def order(prompt: str, fallback: str = "auto") -> GenerationRequest:
    spec = Spec(prompt=prompt, preset="draft", width=64, height=64, frames=16, fps=8, motion_fps=16,
                steps=10, guidance=1.0, speed="fast", seed=1, fallback=fallback)  # fmt: skip
    rungs = ladder.rungs(spec, MICRO_FAMILY, predicted)
    return GenerationRequest(
        "1", spec, rungs, lambda rung, _: predicted(rung), Path("p.png"), Path("staging")
    )


def predicted(rung: Rung) -> int:
    return peak(rung, dimensions_of("micro"), "float32", guided=False).most


class Bench:
    """A maker with all that it said."""

    def __init__(
        self,
        model: str = "micro",
        *,
        dtype: Dtype = "float32",
        mute: bool = False,
        max_memory: int | None = None,
        **limits: float,
    ) -> None:
        """`limits` of silence, by stage."""
        self.lines: list[str] = []
        self.losses: list[ChildFailure] = []
        self.oom_kills = 0
        self.news: list[Progress | Loaded | StepDown | QualityRejected] = []
        load = Load(model=model, device="cpu", dtype=dtype, max_memory=max_memory)
        self.generator = ClipGenerator(
            load,
            self.lines.append,
            self.losses.append,
            timeouts=limits,  # type: ignore[arg-type]
            env=ENV | ({"PEER": "mute"} if mute else {}),
            module="tests.pipeline.peer",
            count_oom_kills=lambda: self.oom_kills,
        )

    async def make(self, prompt: str, fallback: str = "auto") -> Clip | GenerationFailure:
        return await self.generator.generate(order(prompt, fallback), self.news.append)

    def of(self, kind: type) -> list[object]:
        return [news for news in self.news if isinstance(news, kind)]

    async def until_working(self) -> None:
        while not any(isinstance(news, Progress) for news in self.news):
            await asyncio.sleep(0.01)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.generator.close()


async def test_one_child_makes_clip_after_clip(bench: Bench) -> None:
    first = await bench.make("made")
    pid = bench.generator.pid
    second = await bench.make("made")
    assert isinstance(first, Clip)
    assert isinstance(second, Clip)
    assert bench.generator.pid == pid
    assert [type(news) for news in bench.news] == [Loaded, Progress, Progress]


async def test_what_a_child_prints_comes_through_and_never_reaches_the_channel(
    bench: Bench,
) -> None:
    assert isinstance(await bench.make("made"), Clip)
    await bench.generator.close()
    assert sorted(bench.lines) == ["a library prints to stdout", "peer: hello"]


@pytest.mark.parametrize(
    ("left_over", "words", "embedded"),
    [(None, "wait", True), (600, "wait", True), (400, "wait", False), (600, "oom wait", False)],
)
async def test_who_waits_for_the_device_is_embedded_meanwhile_where_there_is_room(
    left_over: int | None, words: str, embedded: bool
) -> None:
    least = predicted(order("").ladder[0])
    bench = Bench(max_memory=None if left_over is None else least + left_over * 10**6)
    try:
        first = asyncio.create_task(bench.make(words))
        await bench.until_working()
        while len(bench.of(StepDown)) < words.count("oom"):
            await asyncio.sleep(0.01)
        following = replace(order("made"), job="2")
        second = asyncio.create_task(bench.generator.generate(following, bench.news.append))
        await asyncio.sleep(0.2)
        await bench.generator.cancel("1")
        assert isinstance(await first, GenerationFailure)
        assert isinstance(await second, Clip)
    finally:
        await bench.generator.close()
    assert ("peer: embed 2" in bench.lines) is embedded


async def test_out_of_memory_goes_down_one_rung_at_a_time(bench: Bench) -> None:
    clip = await bench.make("oom oom oom oom oom made")
    assert isinstance(clip, Clip)
    rungs = order("").ladder
    assert [step.rung for step in clip.steps_down] == list(rungs[:5])
    assert clip.rung == rungs[5]
    assert clip.rung.degrades(order("").spec)
    assert bench.losses == []


async def test_the_end_of_the_ladder_is_a_failure_that_says_where_it_was(bench: Bench) -> None:
    outcome = await bench.make("oom", fallback="never")
    assert isinstance(outcome, GenerationFailure)
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
        await bench.generator.close()
    assert isinstance(clip, Clip)
    assert clip.rung == rungs[3]
    assert [(step.rung, step.stage) for step in clip.steps_down] == [
        (rungs[0], "predicted"),
        (rungs[1], "predicted"),
        (rungs[2], "denoise"),
    ]
    assert "GB may be used" in clip.steps_down[0].detail
    assert clip.steps_down[2].free == predicted(rungs[2])
    assert [news for news in bench.news if isinstance(news, StepDown)] == list(clip.steps_down)


@pytest.mark.parametrize(("word", "retry"), [("fail", False), ("retry", True)])
async def test_a_failure_says_whether_a_retry_may_help(
    bench: Bench, word: str, retry: bool
) -> None:
    outcome = await bench.make(word)
    assert isinstance(outcome, GenerationFailure)
    assert (outcome.kind, outcome.retry) == ("failed", retry)
    assert bench.losses == []
    assert "spoilt" in outcome.reason
    assert "decode" in outcome.reason


def replaced(bench: Bench) -> list[str]:
    return [loss.cause for loss in bench.losses]


async def test_fragmented_memory_costs_a_worker_once_and_no_smaller_clip() -> None:
    bench = Bench()
    clip = await bench.make("fragmented")  # each child says so to its first request
    assert isinstance(clip, GenerationFailure)
    assert clip.kind == "memory"
    tried = [news.rung for news in bench.news if isinstance(news, StepDown)]
    assert tried == list(order("").ladder)
    assert replaced(bench) == ["fragmentation"]
    assert "2000 MB were asked for and 3000 MB idle" in bench.losses[0].reason
    loads = [news for news in bench.news if isinstance(news, Loaded)]
    assert len(loads) == 2
    await bench.generator.close()


async def test_memory_that_does_not_come_back_means_a_new_child(bench: Bench) -> None:
    clip = await bench.make("leaky")
    assert isinstance(clip, Clip)
    assert bench.generator.pid is None
    assert replaced(bench) == ["leak"]
    assert isinstance(await bench.make("made"), Clip)


async def test_a_leak_on_the_way_down_means_a_new_child_on_the_next_rung(bench: Bench) -> None:
    outcome = await bench.make("leaky-oom", fallback="never")
    assert isinstance(outcome, GenerationFailure)
    assert outcome.kind == "memory"
    rungs = len(order("", "never").ladder)
    assert replaced(bench) == ["leak"] * rungs
    assert [news.rung for news in bench.news if isinstance(news, StepDown)] == list(
        order("", "never").ladder
    )


async def test_a_refused_clip_is_made_once_more_with_another_seed(bench: Bench) -> None:
    clip = await bench.make("oom spoilt oom made")
    assert isinstance(clip, Clip)
    asked = order("")
    assert clip.seed == retry_seed(asked.spec.seed) != asked.spec.seed
    assert (asked.spec.speed, clip.speed) == ("fast", "exact")
    assert clip.refused == "all is black"
    assert [step.rung for step in clip.steps_down] == list(asked.ladder[:2])
    assert clip.rung == asked.ladder[2]
    assert [news.flaw for news in bench.news if isinstance(news, QualityRejected)] == ["black"]
    assert bench.losses == []


async def test_a_clip_that_is_refused_twice_is_given_up(bench: Bench) -> None:
    outcome = await bench.make("spoilt")
    assert isinstance(outcome, GenerationFailure)
    assert (outcome.kind, outcome.retry) == ("quality", False)
    assert "all is black; then all is black" in outcome.reason
    assert len([news for news in bench.news if isinstance(news, QualityRejected)]) == 2


async def test_the_second_try_is_made_in_a_safer_type_and_the_next_clip_as_usual() -> None:
    bench = Bench(dtype="float16")
    clip = await bench.make("spoilt made")
    assert isinstance(clip, Clip)
    assert clip.loaded.dtype == "bfloat16"
    usual = await bench.make("made")
    assert isinstance(usual, Clip)
    assert usual.loaded.dtype == "float16"
    assert usual.refused is None
    assert usual.speed == "fast"
    loads = [news.dtype for news in bench.news if isinstance(news, Loaded)]
    assert loads == ["float16", "bfloat16", "float16"]
    await bench.generator.close()


@pytest.mark.parametrize(
    ("word", "cause", "says"),
    [
        ("die", "crash", "exit code 7: peer: my last words (in denoise)"),
        ("kill", "killed", "SIGKILL"),
        ("lost", "device", "unspecified launch failure (in denoise)"),
        ("rubbish", "channel", "rubbish"),
        ("out-of-turn", "channel", "out of turn"),
    ],
)
async def test_a_lost_child_is_told_and_replaced(
    bench: Bench, word: str, cause: str, says: str
) -> None:
    outcome = await bench.make(word)
    assert isinstance(outcome, GenerationFailure)
    assert (outcome.kind, outcome.retry) == ("lost", True)
    assert says in outcome.reason
    assert [(loss.cause, loss.reason) for loss in bench.losses] == [(cause, outcome.reason)]
    assert isinstance(await bench.make("made"), Clip)


async def test_a_child_that_the_kernel_shot_is_told_from_one_that_somebody_killed(
    bench: Bench,
) -> None:
    making = asyncio.create_task(bench.make("hang"))
    await bench.until_working()
    bench.oom_kills += 1
    assert bench.generator.pid is not None
    os.kill(bench.generator.pid, signal.SIGKILL)
    outcome = await making
    assert isinstance(outcome, GenerationFailure)
    assert "the kernel killed the worker (in denoise)" in outcome.reason
    assert [loss.cause for loss in bench.losses] == ["host_memory"]


@pytest.mark.parametrize(("shot", "cause"), [(0, "killed"), (1, "host_memory")])
async def test_a_child_that_dies_between_two_clips_costs_neither(
    bench: Bench, shot: int, cause: str
) -> None:
    assert isinstance(await bench.make("made"), Clip)
    assert bench.generator.pid is not None
    os.kill(bench.generator.pid, signal.SIGKILL)
    bench.oom_kills += shot
    await asyncio.sleep(0.5)
    assert isinstance(await bench.make("made"), Clip)
    assert [loss.cause for loss in bench.losses] == [cause]


@pytest.mark.parametrize(
    ("bench", "cause", "says"),
    [
        (Bench("broken"), "load", "no such model"),
        (Bench("dies"), "crash", "cannot import torch (in load)"),
        (Bench("hangs", load=0.3), "hang", "hung in load"),
        (Bench(mute=True, start=0.3), "hang", "hung in start"),
    ],
    ids=["broken", "dies", "hangs", "mute"],
)
async def test_a_child_that_never_gets_ready_is_no_fault_of_the_clip(
    bench: Bench, cause: str, says: str
) -> None:
    outcome = await bench.make("made")
    assert isinstance(outcome, GenerationFailure)
    assert outcome.kind == "load"
    assert says in outcome.reason
    assert [loss.cause for loss in bench.losses] == [cause]
    assert bench.generator.pid is None


async def test_a_child_that_is_silent_too_long_is_killed() -> None:
    bench = Bench(denoise=0.3)
    assert isinstance(await bench.make("made"), Clip)
    pid = bench.generator.pid
    assert pid is not None
    outcome = await bench.make("hang")
    assert isinstance(outcome, GenerationFailure)
    assert outcome.kind == "lost"
    assert "hung in denoise" in outcome.reason
    assert [loss.cause for loss in bench.losses] == ["hang"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_cancel_ends_the_clip_and_keeps_the_child(bench: Bench) -> None:
    making = asyncio.create_task(bench.make("wait"))
    await bench.until_working()
    await bench.generator.cancel("1")
    outcome = await making
    assert isinstance(outcome, GenerationFailure)
    assert outcome.kind == "cancelled"
    assert bench.losses == []


async def test_a_cancel_that_is_repeated_ends_a_child_that_stands_still(bench: Bench) -> None:
    making = asyncio.create_task(bench.make("wait"))
    await bench.until_working()
    assert bench.generator.pid is not None
    os.kill(bench.generator.pid, signal.SIGSTOP)
    async with asyncio.timeout(5):  # less than the grace after SIGTERM, which it cannot heed
        while not making.done():
            await bench.generator.cancel("1")
            await asyncio.sleep(0.1)
    outcome = await making
    assert isinstance(outcome, GenerationFailure)
    assert outcome.kind == "cancelled"
    assert bench.losses == []
    assert isinstance(await bench.make("made"), Clip)


async def test_a_cancel_that_is_repeated_spares_a_child_that_works() -> None:
    bench = Bench(model="slow")
    making = asyncio.create_task(bench.make("made"))
    while not bench.news:
        await asyncio.sleep(0.01)
    pid = bench.generator.pid
    for _ in range(3):
        await bench.generator.cancel("1")
    outcome = await making
    assert isinstance(outcome, GenerationFailure)
    assert outcome.kind == "cancelled"
    assert bench.generator.pid == pid
    await bench.generator.close()


async def test_a_cancel_that_comes_while_the_model_loads_is_not_lost() -> None:
    bench = Bench(model="slow")
    making = asyncio.create_task(bench.make("made"))
    while not bench.news:
        await asyncio.sleep(0.01)
    await bench.generator.cancel("1")
    outcome = await making
    assert isinstance(outcome, GenerationFailure)
    assert outcome.kind == "cancelled"
    assert isinstance(await bench.make("made"), Clip)
    await bench.generator.close()


async def test_kill_ends_whatever_is_going_on(bench: Bench) -> None:
    making = asyncio.create_task(bench.make("hang"))
    await bench.until_working()
    await bench.generator.kill("1")
    outcome = await making
    assert isinstance(outcome, GenerationFailure)
    assert outcome.kind == "ended"
    assert bench.losses == []
    assert isinstance(await bench.make("made"), Clip)


async def test_a_child_that_cannot_start_has_died() -> None:
    child = await Child.spawn("no.such.module", lambda _: None, os.environ)
    answer = await child.receive(30)
    assert isinstance(answer, Exited)
    assert "exit code 1" in str(answer)
    assert "no" in str(answer)
    await child.kill()


async def test_an_orphan_ends_with_its_channel() -> None:
    child = await Child.spawn("tests.pipeline.peer", lambda _: None, ENV)
    assert isinstance(await child.receive(30), Hello)
    assert isinstance(await child.receive(0.05), TimedOut)
    await child.close()
    assert not child.alive


async def test_ctrl_c_in_the_terminal_does_not_reach_a_child() -> None:
    child = await Child.spawn("tests.pipeline.peer", lambda _: None, ENV)
    assert isinstance(await child.receive(30), Hello)
    assert os.getpgid(child.pid) != os.getpgid(0)
    os.kill(child.pid, signal.SIGINT)
    assert isinstance(await child.receive(0.2), TimedOut)
    await child.close()
