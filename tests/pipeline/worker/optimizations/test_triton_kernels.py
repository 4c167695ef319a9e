"""Our own kernels do what torch does: run by Triton's interpreter here, and compiled for cards."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn
from torch.nn import functional

from pipeline.worker.memory.weights import join_tensors
from pipeline.worker.monkey_patch import Patches, patched
from pipeline.worker.optimizations import fused_ops
from pipeline.worker.optimizations.attention import fused_qkv, geglu, qkv_weights
from pipeline.worker.optimizations.convolution import fused_resnets, temporal_conv_as_matmul
from pipeline.worker.optimizations.cuda_graph import cuda_graphed

pytest.importorskip("triton", reason="our kernels are in Triton: pip install triton")
pytestmark = [
    pytest.mark.slow,
    # of the interpreter, for lanes that no result comes from
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]
LAST = torch.channels_last


@pytest.fixture(scope="module", autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    """Interpreted: that must be said before Triton is imported, its own functions with it."""

    def forget() -> dict[str, ModuleType]:
        ours = ("triton", "pipeline.worker.optimizations.triton_kernels")
        names = [n for n in sys.modules if n.startswith(ours) and not n.startswith("triton._C")]
        return {name: sys.modules.pop(name) for name in names}

    before = forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield importlib.import_module("pipeline.worker.optimizations.triton_kernels")
    forget()
    sys.modules |= before


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def off(ours: Tensor, plain: Tensor) -> float:
    assert ours.shape == plain.shape
    return float((ours - plain).abs().max() / plain.abs().max())


def both(kernels: ModuleType, work: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    with fused_ops.using(kernels):
        assert fused_ops.enabled()
        ours = work()
    return ours, work()


@pytest.mark.parametrize(
    ("images", "channels", "sides", "groups", "rows"),
    [
        (3, 40, (5, 7), 4, 3),
        (1, 24, (9, 13), 4, 1),
        (2, 96, (40, 60), 32, 0),
        (2, 20, (3, 4, 5), 5, 0),
    ],
)
def test_group_norm(
    kernels: ModuleType, images: int, channels: int, sides: tuple[int, ...], groups: int, rows: int
) -> None:
    """Stays accurate if the mean is a hundred times the deviation."""
    norm = nn.GroupNorm(groups, channels)
    norm.weight += noise(channels, seed=2)
    norm.bias += noise(channels, seed=3)
    x = 0.1 * noise(images, *sides, channels).movedim(-1, 1) + 10.0
    added = noise(rows, channels, seed=4) if rows else None
    with fused_ops.using(kernels):
        normed, activated = (
            fused_ops.group_norm(norm, x),
            fused_ops.group_norm_silu(norm, x.clone(), added),
        )
    assert normed.stride() == activated.stride() == x.stride()
    wide, weight, bias = x.double(), norm.weight.double(), norm.bias.double()
    assert off(normed, functional.group_norm(wide, groups, weight, bias, norm.eps)) < 1e-5
    if added is not None:
        wide += added.view(*added.shape, *(1,) * len(sides))
    exact = functional.silu(functional.group_norm(wide, groups, weight, bias, norm.eps))
    assert off(activated, exact) < 1e-5


def test_layer_norm_geglu_and_bias_add(kernels: ModuleType) -> None:
    norm = nn.LayerNorm(72)
    norm.weight += noise(72, seed=2)
    norm.bias += noise(72, seed=3)
    x, more = noise(2, 37, 72), noise(2, 37, 72, seed=5)
    assert off(*both(kernels, lambda: fused_ops.layer_norm(norm, x))) < 1e-6
    assert off(*both(kernels, lambda: fused_ops.add_layer_norm(x.clone(), more, norm))) < 1e-6
    with fused_ops.using(kernels):
        fused_ops.add_layer_norm(x, more, norm)
    assert torch.equal(x, noise(2, 37, 72) + more), "the sum stays"
    rows = noise(70, 2 * 40)
    assert off(*both(kernels, lambda: fused_ops.geglu(rows.clone()))) < 1e-6
    images, bias = noise(2, 72, 5, 9).contiguous(memory_format=LAST), noise(72, seed=6)
    assert (
        off(*both(kernels, lambda: fused_ops.add_bias_residual(images.clone(), images, bias)))
        < 1e-6
    )


@pytest.mark.parametrize("frames", [2, 16, 20])
def test_temporal_attention(kernels: ModuleType, frames: int) -> None:
    qkv = noise(2, frames, 3, 3 * 24).chunk(3, dim=-1)
    assert off(*both(kernels, lambda: fused_ops.temporal_attention(qkv, 3))) < 1e-6


def test_within_the_modules_of_the_model(kernels: ModuleType) -> None:
    torch.manual_seed(0)
    context = noise(1, 7, 24, seed=3)
    parts: list[tuple[nn.Module, Callable[[nn.Module], Patches], Callable[..., Tensor]]] = [
        (
            ResnetBlock2D(in_channels=16, out_channels=32, temb_channels=8, groups=4),
            fused_resnets,
            lambda module, x: module(x, noise(1, 8)),
        ),
        (
            TemporalConvLayer(16, 16, norm_num_groups=4),
            temporal_conv_as_matmul,
            lambda module, x: module(x, num_frames=3),
        ),
        (
            Transformer2DModel(2, 8, 16, cross_attention_dim=24, norm_num_groups=4),
            lambda module: fused_qkv(module) | geglu(module),
            lambda module, x: module(
                x, encoder_hidden_states=context.expand(6, -1, -1), return_dict=False
            )[0],
        ),
        (
            TransformerTemporalModel(2, 8, 16, norm_num_groups=4),
            lambda module: fused_qkv(module) | geglu(module),
            lambda module, x: module(x, num_frames=3, return_dict=False)[0],
        ),
    ]
    x = noise(6, 16, 4, 5).contiguous(memory_format=LAST)
    for module, transform, run in parts:
        for parameter in module.parameters():  # some are zeros or ones at first
            parameter.add_(0.05 * noise(*parameter.shape))
        for group in qkv_weights(module):
            join_tensors(group, [tensor.data for tensor in group], torch.device("cpu"))
        plain = run(module, x.clone())
        with fused_ops.using(kernels), patched(transform(module)):
            ours = run(module, x.clone())
        assert off(ours, plain) < 1e-5, type(module).__name__


def test_kernels_that_differ_are_not_used(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fused_ops._compare_with_torch(kernels, torch.device("cpu"), torch.float16)
    right = kernels.geglu
    monkeypatch.setattr(kernels, "geglu", lambda x: right(x) * 1.01)
    with pytest.raises(ArithmeticError, match="GEGLU differs"):
        fused_ops._compare_with_torch(kernels, torch.device("cpu"), torch.float16)
    if not torch.cuda.is_available():
        fused_ops.self_test(torch.device("cuda"), torch.float16)
        assert "Triton kernels disabled" in capfd.readouterr().err
        assert not fused_ops.enabled()


@pytest.mark.parametrize("card", [75, 90])
def test_kernels_compile_for_gpus_that_are_absent(card: int) -> None:
    """Triton includes the assembler, so no GPU is needed."""
    command = [sys.executable, "-m", "tests.pipeline.worker.compile_kernels", str(card)]
    real = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ended = subprocess.run(command, env=real, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    made = dict(line.split() for line in ended.stdout.splitlines())
    assert len(made) == 7
    assert all(int(size) > 0 for size in made.values())


def test_a_failed_capture_runs_eagerly(capfd: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("here it can")
    work = cuda_graphed(lambda x, y: x + y, torch.device("cpu"))
    for n in range(4):
        assert work(torch.tensor(n), torch.tensor(1)) == n + 1
    assert capfd.readouterr().err.count("CUDA graph capture failed") == 1
