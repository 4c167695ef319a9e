"""Protocol between the daemon and its two children: JSON lines on a private descriptor.

The image child answers Inspect and Prepare; the worker answers Load, QueryMemory and Generate.
Each request gets exactly one final message; after it the child is ready for the next. Progress may
precede it and is the heartbeat: a child that exceeds its stage's timeout is hung.

Replies are bounded here, because a child may be in the hands of a hostile picture, or sick: what
`read_reply` returns can be stored, computed with and shown.

Generate has two halves, so that the device does not wait for the MP4. FramesReady makes the worker
ready for the next Generate. ClipDone or a failure follows, possibly during that next one. Embed
announces a Generate that will follow soon. Every message about a job has its id.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from pipeline.memory.modes import Mode
from pipeline.quality import FlawKind, Measurements, QualityLimits
from pipeline.request.spec import Framing, Spec

CHANNEL_FD = "I2VD_CHANNEL"
"""Environment variable with the file descriptor of the child's end of the channel."""

Dtype = Literal["float16", "bfloat16", "float32"]

Stage = Literal["start", "load", "condition", "denoise", "decode", "encode_video"]
"""Stages of an attempt in order; "condition": prompt and picture, "encode_video": the MP4."""

HEARTBEAT_TIMEOUTS: dict[Stage, float] = {
    "start": 120.0,
    "load": 900.0,
    "condition": 120.0,
    "denoise": 300.0,
    "decode": 300.0,
    "encode_video": 120.0,
}
"""Seconds without a message after which a child in this stage counts as hung."""


PREVIEW_FRAMES = 8
"""Number of frames in a preview, evenly from the first to the last."""

MAX_POSTER_BYTES = 64 * 1024
"""Maximum size of a clip's poster."""

EXIT_DEVICE_LOST = 70
"""Exit code of the worker after an error that makes its device context unusable."""


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Pixels = Annotated[int, Field(ge=1, le=100_000)]
"""A side of a picture."""
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""A count or bytes, as databases can store them."""
Seconds = Annotated[float, Field(ge=0.0, le=1e9)]
Name = Annotated[str, Field(max_length=500)]
Sentence = Annotated[str, AfterValidator(lambda text: text[:2000])]
"""A text for people; a longer one is cut, because it may hold any library's message."""

_MAX_NAMES = 100


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- to the image child. The picture goes with the message, as an open descriptor.


class Inspect(_Message):
    """Decode the whole picture and return its properties."""

    type: Literal["inspect"] = "inspect"
    lenient: bool = False
    """Accept a picture whose end is missing if all its pixels are there.

    A strict look rejects it as incomplete, because it may still be being copied.
    """


class Prepare(_Message):
    """Decode the picture again, and frame it to width x height pixels.

    A second descriptor goes with it: memory for the pixels, RGB, 8 bits a channel, row by row.
    """

    type: Literal["prepare"] = "prepare"
    sha256: str
    width: int
    height: int
    framing: Framing


# --- from the image child


class Inspected(_Message):
    """Valid picture; width and height in pixels after orientation, `size` in bytes."""

    type: Literal["inspected"] = "inspected"
    sha256: Sha256
    size: Count
    width: Pixels
    height: Pixels
    format: Name
    caption: Annotated[str, Field(max_length=2000)] = ""


class Prepared(_Message):
    """Pixels, written into the memory that was passed."""

    type: Literal["prepared"] = "prepared"


class Rejected(_Message):
    """Unusable picture; `gone` if the file vanished or its content changed."""

    type: Literal["rejected"] = "rejected"
    reason: Sentence
    gone: bool = False
    incomplete: bool = False
    """True if the file may still be being copied."""


class Unavailable(_Message):
    """File that cannot be read now, for a reason of the place and not of the file."""

    type: Literal["unavailable"] = "unavailable"
    reason: Sentence


# --- to the worker


class Load(_Message):
    """Load a model: "micro", a folder in diffusers layout, or a downloaded hub id."""

    type: Literal["load"] = "load"
    model: str
    device: str
    dtype: Dtype
    max_memory: int | None = None
    """Limit in bytes of the device's memory; on a CPU tensors are counted and kept within it."""


class QueryMemory(_Message):
    """Query how many bytes of the device's memory a clip may use now."""

    type: Literal["query_memory"] = "query_memory"


class Generate(_Message):
    """Generate one clip from the clean PNG at `picture` as `clip.mp4` in `staging`.

    The worker may also write `poster.jpg` there, a small first frame.
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
    """Embed the prompts and picture of a Generate that will follow. No reply."""

    type: Literal["embed"] = "embed"
    job: str
    spec: Spec
    width: int
    height: int
    picture: str


class Cancel(_Message):
    """Cancel this job's clip at its next step. No reply of its own."""

    type: Literal["cancel"] = "cancel"
    job: str


