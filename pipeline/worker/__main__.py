"""The GPU child: loads a model, makes clips one after the other, and ends with its channel.

    python -m pipeline.worker

torch is imported when the first Load comes, with progress told in the stage "start", so that an
import that hangs is noticed. What is below Exception is not caught: the child says nothing and
dies, and the parent reads the exit code.
"""

import contextlib
import gc
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.children.channel import Channel, ParentGone
from pipeline.children.protocol import Cancel, Embed, Failed, Generate, Load, Progress, QueryMemory
from pipeline.worker import faults, trace

if TYPE_CHECKING:
    from pipeline.worker.server import Server

_OOM_SCORE = 500
"""Of 1000; each is a thousandth of the memory more in the kernel's eyes."""


def main() -> None:
    """Serve until the parent is gone."""
    _offer()
    _quiet()
    channel = Channel.open()
    server: Server | None = None
    try:
        while True:
            request = channel.receive()
            if isinstance(request, Load):
                server = server or _server(channel)
                channel.send(server.load(request))
            elif isinstance(request, QueryMemory) and server:
                channel.send(server.query_memory())
            elif isinstance(request, Generate) and server:
                server.generate(request)
            elif isinstance(request, Cancel):
                if server:
                    server.cancel(request.job)
            elif isinstance(request, Embed):
                if server:
                    server.embed(request)
            else:
                reason = f"{request.type}: no model is loaded"
                job = request.job if isinstance(request, Generate) else ""
                channel.send(Failed(job=job, stage="start", reason=reason, retry=False))
    except ParentGone:
        sys.exit(0)


def _offer() -> None:
    """Let the kernel, short of memory, take this process before the daemon: it can be replaced."""
    place = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):
        place.write_text(str(max(_OOM_SCORE, int(place.read_text()))))


def _quiet() -> None:
    """Libraries keep their progress bars and advice to themselves; the parent shows ours."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # cuda:N is then what nvidia-smi calls N, rather than the N-th fastest card
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    # pieces of memory that can grow together: what is reserved and idle then serves any size
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)


def _server(channel: Channel) -> "Server":
    since = trace.now()
    injected = faults.from_environment()
    channel.send(Progress(stage="start", step=0, steps=2))
    for each in injected:
        each.inject("start")
    gc.disable()  # the half a million objects of the libraries stay: nobody need look through them
    import torch  # noqa: F401 (first alone, for it takes longest)

    channel.send(Progress(stage="start", step=1, steps=2))
    from pipeline.worker.server import Server

    gc.freeze()
    gc.enable()
    trace.note("start", "", since)
    channel.send(Progress(stage="start", step=2, steps=2))
    return Server(channel, injected)


if __name__ == "__main__":
    main()
