"""Model dimensions: the widths and parameter counts that determine a clip's peak memory.

Read from a checkpoint's configurations and the headers of its weight files, without loading them.
The formulas that use them are model.py's.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from pipeline.checkpoint.layout import CheckpointFiles, ModelUnusable, find

_PIECE = re.compile(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(\w+)\.(\d+)\.")
_ORDER = ("resnets", "temp_convs", "attentions", "temp_attentions", "downsamplers", "upsamplers")
"""Execution order of the parts within a layer."""


@dataclass(frozen=True)
class ModelDimensions:
    """Layer widths and parameter counts. Levels count from the finest, 0."""

    channels: tuple[int, ...]
    """Channels of the UNet by level."""
    attends: tuple[bool, ...]
    """True for each level of the UNet that has transformers."""
    layers: int
    """Layers of each down block of the UNet; an up block has one more."""
    transformer_in: int
    """Inner width of the UNet's first transformer, `transformer_in`."""
    context: int
    """Width of the cross-attention context."""
    unet: int
    """Parameters of the whole UNet."""
    unet_outside: int
    """Parameters of the UNet outside its blocks' pieces (single layers)."""
    pieces: tuple[int, ...]
    """Parameters of the largest two consecutive pieces, by level."""
    vae: int
    """Parameters of the VAE."""
    vae_channels: tuple[int, ...]
    encoder: int
    """Parameters of the larger encoder that are loaded at once when its layers are streamed."""

    @property
    def factor(self) -> int:
        """Pixels per latent cell along each side."""
        return int(2 ** (len(self.vae_channels) - 1))


PUBLISHED = ModelDimensions(
    channels=(320, 640, 1280, 1280),
    attends=(True, True, True, False),
    layers=2,
    transformer_in=512,
    context=1024,
    unet=1_420_469_224,
    unet_outside=16_890_664,
    pieces=(5_641_920, 21_728_640, 85_236_480, 71_488_000),
    vae=83_653_863,
    vae_channels=(128, 256, 512, 512),
    encoder=75_867_136,
)
"""Published I2VGen-XL; a test compares it with diffusers' classes."""


@cache
def dimensions_of(model: str) -> ModelDimensions:
    """Return the dimensions of the configured model, or PUBLISHED if it is not usable yet."""
    try:
        return read_dimensions(find(model, small=True))
    except ModelUnusable:
        return PUBLISHED


def read_dimensions(source: CheckpointFiles) -> ModelDimensions:
    """Read the dimensions from a model's folder. Raises ModelUnusable."""
    shapes = {part: _shapes(files) for part, files in source.weights.items()}
    try:
        return measure(source.configs, shapes)
    except (LookupError, ValueError, TypeError, AssertionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ModelUnusable(f"{source.folder} is damaged, or no such model ({reason})") from error


Shapes = Mapping[str, tuple[int, ...]]


def measure(
    configs: Mapping[str, Mapping[str, object]], shapes: Mapping[str, Shapes]
) -> ModelDimensions:
    """Compute the dimensions from configurations and weight shapes, both by network."""
    unet, vae = configs["unet"], configs["vae"]
    channels = _numbers(unet["block_out_channels"])
    head = unet["attention_head_dim"]
    blocks = unet["down_block_types"]
    assert isinstance(blocks, (list, tuple))
    width, layers = unet["cross_attention_dim"], unet["layers_per_block"]
    assert isinstance(width, int)
    assert isinstance(layers, int)
    pieces = _pieces(shapes["unet"], len(channels))
    return ModelDimensions(
        channels=channels,
        attends=tuple("CrossAttn" in block for block in blocks),
        layers=layers,
        transformer_in=8 * (head if isinstance(head, int) else _numbers(head)[0]),
        context=width,
        unet=_total(shapes["unet"].values()),
        unet_outside=_total(
            shape for name, shape in shapes["unet"].items() if not _PIECE.match(name)
        ),
        pieces=pieces,
        vae=_total(shapes["vae"].values()),
        vae_channels=_numbers(vae["block_out_channels"]),
        encoder=max(_passing(shapes[part]) for part in ("text_encoder", "image_encoder")),
    )


def _pieces(shapes: Shapes, levels: int) -> tuple[int, ...]:
    """Return the largest sum of two consecutive pieces per level, over down and up blocks."""
    weights: dict[tuple[str, int, int, int], int] = defaultdict(int)
    for name, shape in shapes.items():
        if found := _PIECE.match(name):
            way, number, kind, layer = found.groups()
            level = {"down": int(number or 0), "up": levels - 1 - int(number or 0)}.get(way)
            key = (way or "mid", levels - 1 if level is None else level)
            last = kind in ("downsamplers", "upsamplers")
            weights[*key, levels * 99 if last else int(layer), _ORDER.index(kind)] += math.prod(
                shape
            )
    heaviest = [0] * levels
    ordered = sorted(weights)
    for one, other in pairwise(ordered):
        if one[:2] == other[:2]:
            heaviest[one[1]] = max(heaviest[one[1]], weights[one] + weights[other])
    return tuple(heaviest)


def _passing(shapes: Shapes) -> int:
    """Return the parameters outside an encoder's layers, plus those of two layers."""
    layers: dict[str, int] = defaultdict(int)
    outside = 0
    for name, shape in shapes.items():
        if found := re.search(r"\.layers\.(\d+)\.", name):
            layers[found[1]] += math.prod(shape)
        else:
            outside += math.prod(shape)
    return outside + 2 * max(layers.values())


def _total(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes))


def _numbers(value: object) -> tuple[int, ...]:
    assert isinstance(value, (list, tuple))
    return tuple(value)


def _shapes(files: Iterable[Path]) -> Shapes:
    """Read names and shapes from safetensors headers: eight bytes of length, then JSON."""
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            found |= {n: tuple(t["shape"]) for n, t in header.items() if n != "__metadata__"}
        except (OSError, ArithmeticError, MemoryError, RecursionError) as error:
            raise ModelUnusable(f"{path} cannot be read: {error}") from error
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise ModelUnusable(f"{path} is damaged or cut short: its header is wrong") from error
    return found
