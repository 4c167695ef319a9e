"""A worker child that speaks the real protocol and does what the prompt says: for tests.

`python -m tests.pipeline.peer`. Words in the prompt, one a rung: "made", "oom", "fail", "retry",
"spoilt", "fragmented", "leaky", "leaky-oom", "die", "kill", "lost", "rubbish", "hang",
"out-of-turn", "wait", which tells on stderr what it is to embed meanwhile; the last one holds for
all further rungs. While $PEER_SICK exists, every clip fails. "film" leaves a real MP4 in staging: a
copy of the one that $PEER_FILM names, unlike any other; "posed" leaves a poster with it; "long"
does it after three seconds, "steady" as well, in nine steps of $PEER_STEP seconds that it tells;
"deadly" is "kill" where there is $PEER_DEADLY, else "film". The name of the model says how it
loads: "broken", "slow", "dies", "hangs"; and a child whose PEER is "mute" never says hello, one
whose PEER is "unready" never loads.
"""

import hashlib
import os
import select
import signal
import socket
import sys
import time
from io import BytesIO
from pathlib import Path

from PIL import Image

from pipeline.children.channel import Channel, ParentGone
from pipeline.children.protocol import (
    EXIT_DEVICE_LOST,
    Cancel,
    Cancelled,
    ClipDone,
    Embed,
    Failed,
    FramesReady,
    FreeMemory,
    Generate,
    Load,
    Loaded,
    OutOfMemory,
    Output,
    Prepared,
    Progress,
    QualityRejected,
    QueryMemory,
)
from pipeline.quality import Measurements

GB = 10**9


def main() -> None:
    if os.environ.get("PEER") == "mute":
        time.sleep(600)
    number = int(os.environ["I2VD_CHANNEL"])
    tries = 0
    try:
        channel = Channel.open()
        print("a library prints to stdout")
        print("peer: hello", file=sys.stderr)
        while True:
            match channel.receive():
                case Load() if os.environ.get("PEER") == "unready":
                    channel.send(Failed(stage="load", reason="not today", retry=True))
                case Load(model="broken"):
                    channel.send(Failed(stage="load", reason="no such model", retry=False))
                case Load(model="dies"):
                    sys.exit("peer: cannot import torch")
                case Load(model="hangs"):
                    time.sleep(600)
                case Load() as load:
                    if load.model == "slow":
                        channel.send(Progress(stage="load", step=0, steps=1))
                        time.sleep(0.5)
                    channel.send(loaded(load))
                case QueryMemory():
                    channel.send(FreeMemory(free=load.max_memory))
                case Generate() as order:
                    words = order.spec.prompt.split()
                    act(channel, words[min(tries, len(words) - 1)], order, number)
                    tries += 1
                case Embed() | Cancel():
                    pass
    except ParentGone:
        sys.exit(0)


