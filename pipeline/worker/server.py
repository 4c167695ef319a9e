"""Request server: each request ends in exactly one final reply.

Only a lost device ends the process instead, because no later request could succeed. Three clips can
be in progress: one on the device in this thread, the previous one in the video thread, and the next
one in the prefetch thread.
"""

import gc
import os
import platform
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version

import torch

from pipeline.checkpoint.layout import ModelUnusable
from pipeline.children.channel import Channel, ParentGone
from pipeline.children.protocol import (
    EXIT_DEVICE_LOST,
    Cancel,
    ClipDone,
    Embed,
    Failed,
    FramesReady,
    FreeMemory,
    Generate,
    Load,
    Loaded,
    OutOfMemory,
)
from pipeline.children.protocol import Cancelled as CancelledReply
from pipeline.children.protocol import QualityRejected as QualityRejectedReply
from pipeline.request.presets import MICRO_FAMILY, family_of
from pipeline.worker.diffusion.decode import release
from pipeline.worker.errors import (
    Cancelled,
    QualityFailure,
    SettingsRefused,
    first_line,
    is_device_lost,
    is_disk,
    is_out_of_memory,
    parse_shortage,
)
from pipeline.worker.faults import Fault
from pipeline.worker.generate import RenderedFrames, generate_frames, write_clip
from pipeline.worker.memory import budget
from pipeline.worker.model.loader import LoadedModel, device_facts, load_model, open_device
from pipeline.worker.optimizations import fused_ops, kernel_cache
from pipeline.worker.prefetch import Prefetcher
from pipeline.worker.progress import ProgressReporter
from pipeline.worker.self_test import self_test
from pipeline.worker.video_thread import VideoThread

FailureReply = QualityRejectedReply | OutOfMemory | Failed | CancelledReply

_LIBRARIES = ("torch", "diffusers", "transformers", "safetensors", "av", "pillow")
_LOAD_STEPS = 6


class Server:
    """Holds the loaded model and serves requests for it."""

    def __init__(self, channel: Channel, faults: Sequence[Fault] = ()) -> None:
        self._channel = channel
        self._faults = faults
        self._model: LoadedModel | None = None
        self._budget = budget.Budget(torch.device("cpu"), None)
        self._video_thread = VideoThread()
        self._prefetcher = Prefetcher()
        self._reporters: dict[str, ProgressReporter] = {}

    def load(self, request: Load) -> Loaded | FailureReply:
        """Replace the loaded model. Out-of-memory is a final failure: no smaller rung can help."""
        self._prefetcher.wait()
        if self._model:
            self._model = None
            gc.unfreeze()
            gc.collect()
        progress = ProgressReporter(
            self._channel,
            "load",
            faults=[f for f in self._faults if not f.when],
            poll_commands=self._poll_commands,
        )
        try:
            return self._load(request, progress)
        except ParentGone:
            raise
        except Exception as error:
            reply = self._release_after(_reply(error, progress), progress)
        if isinstance(reply, OutOfMemory):
            return Failed(stage="load", reason=reply.detail, retry=True)
        return reply

    def query_memory(self) -> FreeMemory:
        """Return the memory of the device that a clip may use now, in bytes."""
        return FreeMemory(free=self._budget.free())

    def generate(self, request: Generate) -> None:
        """Generate the frames of a clip, then write it in the video thread."""
        model = self._model
        if model is None:
            reason = "no model is loaded"
            self._channel.send(Failed(job=request.job, stage="start", reason=reason, retry=False))
            return
        progress = self._reporters[request.job] = ProgressReporter(
            self._channel,
            "condition",
            job=request.job,
            faults=[f for f in self._faults if f.applies_to(request)],
            synchronize=self._synchronize,
            poll_commands=self._poll_commands,
        )
        try:
            with self._budget.enforced():
                rendered = generate_frames(model, request, progress, self._budget)
            progress.leave_device()
            self._video_thread.wait()
        except ParentGone:
            raise
        except Exception as error:
            reply = self._release_after(_reply(error, progress), progress)
            del self._reporters[request.job]
            self._send(reply, request.job, self._leaked_bytes(model))
            return
        self._channel.send(FramesReady(job=request.job, leaked_bytes=self._leaked_bytes(model)))
        self._video_thread.begin(partial(self._write, rendered, progress))

    def embed(self, request: Embed) -> None:
        """Start to embed the prompts and picture of the next clip in the prefetch thread."""
        if self._model is not None:
            self._prefetcher.begin(self._model, request)

    def cancel(self, job: str) -> None:
        """Cancel a clip at its next step, if it is still in progress."""
        if progress := self._reporters.get(job):
            progress.cancelled.set()

    def _write(self, rendered: RenderedFrames, progress: ProgressReporter) -> None:
        """Write a clip and send the final reply; runs in the video thread."""
        job = rendered.request.job
        try:
            reply: ClipDone | FailureReply = write_clip(rendered, progress)
        except ParentGone:
            raise
        except Exception as error:
            reply = _reply(error, progress)
        del self._reporters[job]
        self._send(reply, job)

    def _send(
        self, reply: ClipDone | FailureReply, job: str, leaked_bytes: int | None = None
    ) -> None:
        update: dict[str, object] = {"job": job}
        if leaked_bytes is not None:
            update["leaked_bytes"] = leaked_bytes
        self._channel.send(reply.model_copy(update=update))

    def _poll_commands(self) -> None:
        """Serve the requests that need no reply while another request is in progress."""
        while self._channel.waiting():
            match self._channel.receive():
                case Cancel(job=job):
                    self.cancel(job)
                case Embed() as request:
                    self.embed(request)
                case other:
                    raise RuntimeError(f"{other.type} while another request is being served")

    def _leaked_bytes(self, model: LoadedModel) -> int | None:
        """Free cached memory; return the allocated bytes that are not weights, None if unknown."""
        try:
            release(model.device)
        except RuntimeError:  # the reply is still valid; the next request will fail
            return None
        live = self._budget.live()
        return None if live is None else max(0, live - model.weights.device_bytes())

    def _load(self, request: Load, progress: ProgressReporter) -> Loaded:
        since = time.monotonic()
        progress.enter("load", _LOAD_STEPS)
        device = open_device(request.device)
        if device.type == "cuda":  # code that names no device must not open a context on GPU 0
            torch.cuda.set_device(device)
        _set_threads(request.model)
        self._budget = budget.Budget(device, request.max_memory)
        model = load_model(
            request.model,
            request.device,
            request.dtype,
            copy=self._budget.counts,
            on_step=progress.step,
        )
        with self._budget.enforced():
            model.load_unet()
        if device.type == "cuda":
            _set_up_kernel_cache()
            fused_ops.self_test(device, model.dtype)
        with self._budget.enforced():
            self_test(model)
        release(device)
        self._model = model
        gc.collect()
        gc.freeze()  # the model stays alive; scanning it for garbage costs time
        progress.step()
        name, memory = device_facts(device)
        return Loaded(
            model=request.model,
            weights=model.digest,
            dtype=request.dtype,
            device=request.device,
            device_name=name,
            memory=memory,
            versions={name: version(name) for name in _LIBRARIES}
            | {"python": platform.python_version()},
            seconds=round(time.monotonic() - since, 3),
        )

    def _release_after(self, reply: FailureReply, progress: ProgressReporter) -> FailureReply:
        """Free the memory of the failed request. A pending CUDA error may surface here."""
        try:
            release(self._model.device if self._model else torch.device("cpu"))
        except RuntimeError as error:
            return _reply(error, progress)
        return reply

    def _synchronize(self) -> None:
        if self._model and self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)


