"""Spec: the fully resolved settings of one clip, and their resolution from a request.

`Request` holds the settings of a rule, an override file or the command line: every key optional,
each with its range. `resolve` adds preset, picture and seed once, at intake. The Spec is stored
with the job, so that later changes of rules or presets do not affect queued work.
"""

import difflib
import json
import math
import random
import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)
from pydantic.fields import FieldInfo

from pipeline.request.presets import Family, Speed

Framing = Literal["crop", "fit", "blur"]
Sampler = Literal["ddim", "dpm++2m", "unipc"]
Spacing = Literal["leading", "trailing"]
Encoder = Literal["x264", "nvenc"]
Fallback = Literal["auto", "keep-size", "never"]

Pixels = Annotated[int, Field(ge=1, le=16384)]
Side = Annotated[int, Field(ge=32, le=2048)]
Frames = Annotated[int, Field(ge=8, le=32)]
Fps = Annotated[int, Field(ge=4, le=24)]
MotionFps = Annotated[int, Field(ge=1, le=60)]
Steps = Annotated[int, Field(ge=10, le=100)]
Guidance = Annotated[float, Field(ge=1.0, le=20.0, allow_inf_nan=False)]
Rescale = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Quality = Annotated[int, Field(ge=0, le=51)]
EMPTY_PROMPT = "is empty; say what moves, which way, how fast"

SeedNumber = Annotated[int, Field(ge=0, le=2**63 - 1)]
SeedChoice = SeedNumber | Literal["random", "content"]
Prompt = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)]

_RATIO = re.compile(r"([1-9]\d?):([1-9]\d?)")
_MAX_ASPECT = 4.0
_PLAIN_ENGLISH = re.compile(r"[\x20-\x7e\u2018\u2019\u201c\u201d\u2013\u2014\u2026\s]*")
_KINDS = {
    "int_type": "a whole number, ",
    "int_from_float": "a whole number, ",
    "float_type": "a number, ",
}
_VAGUE_WORDS = (
    "beautiful",
    "nice",
    "amazing",
    "awesome",
    "great",
    "good",
    "cool",
    "pretty",
    "stunning",
)


class Request(BaseModel):
    """Requested settings of a clip. A missing key has the preset's value or its default."""

    # strict: `frames = "16"` and `guidance = true` in a rule are mistakes, not numbers
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    prompt: Prompt | None = None
    negative_prompt: Prompt | None = None
    preset: str | None = None
    size: Side | None = None
    """Side in pixels of the square with the clip's area ("512p")."""
    aspect: str | None = None
    """"square", "source" (the picture's own shape) or a ratio such as "16:9"."""
    framing: Framing | None = None
    frames: Frames | None = None
    fps: Fps | None = None
    """Frame rate of the file."""
    motion_fps: MotionFps | None = None
    """Frame rate given to the model; higher means less motion from frame to frame."""
    steps: Steps | None = None
    guidance: Guidance | None = None
    guidance_rescale: Rescale | None = None
    sampler: Sampler | None = None
    spacing: Spacing | None = None
    speed: Speed | None = None
    seed: SeedChoice | None = None
    quality: Quality | None = None
    """Constant rate factor of H.264: lower is better and larger, 18 is visually lossless."""
    encoder: Encoder | None = None
    fallback: Fallback | None = None

    @field_validator("aspect")
    @classmethod
    def _known_aspect(cls, value: str | None) -> str | None:
        if value is None or value in ("square", "source"):
            return value
        if not (ratio := _RATIO.fullmatch(value)):
            raise ValueError('must be "square", "source" or a ratio such as "16:9"')
        if not 1 / _MAX_ASPECT <= int(ratio[1]) / int(ratio[2]) <= _MAX_ASPECT:
            raise ValueError("must lie between 1:4 and 4:1")
        return value

    def over(self, base: "Request") -> "Request":
        """Return `base` with the keys of this request that are set."""
        return base.model_copy(update=self.model_dump(exclude_none=True))


