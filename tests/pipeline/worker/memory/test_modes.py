"""Memory savings keep the result: each transform against the unpatched micro model.

The largest difference is printed (`pytest -s`). All is float32 on the CPU, where the plain model
itself is 1.5e-5 of the largest value away from what it gives in float64.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.memory.modes import Mode
from pipeline.worker import placement
from pipeline.worker.diffusion.conditioning import Conditions
from pipeline.worker.diffusion.sampler import predict_guided, predict_unguided
from pipeline.worker.memory.chunking import chunk_feed_forward, chunk_frames, chunk_pixels
from pipeline.worker.memory.group_norm import gather, normalise
from pipeline.worker.memory.vae_tiling import tile_vae
from pipeline.worker.model.loader import LoadedModel
from pipeline.worker.monkey_patch import patched

FRAMES = 7
SIDES = (24, 16)
"""Of the latents: neither a power of two, nor a multiple of any slice below."""


@pytest.fixture(scope="module", autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def conditions(micro: LoadedModel) -> Conditions:
    width = micro.unet.config.cross_attention_dim
    return Conditions(
        noise(1, 77, width, seed=2),
        noise(1, 1, width, seed=3),
        noise(1, 4, FRAMES, *SIDES, seed=4),
        torch.tensor([16]),
    )


def difference(one: Tensor, other: Tensor, what: str) -> float:
    """The largest, as a share of the largest value; printed."""
    largest = float((one - other).abs().max() / other.abs().max())
    print(f"\n{what}: largest difference {largest:.1e} of the largest value")
    assert one.shape == other.shape
    return largest


def step(unet: Any, conditions: Conditions) -> Tensor:
    """One prediction for both branches of guidance as one batch."""
    latents = noise(2, 4, FRAMES, *SIDES, seed=5)
    return predict_unguided(unet, conditions.join(conditions))(latents, torch.tensor(481))


@pytest.mark.parametrize("size", [100, 900])
@pytest.mark.parametrize("transform", [chunk_feed_forward, chunk_frames, chunk_pixels])
def test_chunks_of_any_size(
    micro: LoadedModel, conditions: Conditions, transform: Callable[..., Any], size: int
) -> None:
    micro.load_unet()
    expected = step(micro.unet, conditions)
    forwards = transform(micro.unet, size)
    assert len(forwards) > 5
    with patched(forwards):
        chunked = step(micro.unet, conditions)
    assert difference(chunked, expected, f"{transform.__name__} by {size}") < 5e-5
    assert torch.equal(step(micro.unet, conditions), expected), "the model is as it was before"


@pytest.mark.parametrize("mode", [mode for mode in Mode if mode.exact])
def test_a_prediction_in_every_exact_mode(
    micro: LoadedModel, conditions: Conditions, mode: Mode
) -> None:
    micro.load_unet()
    other = Conditions(
        conditions.text.flip(1),
        torch.zeros_like(conditions.image),
        conditions.latents,
        conditions.fps,
    )
    latents = noise(1, 4, FRAMES, *SIDES, seed=6)
    expected = predict_guided(micro.unet, conditions, other, 9.0)(latents, torch.tensor(81))
    with placement.unet_on_device(micro, mode) as unet:
        predict = predict_guided(
            unet, conditions, other, 9.0, sequential_cfg=mode.policy.sequential_cfg
        )
        for _ in range(2):  # the second time the order of the chunks is known
            actual = predict(latents, torch.tensor(81))
    assert difference(actual, expected, mode) < 3e-4  # guidance of 9 multiplies it


def test_fp8_differs_within_bounds(micro: LoadedModel, conditions: Conditions) -> None:
    micro.load_unet()
    expected = step(micro.unet, conditions)
    with placement.unet_on_device(micro, Mode.FP8) as unet:
        assert {p.dtype for p in unet.parameters()} == {torch.float32, torch.float8_e4m3fn}
        actual = step(unet, conditions)
    assert 1e-5 < difference(actual, expected, "fp8") < 0.2
    micro.load_unet()
    assert torch.equal(step(micro.unet, conditions), expected)


@contextmanager
def vae_tiling(vae: Any, pixels: int) -> Iterator[None]:
    forwards = tile_vae(vae, pixels)
    assert len(forwards) > 5
    with patched(forwards):
        yield


@pytest.mark.parametrize("pixels", [1, 100, 333])
def test_vae_tiling_has_no_seams(micro: LoadedModel, pixels: int) -> None:
    micro.weights.load(micro.vae)
    latents = noise(1, 4, *SIDES, seed=7)
    expected = micro.vae.decode(latents).sample
    back = micro.vae.encode(expected).latent_dist.mode()
    with vae_tiling(micro.vae, pixels):
        assert difference(micro.vae.decode(latents).sample, expected, "decode") < 1e-5
        assert difference(micro.vae.encode(expected).latent_dist.mode(), back, "encode") < 1e-5


def test_blended_tiles_of_diffusers_are_visible(micro: LoadedModel) -> None:
    """Reason for VAE tiling of our own: diffusers' tiled decoding changes the picture visibly."""
    micro.weights.load(micro.vae)
    latents = noise(1, 4, *SIDES, seed=7)
    expected = micro.vae.decode(latents).sample
    micro.vae.tile_latent_min_size, micro.vae.tile_sample_min_size = 12, 24
    micro.vae.enable_tiling()
    try:
        assert difference(micro.vae.decode(latents).sample, expected, "tiles") > 1e-2
    finally:
        micro.vae.disable_tiling()


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_group_norm_statistics_of_chunks(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held against the expected clip's normalisation, with a mean far from zero."""
    monkeypatch.setattr("pipeline.worker.memory.group_norm._MAX_ELEMENTS", 50)
    norm = nn.GroupNorm(groups, 8)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    clip = 100 + noise(5, 8, 6, 7)
    expected = norm(clip.transpose(0, 1)[None])[0].transpose(0, 1)
    statistics = gather(clip, norm)
    chunks = [normalise(rows, norm, statistics) for rows in clip.split(4, dim=2)]
    torch.testing.assert_close(torch.cat(chunks, dim=2), expected, rtol=1e-4, atol=1e-4)


Hold = Callable[[LoadedModel], AbstractContextManager[Any]]


def test_group_offloading_an_encoder_is_exact(micro: LoadedModel) -> None:
    pixels = noise(1, 3, 32, 32)
    micro.weights.load(micro.image_encoder)
    expected = micro.image_encoder(pixels).image_embeds
    with placement.encoder_on_device(micro, micro.image_encoder):
        assert torch.equal(micro.image_encoder(pixels).image_embeds, expected)
