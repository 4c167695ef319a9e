"""Worker process: loads a model, generates clips one by one, and exits when its channel closes.

    python -m pipeline.worker

torch is imported on the first Load request. Progress in the stage "start" lets the parent notice an
import that hangs. A BaseException that is not an Exception ends the process without a reply, and
the parent reads the exit code.
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
"""Of 1000. For the OOM killer each point counts as one thousandth of the memory."""


def main() -> None:
    """Serve requests until the parent is gone."""
    _raise_oom_score()
    _configure_libraries()
    server: Server | None = None
    try:
        channel = Channel.open()
        while True:
            request = channel.receive()
            if isinstance(request, Load):
                server = server or _start_server(channel)
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


def _raise_oom_score() -> None:
    """Make the OOM killer prefer this process to the daemon, because it can be replaced."""
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):
        score.write_text(str(max(_OOM_SCORE, int(score.read_text()))))


def _configure_libraries() -> None:
    """Set environment variables of the libraries, and silence their progress bars and advice."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # number the devices as nvidia-smi does, not by speed
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    # avoids fragmentation: reserved memory that is idle then serves any size
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)


def _start_server(channel: Channel) -> "Server":
    since = trace.now()
    injected = faults.from_environment()
    channel.send(Progress(stage="start", step=0, steps=2))
    for each in injected:
        each.inject("start")
    gc.disable()  # half a million objects of the libraries stay alive; scanning them costs time
    import torch  # noqa: F401 - separate, because it takes longest

    channel.send(Progress(stage="start", step=1, steps=2))
    from pipeline.worker.server import Server

    gc.freeze()
    gc.enable()
    trace.note("start", "", since)
    channel.send(Progress(stage="start", step=2, steps=2))
    return Server(channel, injected)


if __name__ == "__main__":
    main()
