"""The real child process, driven over its channel as the daemon does."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from daemon.cli.bench_timeline import stretches
from pipeline.children.protocol import EXIT_DEVICE_LOST, Cancel, Embed, Generate, Load, QueryMemory
from pipeline.memory.modes import Mode
from tests.pipeline.worker.kit import Peer, a_picture
from tests.system import disks

pytestmark = pytest.mark.slow

Start = Callable[..., Peer]
Order = Callable[..., Generate]

STAGES = ("condition", "denoise", "decode", "encode_video")
FAULTS = ";".join(
    [
        *(f"oom:{stage}:no-{stage}" for stage in STAGES),
        "fragmented:denoise:pieces",
        "fail:denoise:poison",
        "slow:encode_video:dawdling",
    ]
)
"""Fault injection by a word of the prompt."""


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    peer = Peer(tmp_path_factory.mktemp("lasting"), I2VD_TESTING="1", I2VD_TEST_FAULT=FAULTS)
    peer.load()
    yield peer
    peer.end()


@pytest.fixture
def resident(lasting: Peer) -> Peer:
    """A worker with a loaded model, shared by the tests that it survives."""
    lasting.progress.clear()
    return lasting


def test_load_make_and_end(worker: Start, order: Order, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    peer = worker(I2VD_TIMELINE=str(trace))
    loaded = peer.load()
    assert (loaded.type, loaded.device, loaded.memory) == ("loaded", "cpu", None)
    assert len(loaded.weights) == 64
    assert loaded.versions.keys() >= {"torch", "diffusers", "transformers", "av"}
    assert peer.progress[0][0] == "start"
    peer.progress.clear()

    asked = order(prompt='pan "left" ü')
    peer.send(asked)
    made = peer.final()

    assert made.type == "clip_done"
    assert list(dict.fromkeys(s for s, *_ in peer.progress)) == [
        *("condition", "denoise", "decode", "encode_video")
    ]
    assert [p for p in peer.progress if p[0] == "denoise"] == [
        ("denoise", n, 10) for n in range(11)
    ]
    with av.open(str(Path(asked.staging) / "clip.mp4")) as container:
        assert container.metadata["title"] == 'pan "left" ü'
        assert container.metadata["description"] == "AI-generated"
        facts = json.loads(container.metadata["comment"])
    assert facts["seed"] == 5
    assert facts["model"] == "micro"
    assert facts["weights"] == loaded.weights
    assert peer.close() == 0
    told = list(dict.fromkeys(each.stage for each in stretches(closed(trace))))
    assert told == ["condition", "denoise", "decode", "encode_video"]


def closed(trace: Path) -> Path:
    trace.write_text(trace.read_text() + "{}]")
    return trace


def test_the_oom_killer_prefers_the_worker(resident: Peer) -> None:
    def score(pid: int | str) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    assert score(resident.process.pid) >= 500 > score("self")


def test_same_spec_same_file_in_two_processes(worker: Start, resident: Peer, order: Order) -> None:
    fresh = worker()
    fresh.load()
    digests = set()
    for peer in (resident, fresh):
        peer.send(order())
        digests.add(peer.final().output.sha256)
    assert len(digests) == 1


def test_cancel_between_two_steps_and_continue(resident: Peer, order: Order) -> None:
    peer = resident
    peer.send(order(steps=100))
    while (reply := peer.receive()).type == "progress" and reply.stage != "denoise":
        pass
    peer.send(Cancel(job="job"))
    assert peer.final().type == "cancelled"
    assert len(peer.progress) < 50

    peer.send(Cancel(job="job"))  # too late for the last, too early for the next: means nothing
    peer.send(order())
    assert peer.final().type == "clip_done"


def test_the_worker_exits_when_its_parent_is_gone(worker: Start, order: Order) -> None:
    peer = worker()
    peer.load()
    peer.send(order(steps=100))
    peer.receive()
    assert peer.close() == 0


def test_an_invalid_request_fails_with_a_reason(worker: Start, order: Order) -> None:
    peer = worker()
    assert peer.receive().type == "hello"
    peer.send(order())
    refused = peer.final()
    assert (refused.type, refused.retry) == ("failed", False)

    peer.send(Load(model="nobody/nothing", device="cpu", dtype="float32"))
    failed = peer.final()
    assert failed.stage == "load"
    assert "i2vd model pull nobody/nothing" in failed.reason
    peer.send(Load(model="micro", device="cuda", dtype="float16"))
    assert "the device 'cuda' cannot be used" in peer.final().reason

    peer.send(Load(model="micro", device="cpu", dtype="float32"))
    assert peer.final().type == "loaded"
    peer.send(order(width=33))
    refused = peer.final()
    assert (refused.retry, refused.reason) == (False, "width 33 is not a multiple of 8")
    peer.send(order())
    assert peer.final().type == "clip_done"


@pytest.mark.parametrize("stage", STAGES)
def test_out_of_memory_in_any_stage_and_continue(resident: Peer, order: Order, stage: str) -> None:
    resident.send(order(mode=Mode.RESIDENT, prompt=f"no-{stage}"))
    reply = resident.final()
    assert (reply.type, reply.stage) == ("out_of_memory", stage)
    resident.send(order(mode=Mode.CHUNKED))
    assert resident.final().type == "clip_done"


def test_the_worker_enforces_the_budget(worker: Start, order: Order) -> None:
    peer = worker()
    peer.load(max_memory=3_000_000)
    peer.send(QueryMemory())
    assert peer.final().free == 3_000_000
    peer.send(order(mode=Mode.RESIDENT, width=64, height=64))
    reply = peer.final()
    assert reply.type == "out_of_memory"
    assert "the budget is 3000000" in reply.detail
    more = 100_000_000
    peer.send(Load(model="micro", device="cpu", dtype="float32", max_memory=more))
    assert peer.final().type == "loaded"
    peer.send(QueryMemory())
    assert peer.final().free == more
    peer.send(order())
    assert 0 < peer.final().peak_memory <= more


def test_figures_of_the_allocator_are_reported(resident: Peer, order: Order) -> None:
    resident.send(order(prompt="in pieces"))
    reply = resident.final()
    assert (reply.type, reply.stage) == ("out_of_memory", "denoise")
    assert reply.requested == 3 << 29
    assert reply.allocated == 17 << 28
    assert reply.reserved - reply.allocated == int(3.2 * (1 << 30))


def test_leaked_memory_is_reported(worker: Start, order: Order, tmp_path: Path) -> None:
    token, size = tmp_path / "leak", {"width": 16, "height": 16}
    peer = worker(I2VD_TESTING="1", I2VD_TEST_FAULT=f"leak:denoise:{token}")
    peer.load(max_memory=2_000_000_000)
    for mode in Mode:
        peer.send(order(mode=mode, **size))
        reply = peer.final()
        assert reply.type == "clip_done"
        assert (peer.leaked_bytes or 0) < 1_000_000, mode
    token.touch()
    peer.send(order(**size))
    assert peer.final().type == "clip_done"
    assert peer.leaked_bytes > 300 << 20


def test_a_failure_is_reported_and_survived(resident: Peer, order: Order) -> None:
    resident.send(order(prompt="a poison prompt"))
    reply = resident.final()
    assert (reply.type, reply.stage, reply.retry) == ("failed", "denoise", True)
    assert "on purpose" in reply.reason
    resident.send(order())
    assert resident.final().type == "clip_done"


@pytest.mark.parametrize(("fault", "code"), [("die", -9), ("lost", EXIT_DEVICE_LOST)])
def test_a_death_is_silent(worker: Start, order: Order, fault: str, code: int) -> None:
    peer = worker(I2VD_TESTING="1", I2VD_TEST_FAULT=f"{fault}:decode")
    peer.load()
    peer.send(order())
    assert peer.final() is None
    assert peer.process.wait(20) == code


def test_a_hang_is_silent(worker: Start, order: Order) -> None:
    peer = worker(I2VD_TESTING="1", I2VD_TEST_FAULT="hang:condition")
    peer.load()
    peer.send(order())
    with pytest.raises(TimeoutError):
        while True:
            peer.receive(2.0)


def test_faults_are_for_tests_only(worker: Start) -> None:
    peer = worker(I2VD_TEST_FAULT="die:denoise")
    peer.load()
    assert peer.process.wait(20) == 1
    assert "I2VD_TESTING" in peer.log()


def test_a_full_disk_is_reported_and_the_worker_continues(
    resident: Peer, order: Order, tmp_path: Path
) -> None:
    peer = resident
    with disks.tmpfs(tmp_path / "full", size="64k") as folder:
        disks.fill(folder, leave=0)
        peer.send(order().model_copy(update={"staging": str(folder)}))
        failed = peer.final()
        assert (failed.type, failed.disk, failed.retry) == ("failed", True, True)
        assert "No space left" in failed.reason
    peer.send(order())
    assert peer.final().type == "clip_done"


def test_a_clip_is_written_while_the_next_is_generated(worker: Start, order: Order) -> None:
    """A clip that hangs in the video thread blocks only the writing of the next one."""
    peer = worker(I2VD_TESTING="1", I2VD_TEST_FAULT="hang:encode_video:stuck")
    peer.load()
    peer.send(order(prompt="stuck").model_copy(update={"job": "1"}))
    while peer.receive().type != "frames_ready":
        pass
    peer.send(order().model_copy(update={"job": "2"}))
    stages = set()
    while "decode" not in stages:
        reply = peer.receive()
        if reply.job == "2":
            stages.add(reply.stage)
    peer.end()


def test_prefetch_embeds_the_next_clip_while_one_is_on_the_device(
    worker: Start, resident: Peer, order: Order, tmp_path: Path
) -> None:
    """And both come out as they do without."""
    trace, small = tmp_path / "trace.json", {"width": 16, "height": 16}
    peer = worker(I2VD_TIMELINE=str(trace))
    peer.load()
    a_picture(32, 32).rotate(90).save(tmp_path / "other.png")
    asked = order(picture=tmp_path / "other.png", prompt="zoom in", guidance=3.0, **small)
    following = asked.model_copy(update={"job": "2"})
    ahead = {key: getattr(following, key) for key in ("job", "spec", "width", "height", "picture")}
    digests = []
    for each in (order(steps=20, **small).model_copy(update={"job": "1"}), following):
        peer.send(each)
        while (reply := peer.receive()).type != "frames_ready":
            if reply.job == "1" and (reply.stage, reply.step) == ("denoise", 1):
                peer.send(Embed(**ahead))
        digests.append(peer.final().output.sha256)
    assert peer.close() == 0

    timeline = {(each.job, each.stage): each for each in stretches(closed(trace))}
    embedded, denoised = timeline["2", "embed"], timeline["1", "denoise"]
    assert denoised.begin < embedded.begin < denoised.end
    for each, digest in zip((order(steps=20, **small), asked), digests, strict=True):
        resident.send(each)
        assert resident.final().output.sha256 == digest
    assert "prefetch failed" not in peer.log()


def test_a_failed_prefetch_fails_only_its_own_clip(
    resident: Peer, order: Order, tmp_path: Path
) -> None:
    peer = resident
    asked = order()
    peer.send(asked)
    spoilt = {"job": "2", "picture": str(tmp_path / "none.png")}
    peer.send(Embed(spec=asked.spec, width=asked.width, height=asked.height, **spoilt))
    assert peer.final().type == "clip_done"
    assert "prefetch failed: the prepared picture cannot be read" in peer.log()
    peer.send(asked.model_copy(update=spoilt))
    refused = peer.final()
    assert (refused.type, refused.job, refused.retry) == ("failed", "2", False)


def test_a_clip_is_cancelled_while_it_is_written(resident: Peer, order: Order) -> None:
    peer = resident
    peer.send(order(prompt="dawdling").model_copy(update={"job": "1"}))
    while peer.receive().type != "frames_ready":
        pass
    peer.send(Cancel(job="1"))
    reply = peer.final()
    assert (reply.type, reply.job) == ("cancelled", "1")
    peer.send(order().model_copy(update={"job": "2"}))
    reply = peer.final()
    assert (reply.type, reply.job) == ("clip_done", "2")
