"""Mutations: from sound files to damaged ones, always the same for the same random numbers."""

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.fuzz.corpus import checked, parts

_LENGTHS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 50_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""What programs trip over where they expect a length, a count or a side."""


class Mutant(NamedTuple):
    """A damaged file, and how it was made, in words."""

    data: bytes
    made: str


def mutant(corpus: Mapping[str, bytes], seed: int, number: int) -> Mutant:
    """The mutant of this number: one to four mutations of a file, each format as often."""
    rng = random.Random(f"{seed}-{number}")
    names = list(corpus)
    formats = sorted({name.partition("-")[0] for name in names})
    chosen = formats[number % len(formats)]
    name = rng.choice([name for name in names if name.partition("-")[0] == chosen])
    data, steps = corpus[name], [name]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        change = rng.choice(_CHANGES)
        data = change(rng, data, corpus) or b"\0"
        steps.append(change.__name__.strip("_"))
    if rng.random() < 0.7:
        data = checked(data)
    return Mutant(data, " ".join(steps))


Change = Callable[[random.Random, bytes, Mapping[str, bytes]], bytes]


def _flip(rng: random.Random, data: bytes, _: Mapping[str, bytes]) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _run(rng: random.Random, data: bytes, _: Mapping[str, bytes]) -> bytes:
    length = min(rng.choice((1, 4, 16, 200)), len(data))
    at = rng.randrange(len(data) - length + 1)
    run = rng.choice((b"\0" * length, b"\xff" * length, rng.randbytes(length)))
    return data[:at] + run + data[at + length :]


def _splice(rng: random.Random, data: bytes, corpus: Mapping[str, bytes]) -> bytes:
    other = rng.choice(list(corpus.values()))
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def _truncate(rng: random.Random, data: bytes, _: Mapping[str, bytes]) -> bytes:
    return data[: rng.randrange(len(data)) + 1]


def _length(rng: random.Random, data: bytes, _: Mapping[str, bytes]) -> bytes:
    """Another number in the place of one: near the beginning of a part, or anywhere."""
    width, order = rng.choice((2, 4)), rng.choice(("big", "little"))
    value = rng.choice((*_LENGTHS, len(data), rng.randrange(2 * len(data) + 2)))
    found = parts(data)
    at = rng.choice(found)[0] + rng.randrange(24) if found else rng.randrange(len(data))
    number = (value % 256**width).to_bytes(width, order)
    return data[:at] + number + data[at + width :]


def _double(rng: random.Random, data: bytes, _: Mapping[str, bytes]) -> bytes:
    """A part, or any piece, once more, or a hundred times."""
    begin, end = _piece(rng, data)
    times = rng.choice((1, 1, 2, 100))
    return data[:end] + data[begin:end] * times + data[end:]


def _drop(rng: random.Random, data: bytes, _: Mapping[str, bytes]) -> bytes:
    begin, end = _piece(rng, data)
    return data[:begin] + data[end:]


def _swap(rng: random.Random, data: bytes, _: Mapping[str, bytes]) -> bytes:
    (a, b), (c, d) = sorted((_piece(rng, data), _piece(rng, data)))
    if b > c:
        return data
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _piece(rng: random.Random, data: bytes) -> tuple[int, int]:
    found = parts(data)
    if found and rng.random() < 0.8:
        return rng.choice(found)
    begin = rng.randrange(len(data))
    return begin, min(len(data), begin + rng.choice((1, 8, 64, 500)))


_CHANGES: tuple[Change, ...] = (
    _flip, _run, _splice, _truncate, _length, _length, _double, _drop, _swap,
)  # fmt: skip
