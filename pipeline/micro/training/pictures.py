"""Procedural pictures: the training set of the micro checkpoint.

A picture is a few layers of soft-edged shapes over a textured ground ("dead leaves" with
gradients, stripes and octave noise), in a palette that is mostly as dull as photographs are. No
picture is read from disk, so the training set is original. Cropping and warping are in `train`
and `motions`.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Array = NDArray[np.float32]

LAYER_COUNTS = (0, 3, 8, 20, 40, 70)
LAYER_ODDS = (0.05, 0.12, 0.25, 0.30, 0.18, 0.10)


def palette(rng: np.random.Generator) -> Array:
    """Draw 3 to 6 colours, (n, 3) in 0..1; most share one base colour and are desaturated."""
    count = int(rng.integers(3, 7))
    if rng.random() < 0.5:
        colours = rng.uniform(0, 1, (count, 3))
    else:
        spread = rng.uniform(0.2, 0.9)
        offsets = rng.uniform(-0.5, 0.5, (count, 3)) + rng.uniform(-0.5, 0.5, (count, 1))
        colours = rng.uniform(0, 1, 3) + spread * offsets
    saturation = rng.uniform(0, 1) if rng.random() < 0.7 else 1.0
    grey = colours.mean(axis=1, keepdims=True)
    return np.asarray(np.clip(grey + saturation * (colours - grey), 0, 1), np.float32)


def octave_noise(rng: np.random.Generator, side: int, slope: float) -> Array:
    """Draw (side, side) noise, zero mean and unit deviation, with a 1/f**slope spectrum."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1
    spectrum = rng.standard_normal(frequency.shape) + 1j * rng.standard_normal(frequency.shape)
    spectrum *= frequency**-slope
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (side, side))
    return np.asarray(noise / (noise.std() + 1e-9), np.float32)


def texture(rng: np.random.Generator, side: int, colours: Array) -> Array:
    """Draw (side, side, 3): two colours blended by a gradient, rings, stripes or a constant."""
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    first, second = colours[rng.integers(len(colours))], colours[rng.integers(len(colours))]
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * columns + np.sin(angle) * rows
    kind = rng.random()
    if kind < 0.4:
        blend = along * rng.uniform(0.3, 1.3) + 0.5
    elif kind < 0.55:
        centre = rng.uniform(-0.5, 0.5, 2)
        blend = np.hypot(columns - centre[0], rows - centre[1]) * rng.uniform(0.7, 2)
    elif kind < 0.75:
        waves = np.sin(2 * np.pi * rng.uniform(3, 26) * along) * rng.uniform(0.6, 6)
        blend = 0.5 + 0.5 * np.clip(waves, -1, 1)
    else:
        blend = np.full_like(along, rng.random())
    image = first + np.clip(blend, 0, 1)[..., None] * (second - first)
    if rng.random() < 0.65:
        grain = octave_noise(rng, side, rng.uniform(0.5, 1.7))[..., None]
        image = image + rng.uniform(0.005, 0.13) * grain * rng.uniform(0.3, 1, 3)
    return np.asarray(image, np.float32)


def shape(rng: np.random.Generator, side: int, radius: float) -> Array:
    """Draw the coverage (side, side, 1) in 0..1 of an ellipse, polygon or line, anti-aliased."""
    scale = 2
    mask = Image.new("L", (side * scale, side * scale))
    draw = ImageDraw.Draw(mask)
    x, y = rng.uniform(0, side, 2) * scale
    reach = radius * scale
    kind = rng.random()
    if kind < 0.35:
        wide, high = reach * rng.uniform(0.4, 1, 2)
        draw.ellipse((x - wide, y - high, x + wide, y + high), fill=255)
    elif kind < 0.88:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        reaches = reach * rng.uniform(0.5, 1.2, len(angles))
        corners = zip(x + reaches * np.cos(angles), y + reaches * np.sin(angles), strict=True)
        draw.polygon([(float(a), float(b)) for a, b in corners], fill=255)
    else:
        angle = rng.uniform(0, np.pi)
        dx, dy = 1.5 * reach * np.cos(angle), 1.5 * reach * np.sin(angle)
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=255, width=int(rng.integers(2, 10)))
    if rng.random() < 0.15:
        mask = mask.filter(ImageFilter.GaussianBlur(rng.uniform(1, 7)))
    small = np.asarray(mask.resize((side, side), Image.Resampling.BOX), np.float32)
    return np.asarray(small[..., None] / 255, np.float32)


def picture(rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """Draw one picture, (side, side, 3) bytes."""
    colours = palette(rng)
    image: NDArray[np.floating] = texture(rng, side, colours)
    if rng.random() < 0.3:
        clouds = octave_noise(rng, side, rng.uniform(1.2, 2.2))[..., None]
        image = image + rng.uniform(0.05, 0.25) * clouds
    textures = [texture(rng, side, colours) for _ in range(3)]
    layers = int(rng.choice(LAYER_COUNTS, p=LAYER_ODDS))
    widest = 0.4 * side
    for _ in range(layers):
        radius = min(widest, 0.022 * side * (1 - rng.random()) ** -0.8 * (1 if layers > 8 else 2.2))
        mask = shape(rng, side, radius)
        if rng.random() < 0.3:  # a shadow
            image = image * (1 - 0.5 * np.roll(mask, (2, 2), (0, 1)))
        if rng.random() < 0.6:
            paint = textures[rng.integers(len(textures))]
        else:
            paint = np.float32(rng.uniform(0.5, 1.3)) * colours[rng.integers(len(colours))]
        image = image * (1 - mask) + paint * mask
    if rng.random() < 0.5:
        image = image + rng.uniform(0, 0.02) * rng.standard_normal(image.shape)
    if rng.random() < 0.6:
        low, high = np.percentile(image, [1, 99])
        image = (image - low) / max(high - low, 0.2)
    return np.asarray(np.clip(image, 0, 1) * 255, np.uint8)


def bank(count: int, seed: int, side: int = 160) -> NDArray[np.uint8]:
    """Draw pictures from a seed: (count, side, side, 3) bytes."""
    rng = np.random.default_rng(seed)
    return np.stack([picture(rng, side) for _ in range(count)])