def _set_threads(model: str) -> None:
    """Set the number of CPU threads: PyTorch's default, but one for the micro model.

    Its tensors are so small that threads mostly wait for each other: on a busy machine two threads
    took seven times as long as one.
    """
    if threads := os.environ.get("I2VD_TORCH_THREADS"):
        torch.set_num_threads(int(threads))
    elif family_of(model) is MICRO_FAMILY:
        torch.set_num_threads(1)


def _set_up_kernel_cache() -> None:
    """Keep compiled kernels for the next worker; if that fails, print the reason to stderr."""
    try:
        kernel_cache.set_up()
    except OSError as error:
        advice = f"make it writable, or set ${kernel_cache.VARIABLE} to another folder"
        print(f"kernel cache disabled, each worker recompiles: {error}; {advice}", file=sys.stderr)


def _reply(error: Exception, progress: ProgressReporter) -> FailureReply:
    """Convert an error to a reply. A lost device ends the process."""
    if isinstance(error, Cancelled):
        return CancelledReply()
    if isinstance(error, QualityFailure):
        return QualityRejectedReply(
            stage=progress.stage,
            flaw=error.flaw.kind,
            reason=error.flaw.reason,
            measurements=error.figures,
        )
    if is_device_lost(error):
        print(f"the device is lost: {first_line(error)}", file=sys.stderr)
        sys.exit(EXIT_DEVICE_LOST)  # after the video thread, which needs no device
    if is_out_of_memory(error):
        shortage = parse_shortage(error)
        figures = shortage._asdict() if shortage else {}
        return OutOfMemory(stage=progress.stage, detail=first_line(error), **figures)
    final = isinstance(error, (SettingsRefused, ModelUnusable))
    if not final:
        sys.excepthook(type(error), error, error.__traceback__)
    reason = first_line(error) if final else f"{type(error).__name__}: {first_line(error)}"
    return Failed(stage=progress.stage, reason=reason, retry=not final, disk=is_disk(error))