def act(channel: Channel, word: str, order: Generate, number: int) -> None:
    if word == "deadly":
        word = "kill" if "PEER_DEADLY" in os.environ else "film"
    channel.send(Progress(job=order.job, stage="denoise", step=0, steps=10))
    if Path(os.environ.get("PEER_SICK", "/none")).exists():
        reason = "RuntimeError: could not create a primitive"
        channel.send(Failed(job=order.job, stage="denoise", reason=reason, retry=True))
        return
    match word:
        case "made":
            channel.send(FramesReady(job=order.job))
            channel.send(made(order))
        case "long" | "film" | "steady" | "posed":
            select.select([], [], [], 3.0 if word == "long" else 0.0)  # libfaketime breaks sleep
            for step in range(2, 11) if word == "steady" else ():
                select.select([], [], [], float(os.environ.get("PEER_STEP", "0.35")))
                shown = strip(step)
                channel.send(Progress(job=order.job, stage="denoise", step=step, steps=10,
                                      preview=shown))  # fmt: skip
            try:
                clip = film(channel, order, tells_stage=word == "steady")
                if word == "posed":
                    (Path(order.staging) / "poster.jpg").write_bytes(plain(48, 48, 230))
                channel.send(FramesReady(job=order.job))
                channel.send(clip)
            except OSError as error:
                channel.send(
                    Failed(
                        job=order.job,
                        stage="encode_video",
                        reason=str(error),
                        retry=True,
                        disk=True,
                    )
                )
        case "oom":
            channel.send(OutOfMemory(job=order.job, stage="denoise", detail="no room"))
        case "fragmented":
            figures = {"requested": 2 * GB, "allocated": 4 * GB, "reserved": 7 * GB}
            channel.send(OutOfMemory(job=order.job, stage="denoise", detail="no room", **figures))
        case "leaky":
            channel.send(FramesReady(job=order.job, leaked_bytes=GB))
            channel.send(made(order))
        case "leaky-oom":
            channel.send(
                OutOfMemory(job=order.job, stage="denoise", detail="no room", leaked_bytes=GB)
            )
        case "fail" | "retry":
            channel.send(
                Failed(job=order.job, stage="decode", reason="spoilt", retry=word == "retry")
            )
        case "spoilt":
            channel.send(
                QualityRejected(
                    job=order.job, stage="encode_video", flaw="black", reason="all is black"
                )
            )
        case "die":
            print("peer: my last words", file=sys.stderr)
            sys.exit(7)
        case "lost":
            print("the device is lost: CUDA error: unspecified launch failure", file=sys.stderr)
            sys.exit(EXIT_DEVICE_LOST)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "rubbish":
            socket.socket(fileno=number).send(b"{rubbish}\n")
        case "hang":
            time.sleep(600)
        case "out-of-turn":
            channel.send(Prepared())
        case "wait":
            while not isinstance(asked := channel.receive(), Cancel):
                if isinstance(asked, Embed):
                    print(f"peer: embed {asked.job}", file=sys.stderr)
            channel.send(Cancelled(job=order.job))


def strip(step: int) -> bytes:
    """A preview, another one for each step."""
    return plain(512, 64, 20 * step)


def plain(width: int, height: int, red: int) -> bytes:
    """A JPEG of one colour."""
    out = BytesIO()
    Image.new("RGB", (width, height), (red, 90, 160)).save(out, "JPEG")
    return out.getvalue()


def loaded(load: Load) -> Loaded:
    return Loaded(model=load.model, weights="w", dtype=load.dtype, device=load.device,
                  device_name="peer", memory=None, versions={}, seconds=0.0)  # fmt: skip


def made(order: Generate) -> ClipDone:
    output = Output(sha256="5" * 64, size=1, codec="h264", width=order.width, height=order.height,
                    frames=order.frames, fps=8, duration=1.0)  # fmt: skip
    figures = Measurements(black=0.0, grey=0.0, motion=9.0, similarity=1.0)
    return ClipDone(
        job=order.job, output=output, measurements=figures, seconds={}, peak_memory=None
    )


def film(channel: Channel, order: Generate, *, tells_stage: bool) -> ClipDone:
    """Leave the clip as the real worker would: a while of work, written, fsynced."""
    for step in range(int(order.job) % 4):
        select.select([], [], [], 0.05)
        channel.send(Progress(job=order.job, stage="denoise", step=step, steps=4))
    mark = os.urandom(16)
    content = Path(os.environ["PEER_FILM"]).read_bytes()
    content += (len(mark) + 8).to_bytes(4, "big") + b"free" + mark
    if tells_stage:
        channel.send(Progress(job=order.job, stage="encode_video", step=0, steps=1))
    clip = Path(order.staging) / "clip.mp4"
    with clip.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    digest = hashlib.sha256(content).hexdigest()
    facts = {"sha256": digest, "size": len(content)}
    answer = made(order)
    return answer.model_copy(update={"output": answer.output.model_copy(update=facts)})


if __name__ == "__main__":
    main()
