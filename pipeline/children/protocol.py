"""What the daemon and its two children say to each other: JSON lines on a private descriptor.

The picture child answers Inspect and Prepare; the worker answers Load, Survey and Make. Each
request gets exactly one final message; after it the child is ready for the next. Progress may come
before it, and is the heartbeat: a child that is silent for longer than its stage's limit is hung.

A Make has two halves, so that the device need not wait for the MP4. When the frames are there
Filmed comes, and the worker is ready for the next Make; Made, or why there is no clip, follows
while that one is under way. Embed says of one that will follow soon what can be made ahead. What is
said of a job bears its name.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from pipeline.memory.modes import Mode
from pipeline.quality import FlawKind, Measurements, QualityLimits
from pipeline.request.spec import Framing, Spec

CHANNEL_FD = "I2VD_CHANNEL"
"""Name of the variable that holds the number of the child's end of the channel."""

Dtype = Literal["float16", "bfloat16", "float32"]

Stage = Literal["start", "load", "encode", "denoise", "decode", "write"]
"""Stages of an attempt in their order; "encode" is prompt and picture, "write" the MP4."""

HEARTBEAT_TIMEOUTS: dict[Stage, float] = {
    "start": 120.0,
    "load": 900.0,
    "encode": 120.0,
    "denoise": 300.0,
    "decode": 300.0,
    "write": 120.0,
}
"""Seconds without a message after which a child in this stage is taken for hung."""


PREVIEW_FRAMES = 8
"""Frames of a preview, from the clip's first to its last."""

MAX_POSTER_BYTES = 64 * 1024
"""Bytes of a clip's poster, at most."""

EXIT_DEVICE_LOST = 70
"""The worker's exit code after an error that no later work in its context would survive."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# --- to the picture child


class Inspect(_Message):
    """Decode the file to its end and say what it is."""

    type: Literal["inspect"] = "inspect"
    path: str
    within: str = ""
    """No link below this folder is followed; empty: only the file itself must be none."""


class Prepare(_Message):
    """Decode the file again, frame it to width x height pixels and write a clean PNG."""

    type: Literal["prepare"] = "prepare"
    path: str
    within: str = ""
    sha256: str
    width: int
    height: int
    framing: Framing
    output: str


# --- from the picture child


class Inspected(_Message):
    """A whole, sound picture; width and height in pixels after orientation, `size` in bytes."""

    type: Literal["inspected"] = "inspected"
    sha256: str
    size: int
    width: int
    height: int
    format: str
    caption: str = ""


class Prepared(_Message):
    """The clean PNG is written and fsynced."""

    type: Literal["prepared"] = "prepared"


class Rejected(_Message):
    """The file is not a picture we can use; `gone` when it vanished or holds other bytes now."""

    type: Literal["rejected"] = "rejected"
    reason: str
    gone: bool = False


# --- to the worker


class Load(_Message):
    """Load the model: "micro", a folder in diffusers layout, or a hub id that was pulled before."""

    type: Literal["load"] = "load"
    model: str
    device: str
    dtype: Dtype
    max_memory: int | None = None
    """Bytes of the device's memory that may be used; on a CPU they are counted and kept to."""


class QueryMemory(_Message):
    """How much of the device's memory may a clip have now?"""

    type: Literal["query_memory"] = "query_memory"


class Generate(_Message):
    """Make one clip from the clean PNG at `picture`; leave it as `clip.mp4` in `staging`.

    Beside it may lie `poster.jpg`, its first frame, small.
    """

    type: Literal["generate"] = "generate"
    job: str
    spec: Spec
    mode: Mode
    width: int
    height: int
    frames: int
    picture: str
    staging: str
    limits: QualityLimits = QualityLimits()


class Embed(_Message):
    """Embed the prompts and the picture of a Make that will follow. It gets no answer."""

    type: Literal["embed"] = "embed"
    job: str
    spec: Spec
    width: int
    height: int
    picture: str


class Cancel(_Message):
    """Give up this job's clip at its next step. It gets no answer of its own."""

    type: Literal["cancel"] = "cancel"
    job: str


# --- from the worker


