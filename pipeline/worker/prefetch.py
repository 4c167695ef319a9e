"""The lookahead: the next clip's prompts and picture are embedded while another is on the device.

It has a thread of its own and, on a GPU, a stream. What it makes is kept with the model, where the
clip will find it; what it could not make the clip makes, and tells what is wrong.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from pipeline.children.protocol import Embed
from pipeline.worker import trace
from pipeline.worker.diffusion.conditioning import embed, prompts_of, read_picture
from pipeline.worker.errors import first_line, is_out_of_memory
from pipeline.worker.model.loader import LoadedModel


class Prefetcher:
    """Embeds in its thread, one clip's after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lookahead")
        self._last: Future[None] | None = None
        self._stream: torch.cuda.Stream | None = None

    def begin(self, model: LoadedModel, order: Embed) -> None:
        """Embed what a clip needs that will be made soon."""
        self._last = self._thread.submit(self._embed, model, order)

    def wait(self) -> None:
        """Until nothing is being embedded."""
        if self._last is not None:
            self._last.result()

    def _embed(self, model: LoadedModel, order: Embed) -> None:
        since = trace.now()
        try:
            with torch.no_grad(), self._aside(model.device):
                picture = read_picture(Path(order.picture), order.width, order.height)
                embed(model, picture, prompts_of(order.spec))
        except Exception as error:
            if not is_out_of_memory(error):
                print(f"nothing was made ahead: {first_line(error)}", file=sys.stderr)
        trace.note("embed", order.job, since)

    @contextmanager
    def _aside(self, device: torch.device) -> Iterator[None]:
        """Within, work that is given to a GPU waits for no other, and none for it.

        The stream is always the same: cuBLAS keeps work space for each that it has seen.
        """
        if device.type != "cuda":
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device), torch.cuda.stream(self._stream):
            yield