class Spec(BaseModel):
    """Complete settings of a clip: with the same picture and machine, the same bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str
    negative_prompt: str = ""
    preset: str
    width: Pixels
    height: Pixels
    framing: Framing = "crop"
    frames: Frames
    fps: Fps
    motion_fps: MotionFps
    steps: Steps
    guidance: Guidance
    guidance_rescale: Rescale = 0.0
    sampler: Sampler = "ddim"
    spacing: Spacing | None = None
    """None: as in the model's configuration."""
    speed: Speed = "exact"
    seed: SeedNumber
    quality: Quality = 18
    encoder: Encoder = "x264"
    fallback: Fallback = "auto"

    @property
    def guided(self) -> bool:
        """Return True with classifier-free guidance: each step also predicts unconditionally."""
        return self.guidance > 1


class Problem(NamedTuple):
    """Error (`fatal`) or warning about one key of a request."""

    key: str
    message: str
    fatal: bool = True


def resolve(
    requested: Request,
    family: Family,
    *,
    source: tuple[int, int],
    sha256: str,
    rng: random.Random,
    variant: int = 0,
) -> Spec:
    """Resolve a checked request for a picture of `source` = (width, height) pixels.

    `variant` is added to the seed. Raises ValueError on a request that `check` rejects.
    """
    name = requested.preset or "standard"
    if name not in family.presets:
        raise ValueError(_unknown("preset", name, family.presets))
    preset = family.presets[name]
    side = (
        requested.size if requested.size and requested.size <= family.largest_side else preset.side
    )
    width, height = clip_size(side, requested.aspect or "square", source, family.multiple)
    return Spec(
        prompt=requested.prompt or "",
        negative_prompt=requested.negative_prompt or "",
        preset=name,
        width=width,
        height=height,
        framing=requested.framing or "crop",
        frames=requested.frames or preset.frames,
        fps=requested.fps or preset.fps,
        motion_fps=requested.motion_fps or family.motion_fps,
        steps=requested.steps or preset.steps,
        guidance=requested.guidance or preset.guidance,
        guidance_rescale=(
            preset.guidance_rescale
            if requested.guidance_rescale is None
            else requested.guidance_rescale
        ),
        sampler=requested.sampler or "ddim",
        spacing=requested.spacing,
        speed=requested.speed or preset.speed,
        seed=(_seed(requested.seed, sha256, rng) + variant) % 2**63,
        quality=preset.quality if requested.quality is None else requested.quality,
        encoder=requested.encoder or "x264",
        fallback=requested.fallback or "auto",
    )


def _seed(requested: int | str | None, sha256: str, rng: random.Random) -> int:
    if isinstance(requested, int):
        return requested
    if requested == "content":
        return int(sha256[:8], 16)
    return rng.randrange(2**32)


