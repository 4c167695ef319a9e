"""The memory model: predicted peak bytes of an attempt, by mode and size.

Peak = weights on the device + bytes per clip pixel (width x height x frames). Both were counted as
live tensors at fp16 with a guidance batch of two; other types scale with their size. In RESIDENT
the largest activation is the feed-forward of `transformer_in` (about 670 bytes a pixel).
"""

from dataclasses import dataclass

from pipeline.ladder import Rung
from pipeline.mode import Mode
from pipeline.presets import Family

_GB = 10**9


@dataclass(frozen=True)
class _Need:
    weights: int
    per_pixel: int


_FULL = {
    Mode.FAST: _Need(int(4.98 * _GB), 670),
    Mode.LEAN: _Need(int(3.01 * _GB), 670),
    Mode.FP8: _Need(int(3.01 * _GB), 335),
    Mode.OFFLOAD: _Need(int(0.9 * _GB), 335),
}
_MICRO = {
    Mode.FAST: _Need(20_000_000, 1340),
    Mode.LEAN: _Need(20_000_000, 1340),
    Mode.FP8: _Need(20_000_000, 665),
    Mode.OFFLOAD: _Need(11_500_000, 665),
}
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


def predicted_peak(rung: Rung, family: Family, dtype: str) -> int:
    """Peak bytes on the device while a clip is made on this rung, without the CUDA context."""
    need = (_MICRO if family.name == "micro" else _FULL)[rung.mode]
    at_fp16 = need.weights + need.per_pixel * rung.width * rung.height * rung.frames
    return at_fp16 * _BYTES[dtype] // 2


def need(rung, dtype, guidance):
    return 1