# --- from the worker


class Hello(_Message):
    """First message of every child: its channel is open. The worker has not imported torch yet."""

    type: Literal["hello"] = "hello"
    unprotected: Annotated[tuple[Name, ...], Field(max_length=_MAX_NAMES)] = ()
    """Layers of the image child's sandbox that this machine does not have, with the reasons."""


class Loaded(_Message):
    """Loaded model. `weights` is the SHA-256 over the weight files' digests."""

    type: Literal["loaded"] = "loaded"
    model: Annotated[str, Field(max_length=5000)]
    weights: Name
    dtype: Dtype
    device: Name
    device_name: Name
    memory: Count | None
    """Total bytes of the device; None on a CPU."""
    versions: Annotated[dict[Name, Name], Field(max_length=_MAX_NAMES)]
    seconds: Seconds


class FreeMemory(_Message):
    """Bytes that a clip may use: free memory plus what the worker holds for reuse. Final.

    None if the device's memory is not counted.
    """

    type: Literal["free_memory"] = "free_memory"
    free: Count | None


class _OfJob(_Message):
    job: Name = ""
    """Job id; empty in replies to Load."""


class Progress(_OfJob):
    """Progress report: `step` of `steps` within `stage` is done.

    `preview` is a JPEG of PREVIEW_FRAMES frames side by side.
    """

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    type: Literal["progress"] = "progress"
    stage: Stage
    step: Count
    steps: Count
    preview: bytes | None = None

    @model_validator(mode="after")
    def _within_steps(self) -> Self:
        if self.step > self.steps:
            raise ValueError("more steps are done than there are")
        return self


class Output(BaseModel):
    """Properties of the MP4, as read back from the file: size in bytes, duration in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    sha256: Sha256
    size: Count
    codec: Name
    width: Pixels
    height: Pixels
    frames: Count
    fps: Count
    duration: Seconds


class Released(_OfJob):
    """Base of replies after which the device is ready for the next Generate."""

    leaked_bytes: Count | None = None
    """Bytes left on the device besides weights, after release; None if not counted."""


class FramesReady(Released):
    """Frames that no longer need the device; the final message follows."""

    type: Literal["frames_ready"] = "frames_ready"


class ClipDone(_OfJob):
    """Finished clip, in staging as `clip.mp4`, checked and fsynced. Final."""

    type: Literal["clip_done"] = "clip_done"
    output: Output
    measurements: Measurements
    seconds: Annotated[dict[Name, Seconds], Field(max_length=_MAX_NAMES)]
    """Seconds per stage."""
    peak_memory: Count | None
    """Maximum bytes reserved on the device; None if it does not count them."""
    unread: dict[str, str] = {}
    """Ends of the prompts beyond the text encoder's length, by their key."""


class OutOfMemory(Released):
    """Out of device memory in `stage`; the clip's memory is released. Final.

    In bytes, if the allocator reported them: the failed request, and what was allocated and
    reserved at that time.
    """

    type: Literal["out_of_memory"] = "out_of_memory"
    stage: Stage
    detail: Sentence
    requested: Count | None = None
    allocated: Count | None = None
    reserved: Count | None = None


class QualityRejected(Released):
    """Clip rejected by the quality check. With `measurements` it is in staging. Final."""

    type: Literal["quality_rejected"] = "quality_rejected"
    stage: Stage
    flaw: FlawKind
    reason: Sentence
    measurements: Measurements | None = None


class Failed(Released):
    """Failed request; `retry` is True if another try may help. Final."""

    type: Literal["failed"] = "failed"
    stage: Stage
    reason: Sentence
    retry: bool
    disk: bool = False
    """True if the folder is not writable, which is not the request's fault."""


class Cancelled(Released):
    """Cancelled by Cancel. Final."""

    type: Literal["cancelled"] = "cancelled"


Request = Annotated[
    Inspect | Prepare | Load | QueryMemory | Generate | Embed | Cancel, Field(discriminator="type")
]
Reply = Annotated[
    Hello
    | Inspected
    | Prepared
    | Rejected
    | Unavailable
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
    """Serialize a message as one line."""
    return message.model_dump_json().encode() + b"\n"


def read_request(line: bytes) -> Request:
    """Parse a line from the parent. Raises pydantic.ValidationError."""
    return _REQUESTS.validate_json(line)


def read_reply(line: bytes) -> Reply:
    """Parse a line from a child. Raises pydantic.ValidationError."""
    return _REPLIES.validate_json(line)
