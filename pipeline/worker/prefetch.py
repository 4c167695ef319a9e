"""Prefetch: embeds the prompts and picture of the next clip while another is on the device.

It runs in its own thread and, on a GPU, on its own stream. The embeddings go to the model's
embedding cache. On an error the clip itself embeds them again and reports the error.
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
    """Embeds in one thread, one clip after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._last: Future[None] | None = None
        self._stream: torch.cuda.Stream | None = None

    def begin(self, model: LoadedModel, request: Embed) -> None:
        """Start to embed the prompts and picture of the next clip."""
        self._last = self._thread.submit(self._embed, model, request)

    def wait(self) -> None:
        """Wait until the last clip is embedded."""
        if self._last is not None:
            self._last.result()

    def _embed(self, model: LoadedModel, request: Embed) -> None:
        since = trace.now()
        try:
            with torch.no_grad(), self._own_stream(model.device):
                picture = read_picture(Path(request.picture), request.width, request.height)
                embed(model, picture, prompts_of(request.spec))
        except Exception as error:
            if not is_out_of_memory(error):
                print(f"prefetch failed: {first_line(error)}", file=sys.stderr)
        trace.note("embed", request.job, since)

    @contextmanager
    def _own_stream(self, device: torch.device) -> Iterator[None]:
        """Run GPU work on a separate stream within the context.

        The stream is reused, because cuBLAS keeps a workspace for each stream.
        """
        if device.type != "cuda":
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device), torch.cuda.stream(self._stream):
            yield