def clip_size(side: int, aspect: str, source: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return (width, height) in pixels, with an area near `side` x `side` and the given aspect.

    Both are multiples of `multiple`. "source" is clamped to 1:4 .. 4:1.
    """
    if aspect == "square":
        ratio = 1.0
    elif aspect == "source":
        ratio = min(max(source[0] / source[1], 1 / _MAX_ASPECT), _MAX_ASPECT)
    else:
        across, down = aspect.split(":")
        ratio = int(across) / int(down)
    height = side / math.sqrt(ratio)

    def near(pixels: float) -> int:
        return max(multiple, round(pixels / multiple) * multiple)

    return near(height * ratio), near(height)


def check(settings: Mapping[str, Any], family: Family) -> list[Problem]:
    """Return all errors and warnings about the settings of a rule."""
    problems = _errors(settings)
    preset = settings.get("preset", "standard")
    if isinstance(preset, str) and preset not in family.presets:
        problems.append(Problem("preset", _unknown("preset", preset, family.presets)))
    wrong = {problem.key for problem in problems}
    settings = {key: value for key, value in settings.items() if key not in wrong}
    size = settings.get("size")
    if isinstance(size, int) and size % family.multiple:
        near = max(family.multiple, round(size / family.multiple) * family.multiple)
        problems.append(
            Problem("size", f"{size} is not a multiple of {family.multiple}; nearest: {near}")
        )
    return problems + _warnings(settings, family)


def _errors(settings: Mapping[str, Any]) -> list[Problem]:
    try:
        Request.model_validate(dict(settings))
    except ValidationError as error:
        return list({p.key: p for p in map(_to_problem, error.errors())}.values())
    return []


def _to_problem(error: Any) -> Problem:
    key = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        return Problem(key, _unknown("key", key, Request.model_fields))
    value = _format_value(error["input"])
    if key == "aspect" and error["type"] == "value_error":
        return Problem(key, f"{value}: {error['msg'].removeprefix('Value error, ')}")
    return Problem(key, f"{value}; allowed: {_KINDS.get(error['type'], '')}{allowed(key)}")


def allowed(key: str) -> str:
    """Describe the allowed values of a key of Request: "8 to 32". Raises KeyError."""
    if key == "aspect":
        return '"square", "source" or a ratio such as "16:9"'
    if key == "preset":
        return "the name of a preset"
    parts = _parts(Request.model_fields[key].annotation)
    words = [word for part in parts for word in _describe(part)]
    return " or ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def _parts(annotation: Any) -> list[Any]:
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return [part for member in get_args(annotation) for part in _parts(member)]
    return [] if annotation is NoneType else [annotation]


def _describe(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [f'"{word}"' for word in get_args(annotation)]
    kind, limit = get_args(annotation)
    if kind is str:
        return [f"a text of up to {limit.max_length} characters"]
    bounds = FieldInfo.from_annotation(annotation).metadata
    least = next(bound.ge for bound in bounds if isinstance(bound, Ge))
    most = next(bound.le for bound in bounds if isinstance(bound, Le))
    return [f"{least} to {most}"]


def _unknown(kind: str, name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known)}"
    return f"unknown {kind} {_format_value(name)}; {hint}"


def _format_value(value: object) -> str:
    """Format a value as in a rule file, truncated to 60 characters."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # Python does not format integers of thousands of digits
        return "this number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _warnings(settings: Mapping[str, Any], family: Family) -> list[Problem]:
    found = []
    prompt = settings.get("prompt")
    if isinstance(prompt, str) and not prompt.strip():
        found.append(Problem("prompt", EMPTY_PROMPT, fatal=False))
    elif isinstance(prompt, str):
        vague = [w for w in _VAGUE_WORDS if re.search(rf"\b{w}\b", prompt, re.IGNORECASE)]
        if vague:
            message = f"{', '.join(map(repr, vague))} says nothing about motion; name what moves"
            found.append(Problem("prompt", f"{message}, which way, how fast", fatal=False))
        if not _PLAIN_ENGLISH.fullmatch(prompt):
            found.append(Problem("prompt", "the model reads English only", fatal=False))
    guidance = settings.get("guidance")
    if family.name != "micro" and isinstance(guidance, (int, float)):
        if 1.0 <= guidance < 7.0:
            found.append(Problem("guidance", f"{guidance} is under 7: weak motion", fatal=False))
        if 12.0 < guidance <= 20.0:
            found.append(
                Problem("guidance", f"{guidance} is over 12: burnt colours, jitter", fatal=False)
            )
    size = settings.get("size")
    if isinstance(size, int) and size > family.largest_side:
        # a warning only, so that rules for the full model work with the demonstration model
        message = f"{size} is more than the {family.name} model can make; the preset's is taken"
        found.append(Problem("size", message, fatal=False))
    elif isinstance(size, int) and size not in family.sides and size % family.multiple == 0:
        sides = ", ".join(map(str, family.sides))
        found.append(Problem("size", f"{size} is untried; usual sides: {sides}", fatal=False))
    return found
