"""A worker child that speaks the real protocol and does what the prompt says: for tests.

`python -m tests.pipeline.peer`. Words in the prompt, one a rung: "made", "oom", "fail", "retry",
"spoilt", "die", "kill", "lost", "rubbish", "hang", "out-of-turn", "wait"; the last one holds for
all further rungs. The name of the model says how it loads: "broken", "slow", "dies", "hangs"; and a
child whose PEER is "mute" never says hello.
"""

import os
import signal
import socket
import sys
import time

from pipeline.channel import Channel, ParentGone
from pipeline.gate import Figures
from pipeline.protocol import (
    EXIT_DEVICE_LOST,
    Cancel,
    Cancelled,
    Failed,
    Load,
    Loaded,
    Made,
    Make,
    OutOfMemory,
    Output,
    Prepared,
    Progress,
    Spoilt,
)


def main() -> None:
    if os.environ.get("PEER") == "mute":
        time.sleep(600)
    number = int(os.environ["I2VD_CHANNEL"])
    channel = Channel.open()
    print("a library prints to stdout")
    print("peer: hello", file=sys.stderr)
    tries = 0
    try:
        while True:
            match channel.receive():
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
                case Make() as order:
                    words = order.spec.prompt.split()
                    act(channel, words[min(tries, len(words) - 1)], order, number)
                    tries += 1
                case Cancel():
                    pass
    except ParentGone:
        sys.exit(0)


def act(channel: Channel, word: str, order: Make, number: int) -> None:
    channel.send(Progress(stage="denoise", step=1, steps=10))
    match word:
        case "made":
            channel.send(made(order))
        case "oom":
            channel.send(OutOfMemory(stage="denoise", detail="no room"))
        case "fail" | "retry":
            channel.send(Failed(stage="decode", reason="spoilt", retry=word == "retry"))
        case "spoilt":
            channel.send(Spoilt(stage="write", flaw="black", reason="all is black"))
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
            while not isinstance(channel.receive(), Cancel):
                pass
            channel.send(Cancelled())


def loaded(load: Load) -> Loaded:
    return Loaded(model=load.model, weights="w", dtype=load.dtype, device=load.device,
                  device_name="peer", memory=None, versions={}, seconds=0.0)  # fmt: skip


def made(order: Make) -> Made:
    output = Output(sha256="s", size=1, codec="h264", width=order.width, height=order.height,
                    frames=order.frames, fps=8, duration=1.0)  # fmt: skip
    figures = Figures(black=0.0, grey=0.0, motion=9.0, likeness=1.0)
    return Made(output=output, figures=figures, seconds={}, peak_memory=None)


if __name__ == "__main__":
    main()