class Hello(_Message):
    """First message of any child: its channel is open. The worker imports torch when it loads."""

    type: Literal["hello"] = "hello"


class Loaded(_Message):
    """The model is on the device. `weights` is the sha256 over the weight files' digests."""

    type: Literal["loaded"] = "loaded"
    model: str
    weights: str
    dtype: Dtype
    device: str
    device_name: str
    memory: int | None
    """Bytes of the device in all; None on a CPU."""
    versions: dict[str, str]
    seconds: float


class FreeMemory(_Message):
    """Bytes that a clip may have: what is free, and what the worker holds already. Final.

    None where the device's memory is not counted.
    """

    type: Literal["free_memory"] = "free_memory"
    free: int | None


class _OfJob(_Message):
    job: str = ""
    """Whom it concerns; empty: no job, but a Load."""


class Progress(_OfJob):
    """Still at work: `step` of `steps` within `stage` is done.

    `preview` is how the clip looks so far: a JPEG of PREVIEW_FRAMES frames side by side.
    """

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    type: Literal["progress"] = "progress"
    stage: Stage
    step: int
    steps: int
    preview: bytes | None = None


class Output(BaseModel):
    """The MP4, as it was read back: size in bytes, duration in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    size: int
    codec: str
    width: int
    height: int
    frames: int
    fps: int
    duration: float


class Released(_OfJob):
    """The device is ready for the next Make."""

    leaked_bytes: int | None = None
    """Bytes on the device that are no weights, once all is released; None where nobody counts."""


class FramesReady(Released):
    """The frames are there, and no longer need the device; how it ends follows."""

    type: Literal["frames_ready"] = "frames_ready"


class ClipDone(_OfJob):
    """The clip is in staging as `clip.mp4`, checked and fsynced. Final."""

    type: Literal["clip_done"] = "clip_done"
    output: Output
    measurements: Measurements
    seconds: dict[str, float]
    """Seconds per stage."""
    peak_memory: int | None
    """Most bytes reserved on the device; None where the device does not count them."""


class OutOfMemory(Released):
    """The device's memory did not suffice in `stage`; what was held is released. Final.

    In bytes, where the allocator told them: what was asked of it at last, what was in use then, and
    what it had reserved.
    """

    type: Literal["out_of_memory"] = "out_of_memory"
    stage: Stage
    detail: str
    requested: int | None = None
    allocated: int | None = None
    reserved: int | None = None


class QualityRejected(Released):
    """What came out is no clip. Where there are figures, it is in staging for a look. Final."""

    type: Literal["quality_rejected"] = "quality_rejected"
    stage: Stage
    flaw: FlawKind
    reason: str
    measurements: Measurements | None = None


class Failed(Released):
    """The request could not be done; `retry` says whether another try may help. Final."""

    type: Literal["failed"] = "failed"
    stage: Stage
    reason: str
    retry: bool
    disk: bool = False
    """The folder could not be written, which is not the request's fault."""


class Cancelled(Released):
    """Given up as asked. Final."""

    type: Literal["cancelled"] = "cancelled"


Request = Annotated[
    Inspect | Prepare | Load | QueryMemory | Generate | Embed | Cancel, Field(discriminator="type")
]
Reply = Annotated[
    Hello
    | Inspected
    | Prepared
    | Rejected
    | Loaded
    | FreeMemory
    | Progress
    | FramesReady
    | ClipDone
    | QualityRejected
    | OutOfMemory
    | Failed
    | Cancelled,
    Field(discriminator="type"),
]

_REQUESTS: TypeAdapter[Request] = TypeAdapter(Request)
_REPLIES: TypeAdapter[Reply] = TypeAdapter(Reply)


def dump(message: BaseModel) -> bytes:
    """One message as one line."""
    return message.model_dump_json().encode() + b"\n"


def read_request(line: bytes) -> Request:
    """Parse a line from the parent. Raises pydantic.ValidationError."""
    return _REQUESTS.validate_json(line)


def read_reply(line: bytes) -> Reply:
    """Parse a line from a child. Raises pydantic.ValidationError."""
    return _REPLIES.validate_json(line)
