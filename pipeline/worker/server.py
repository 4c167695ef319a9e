"""Requests become replies: whatever happens to one ends in exactly one final message.

Only a lost device ends the process instead, for nothing after it could succeed. Three clips can be
under way: one on the device, in this thread, the one before it in the finisher's, and the one after
it in the lookahead's.
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
from pipeline.children.protocol import QualityRejected as SpoiltReply
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
from pipeline.worker.video_thread import VideoThread

FailureReply = SpoiltReply | OutOfMemory | Failed | CancelledReply

_LIBRARIES = ("torch", "diffusers", "transformers", "safetensors", "av", "pillow")
_LOAD_STEPS = 6


class Server:
    """Holds the one model that is loaded."""

    def __init__(self, channel: Channel, faults: Sequence[Fault] = ()) -> None:
        self._channel = channel
        self._faults = faults
        self._model: LoadedModel | None = None
        self._budget = budget.Budget(torch.device("cpu"), None)
        self._video_thread = VideoThread()
        self._prefetcher = Prefetcher()
        self._reporters: dict[str, ProgressReporter] = {}

    def load(self, order: Load) -> Loaded | FailureReply:
        """Load a model in place of the present one."""
        self._prefetcher.wait()
        if self._model:
            self._model = None
            gc.unfreeze()
            gc.collect()
        watch = ProgressReporter(
            self._channel,
            "load",
            faults=[f for f in self._faults if not f.when],
            poll_commands=self._poll_commands,
        )
        try:
            return self._load(order, watch)
        except ParentGone:
            raise
        except Exception as error:
            reply = self._released(_reply(error, watch), watch)
        if isinstance(reply, OutOfMemory):  # no smaller rung can help here
            return Failed(stage="load", reason=reply.detail, retry=True)
        return reply

    def query_memory(self) -> FreeMemory:
        """How much of the device's memory a clip may have now."""
        return FreeMemory(free=self._budget.free())

    def generate(self, order: Generate) -> None:
        """Film one clip, and have it finished."""
        model = self._model
        if model is None:
            reason = "no model is loaded"
            self._channel.send(Failed(job=order.job, stage="start", reason=reason, retry=False))
            return
        watch = self._reporters[order.job] = ProgressReporter(
            self._channel,
            "encode",
            job=order.job,
            faults=[f for f in self._faults if f.concerns(order)],
            settle=self._settle,
            poll_commands=self._poll_commands,
        )
        try:
            with self._budget.enforced():
                film = generate_frames(model, order, watch, self._budget)
            watch.leave_device()
            self._video_thread.wait()
        except ParentGone:
            raise
        except Exception as error:
            reply = self._released(_reply(error, watch), watch)
            del self._reporters[order.job]
            self._send(reply, order.job, self._leaked_bytes(model))
            return
        self._channel.send(FramesReady(job=order.job, leaked_bytes=self._leaked_bytes(model)))
        self._video_thread.begin(partial(self._finish, film, watch))

    def embed(self, order: Embed) -> None:
        """Begin with what a clip needs that will be made soon."""
        if self._model is not None:
            self._prefetcher.begin(self._model, order)

    def cancel(self, job: str) -> None:
        """Have a clip given up at its next step, if it is still being made."""
        if watch := self._reporters.get(job):
            watch.cancelled.set()

    def _finish(self, film: RenderedFrames, watch: ProgressReporter) -> None:
        """In the finisher's thread."""
        job = film.order.job
        try:
            reply: ClipDone | FailureReply = write_clip(film, watch)
        except ParentGone:
            raise
        except Exception as error:
            reply = _reply(error, watch)
        del self._reporters[job]
        self._send(reply, job)

    def _send(self, reply: ClipDone | FailureReply, job: str, strays: int | None = None) -> None:
        told = {"job": job} if strays is None else {"job": job, "leaked_bytes": strays}
        self._channel.send(reply.model_copy(update=told))

    def _poll_commands(self) -> None:
        """Hear what the parent says while a request is being served: what gets no answer."""
        while self._channel.waiting():
            match self._channel.receive():
                case Cancel(job=job):
                    self.cancel(job)
                case Embed() as order:
                    self.embed(order)
                case request:
                    raise RuntimeError(f"{request.type} while another request is being served")

    def _leaked_bytes(self, model: LoadedModel) -> int | None:
        """Bytes on the device that are no weights, once all is released."""
        try:
            release(model.device)
        except RuntimeError:  # what is answered already holds; the next request finds out
            return None
        live = self._budget.live()
        return None if live is None else max(0, live - model.weights.device_bytes())

    def _load(self, order: Load, watch: ProgressReporter) -> Loaded:
        since = time.monotonic()
        watch.enter("load", _LOAD_STEPS)
        device = open_device(order.device)
        if device.type == "cuda":  # whatever names no device must not open a context on card 0
            torch.cuda.set_device(device)
        _set_threads(order.model)
        self._budget = budget.Budget(device, order.max_memory)
        model = load_model(
            order.model,
            order.device,
            order.dtype,
            copy=self._budget.counts,
            on_step=watch.step,
        )
        with self._budget.enforced():
            model.load_unet()
        if device.type == "cuda":
            _keep_kernels()
            fused_ops.self_test(device, model.dtype)
        self._model = model
        gc.collect()
        gc.freeze()  # no clip need look through a model either
        watch.step()
        name, memory = device_facts(device)
        return Loaded(
            model=order.model,
            weights=model.digest,
            dtype=order.dtype,
            device=order.device,
            device_name=name,
            memory=memory,
            versions={name: version(name) for name in _LIBRARIES}
            | {"python": platform.python_version()},
            seconds=round(time.monotonic() - since, 3),
        )

    def _released(self, reply: FailureReply, watch: ProgressReporter) -> FailureReply:
        """Let go of what the failed work held; an error of CUDA may only come to light here."""
        try:
            release(self._model.device if self._model else torch.device("cpu"))
        except RuntimeError as error:
            return _reply(error, watch)
        return reply

    def _settle(self) -> None:
        if self._model and self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)


