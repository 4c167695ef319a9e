"""Equivalence: each optimization alone, and all together, against the plain model."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import I2VGenXLUNet
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from pipeline.request.sampling_plan import SHALLOW_LEVELS, sampling_plan_with
from pipeline.worker import placement
from pipeline.worker.bench.flops import work
from pipeline.worker.bench.speed import step, time_side_by_side
from pipeline.worker.diffusion.conditioning import Conditions
from pipeline.worker.diffusion.sampler import make_predictor, predict_guided, predict_unguided
from pipeline.worker.memory.weights import join_tensors, joined_view
from pipeline.worker.model.loader import LoadedModel
from pipeline.worker.optimizations import attention as attention_layers
from pipeline.worker.optimizations import fused_ops
from pipeline.worker.optimizations.attention import qkv_weights
from pipeline.worker.optimizations.convolution import phase_kernels
from pipeline.worker.optimizations.registry import OPTIMIZATIONS, apply

FRAMES = 5
SIDES = (12, 8)
NAMES = [*([name] for name in OPTIMIZATIONS), list(OPTIMIZATIONS)]


@pytest.fixture(scope="module", autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def small() -> Any:
    """Built as the published UNet: the first block has cross-attention, the last has none."""
    torch.manual_seed(0)
    unet = I2VGenXLUNet(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        attention_head_dim=8,
        cross_attention_dim=24,
        norm_num_groups=4,
    ).eval()
    for name, parameter in unet.named_parameters():  # some are zeros or ones at first
        parameter.copy_(parameter + 0.02 * noise(*parameter.shape, seed=len(name)))
    for group in qkv_weights(unet):
        join_tensors(group, [tensor.data for tensor in group], torch.device("cpu"))
    return unet


def conditions_for(
    unet: Any, seed: int, frames: int = FRAMES, sides: tuple[int, int] = SIDES
) -> Conditions:
    width = unet.config.cross_attention_dim
    return Conditions(
        noise(1, 77, width, seed=seed),
        noise(1, 1, width, seed=seed + 1),
        noise(1, 4, FRAMES, *SIDES, seed=3),
        torch.tensor([16]),
    )


def difference(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("names", NAMES, ids="+".join)
def test_each_optimization_matches_the_plain_model(small: Any, names: list[str]) -> None:
    cond, uncond = conditions_for(small, 10), conditions_for(small, 20)
    latents = [noise(1, 4, FRAMES, *SIDES, seed=seed) for seed in (5, 6)]
    time = torch.tensor(481)

    def predicted() -> list[Tensor]:
        both, one = predict_unguided(small, uncond.join(cond)), predict_unguided(small, cond)
        sequential = predict_guided(small, cond, uncond, 2.0, sequential_cfg=True)
        return [f(x, time) for f in (both, one, sequential) for x in latents]

    before = predicted()
    with apply(small, names):
        given = predicted()
    largest = max(map(difference, given, before))
    print(f"\n{'+'.join(names)}: largest difference {largest:.1e} of the largest value")
    assert largest < 1e-5
    assert all(map(torch.equal, predicted(), before)), "the model is as it was before"


def test_all_optimizations_on_the_micro_model(micro: LoadedModel) -> None:
    """Its first blocks have no cross-attention, so the CFG branches share them."""
    micro.load_unet()
    both = predict_unguided(
        micro.unet, conditions_for(micro.unet, 10).join(conditions_for(micro.unet, 20))
    )
    latents = noise(1, 4, FRAMES, *SIDES, seed=5)
    before = both(latents, torch.tensor(481))
    with apply(micro.unet, OPTIMIZATIONS):
        assert difference(both(latents, torch.tensor(481)), before) < 3e-5


def test_fused_qkv_is_one_matrix_product(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = list(qkv_weights(small))
    assert len(groups) == 6 + 2 * (6 + 1)  # over space once, over time twice
    for group in groups:
        whole = joined_view(group)
        assert whole is not None
        assert torch.equal(whole, torch.cat(list(group)))
        assert whole.data_ptr() == group[0].data_ptr(), "no second copy of them"
    assert joined_view((groups[0][1], groups[0][0])) is None
    assert joined_view((groups[0][0], groups[1][0])) is None
    products: list[Any] = []
    monkeypatch.setattr(functional, "linear", lambda x, w, *b: products.append(w.shape) or x @ w.T)
    attention = small.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    x = noise(2, 6, 16, seed=1)
    found = attention_layers._project(
        attention, joined_view(attention_layers._weights(attention)), x
    )
    assert products == [(48, 16)]
    for each, to in zip(found, (attention.to_q, attention.to_k, attention.to_v), strict=True):
        assert difference(each, x @ to.weight.T) < 1e-6


def counted(unet: Any) -> tuple[dict[str, int], list[Any]]:
    """How often each block works from now on, and what ends the count."""
    calls: Counter[str] = Counter()
    blocks = [n for n, _ in unet.named_modules() if re.fullmatch(r"(down|up)_blocks\.\d", n)]
    hooks = [
        unet.get_submodule(name).register_forward_hook(lambda *_, n=name: calls.update([n]))
        for name in (*blocks, "mid_block")
    ]
    return calls, hooks


@pytest.mark.parametrize("sequential", [False, True])
def test_feature_cache_skips_the_inner_blocks(small: Any, sequential: bool) -> None:
    cond, uncond = conditions_for(small, 10), conditions_for(small, 20)
    steps = sampling_plan_with(
        ["feature_cache", "guidance_interval"], steps=7, guided=True
    ).sampling_steps
    assert [(step.guided, step.fresh) for step in steps] == [
        (True, True), (True, False), (True, False), (True, True), (True, False),
        (False, True), (False, False),
    ]  # fmt: skip
    latents, time = noise(1, 4, FRAMES, *SIDES, seed=5), torch.tensor(481)
    guided = predict_guided(small, cond, uncond, 2.0)(latents, time)
    unguided = predict_unguided(small, cond)(latents, time)
    with apply(small, OPTIMIZATIONS):
        predict = make_predictor(small, cond, uncond, 2.0, steps, sequential_cfg=sequential)
        calls, hooks = counted(small)
        given = [predict(latents, time) for _ in steps]
        for hook in hooks:
            hook.remove()
    for each, its in zip(given, steps, strict=True):  # equal latents: cached features are exact
        assert difference(each, guided if its.guided else unguided) < 1e-5
    forwards = 12 if sequential else 7  # predictions of the UNet in all
    assert calls == {
        "down_blocks.0": forwards, "up_blocks.1": forwards,
        "down_blocks.1": 5 if sequential else 3, "mid_block": 5 if sequential else 3,
        "up_blocks.0": 5 if sequential else 3,
    }  # fmt: skip


def test_counted_work_with_cached_features_matches_the_sampling_plan() -> None:
    """On the published UNet, 512 x 512, 16 frames."""
    whole, shallow = work(16, 64, guided=True)
    assert shallow / whole == pytest.approx(SHALLOW_LEVELS, abs=0.01)


def test_cfg_branches_of_different_latents_share_no_layers(small: Any) -> None:
    both = predict_unguided(small, conditions_for(small, 10).join(conditions_for(small, 20)))
    latents = noise(2, 4, FRAMES, *SIDES, seed=5)
    before = both(latents, torch.tensor(481))
    with apply(small, OPTIMIZATIONS):
        assert difference(both(latents, torch.tensor(481)), before) < 1e-5


def test_temporal_attention_beyond_the_grid_limit(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = predict_unguided(small, conditions_for(small, 10).join(conditions_for(small, 20)))
    latents = noise(1, 4, FRAMES, *SIDES, seed=5)
    before = both(latents, torch.tensor(481))
    monkeypatch.setattr(fused_ops, "_MAX_HEADS", 37)
    with apply(small, ["fused_qkv"]):
        assert difference(both(latents, torch.tensor(481)), before) < 1e-5


def test_step_invariants_are_computed_once(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    once = ("image_latents_context_embedding", "context_embedding", "fps_embedding")
    keys = [n for n, _ in small.named_modules() if ".attentions." in n and n.endswith("attn2.to_k")]
    hooks = [
        small.get_submodule(name).register_forward_hook(lambda *_, n=name: calls.append(n))
        for name in (*once, *keys)
    ]
    predict = predict_guided(small, conditions_for(small, 10), conditions_for(small, 20), 2.0)
    with apply(small, OPTIMIZATIONS):
        for step in range(3):
            predict(noise(1, 4, FRAMES, *SIDES, seed=step), torch.tensor(900 - step))
    for hook in hooks:
        hook.remove()
    assert len(keys) > 2
    assert sorted(calls) == sorted([*once, *keys])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_phase_kernels_are_rounded_once(dtype: torch.dtype) -> None:
    weight = noise(6, 5, 3, 3, seed=1).to(dtype)
    picture = noise(2, 5, 7, 4, seed=2)
    wide = phase_kernels(weight.double()).to(dtype)
    assert torch.allclose(phase_kernels(weight), wide, rtol=1e-6, atol=1e-6)
    y = functional.conv2d(picture.double(), phase_kernels(weight.double()), padding=1)
    upsampled = functional.interpolate(picture.double(), scale_factor=2.0)
    whole = functional.conv2d(upsampled, weight.double(), padding=1)
    phase = y.unflatten(1, (4, 6))[:, 3, :, 1:, 1:]
    torch.testing.assert_close(phase, whole[:, :, 1::2, 1::2])


def test_a_feed_forward_without_geglu_is_not_patched(small: Any) -> None:
    forwards: dict[nn.Module, Any] = dict(attention_layers.geglu(small))
    assert small.image_latents_temporal_encoder.ff not in forwards
    assert len(forwards) > 5


def test_the_bench_reports_time_and_difference_of_each_case(small: Any) -> None:
    cases = {
        name: partial(apply, small, names) for name, names in (("no", []), ("all", OPTIMIZATIONS))
    }
    nothing, every = time_side_by_side(step(small, frames=3, side=8), cases, rounds=1)
    assert list(every) == ["case", "reference_seconds", "seconds", "ratio", "max_abs_diff"]
    assert nothing["max_abs_diff"] == 0
    assert 0 < every["max_abs_diff"] < 1e-4


def test_subpixel_upsampling_in_the_vae_decoder_saves_work(micro: LoadedModel) -> None:
    latents = noise(2, 4, 12, 20, seed=1)
    micro.weights.load(micro.vae)
    whole = micro.vae.decode(latents).sample
    found = {}
    for vae_tiling in (True, False):
        with (
            placement.vae_on_device(micro, vae_tiling=vae_tiling),
            FlopCounterMode(display=False) as counter,
        ):
            given = micro.vae.decode(latents[:1]).sample
        assert difference(given, whole[:1]) < 1e-5
        found[vae_tiling] = counter.get_total_flops()
    assert found[False] < 0.95 * found[True]