def _set_threads(model: str) -> None:
    """As many as torch thinks, but one for the micro model.

    Its tensors are so small that threads mostly wait for each other: on a busy machine two took
    seven times as long as one.
    """
    if wanted := os.environ.get("I2VD_TORCH_THREADS"):
        torch.set_num_threads(int(wanted))
    elif family_of(model) is MICRO_FAMILY:
        torch.set_num_threads(1)


def _keep_kernels() -> None:
    """Have our kernels kept for the next worker; where no folder can be used, a line says why."""
    try:
        kernel_cache.set_up()
    except OSError as error:
        advice = f"have it writable, or another folder in ${kernel_cache.VARIABLE}"
        print(f"our kernels are made anew with each worker: {error}; {advice}", file=sys.stderr)


def _reply(error: Exception, watch: ProgressReporter) -> FailureReply:
    """What an error means to the parent. A lost device ends the process."""
    if isinstance(error, Cancelled):
        return CancelledReply()
    if isinstance(error, QualityFailure):
        return SpoiltReply(
            stage=watch.stage,
            flaw=error.flaw.kind,
            reason=error.flaw.reason,
            measurements=error.figures,
        )
    if is_device_lost(error):
        print(f"the device is lost: {first_line(error)}", file=sys.stderr)
        sys.exit(EXIT_DEVICE_LOST)  # once the finisher, which needs no device, is done
    if is_out_of_memory(error):
        told = parse_shortage(error)
        figures = told._asdict() if told else {}
        return OutOfMemory(stage=watch.stage, detail=first_line(error), **figures)
    final = isinstance(error, (SettingsRefused, ModelUnusable))
    if not final:
        sys.excepthook(type(error), error, error.__traceback__)
    reason = first_line(error) if final else f"{type(error).__name__}: {first_line(error)}"
    return Failed(stage=watch.stage, reason=reason, retry=not final, disk=is_disk(error))
