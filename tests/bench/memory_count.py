"""Peak memory of the full-size model by mode, counted without a GPU and without its weights.

    python -m tests.bench.memory_count [--presets standard,ultra] [--modes chunked] [--tensors]

The worker's own code runs on the meta device, where tensors have shapes but no memory. Live tensors
are counted as on a CPU with a memory limit. `--tensors` shows those at the peak, from which the
terms in pipeline/memory/peak_memory.py are derived.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pipeline.memory.dimensions import PUBLISHED
from pipeline.memory.modes import Mode, Rung
from pipeline.memory.peak_memory import PeakMemory, peak
from pipeline.request.presets import I2VGEN_XL
from pipeline.worker import placement
from pipeline.worker.diffusion import decode
from pipeline.worker.diffusion.conditioning import Conditions, encode_conditions
from pipeline.worker.diffusion.sampler import predict_guided, predict_unguided
from pipeline.worker.memory.budget import TensorCounter
from pipeline.worker.model.loader import LoadedModel
from tests.published import published

STAGES = PeakMemory._fields


class Shapes(TorchFunctionMode):
    """Replaces operations that the meta device lacks: fused attention, truth values, copies.

    The meta device has no fused attention kernel; it would count the square matrix of scores, which
    no GPU ever allocates.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            query, _, value = args[:3]
            # as the kernels give it: (batch, length, heads, width) in memory
            shape = (query.shape[0], query.shape[2], query.shape[1], value.shape[3])
            return query.new_empty(shape).transpose(1, 2)
        if func is torch.Tensor.__bool__:
            return True
        if func is torch.Tensor.cpu:
            return args[0]
        return func(*args, **(kwargs or {}))


class Witness(TensorCounter):
    """Records the tensors that were alive at the peak, and the module that reached it."""

    def __init__(self, kind: str, tensors: bool = False) -> None:
        super().__init__(1 << 62, kind)
        self.tensors = tensors
        self.inside: list[str] = []
        self.place = ""
        self.alive: Counter[tuple[int, ...]] = Counter()
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.fresh: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.peak
        self.fresh.clear()
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if isinstance(result, torch.Tensor) and result.untyped_storage()._cdata in self.fresh:
            self.shapes[result.untyped_storage()._cdata] = tuple(result.shape)
        if self.peak > before:
            self.place = self.inside[-1] if self.inside else ""
            if self.tensors:
                self.alive = Counter(self.shapes.get(key, ()) for key in self._seen)
        return result

    def _count(self, storage: Any) -> None:
        if storage._cdata not in self._seen:
            self.fresh.add(storage._cdata)
        super()._count(storage)

    def _leave(self, *_: Any) -> None:
        self.inside.pop()

    @contextmanager
    def watching(self, *networks: torch.nn.Module) -> Iterator[None]:
        """Track the current module while the context lasts."""
        handles = []
        for network in networks:
            for name, module in network.named_modules():
                handles.append(
                    module.register_forward_pre_hook(lambda *_, n=name: self.inside.append(n))
                )
                handles.append(module.register_forward_hook(self._leave))
        with self:
            yield
        for handle in handles:
            handle.remove()


def count(
    model: LoadedModel, rung: Rung, guidance: float, tensors: bool = False
) -> dict[str, Witness]:
    """Return the peak of live tensors for each stage. `model` is on the meta device."""
    for network in (model.unet, model.vae, model.text_encoder, model.image_encoder):
        model.weights.unload(network)
    model.embeddings.clear()
    seen = {stage: Witness(model.device.type, tensors) for stage in STAGES}
    networks = (model.unet, model.vae, model.text_encoder, model.image_encoder)
    with torch.no_grad(), Shapes():
        with seen["condition"].watching(*networks):
            if rung.mode.policy.weights == "device":
                model.load_unet()
            picture = Image.new("RGB", (rung.width, rung.height))
            prompts = ["waves", "static"] if guidance > 1 else ["waves"]
            wanted, unwanted = encode_conditions(
                model, picture, prompts, frames=rung.frames, fps=16,
                vae_tiling=rung.mode.policy.vae_tiling, on_step=lambda: None,
            )  # fmt: skip
        model.weights.unload(model.unet)
        cells = (rung.height // model.vae_factor, rung.width // model.vae_factor)
        with seen["denoise"].watching(model.unet):
            latents = torch.empty(1, 4, rung.frames, *cells, device=model.device)
            predict(model, rung.mode, wanted, unwanted, latents)
        model.weights.unload(model.unet)
        with seen["decode"].watching(model.vae):
            if rung.mode.policy.weights == "device":
                model.load_unet()
            frames_in_chunks(model, rung.mode, latents)
    return seen


def predict(
    model: LoadedModel,
    mode: Mode,
    wanted: Conditions,
    unwanted: Conditions | None,
    latents: torch.Tensor,
) -> None:
    """Run one step, and with offload a second one, when the order of the pieces is known."""
    time = torch.empty((), dtype=torch.long, device=model.device)
    with placement.unet_on_device(model, mode) as unet:
        for _ in range(1 if mode.policy.weights == "device" else 2):
            if unwanted is None:
                predict_unguided(unet, wanted)(latents, time)
            else:
                predict_guided(
                    unet, wanted, unwanted, 9.0, sequential_cfg=mode.policy.sequential_cfg
                )(latents, time)


def frames_in_chunks(model: LoadedModel, mode: Mode, latents: torch.Tensor) -> None:
    """Decode the first chunk of frames as `decode` does."""
    cells = latents[0].transpose(0, 1)
    with placement.vae_on_device(model, vae_tiling=mode.policy.vae_tiling):
        decode._decode_chunk(
            model, cells[: decode.frames_at_once(cells, mode.policy)].to(model.dtype)
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--presets", default=",".join(I2VGEN_XL.presets))
    parser.add_argument("--modes", default=",".join(Mode))
    parser.add_argument("--tensors", action="store_true", help="show which live at the peak")
    asked = parser.parse_args(arguments)
    model = published("meta", torch.float16)
    table = Table("preset", "mode", *STAGES, "predicted", *STAGES, "peak", "predicted", "error")
    for name in asked.presets.split(","):
        preset = I2VGEN_XL.presets[name]
        for mode in map(Mode, asked.modes.split(",")):
            rung = Rung(mode, preset.side, preset.side, preset.frames)
            seen = count(model, rung, preset.guidance, asked.tensors)
            counted = PeakMemory(*(seen[stage].peak for stage in STAGES))
            told = peak(rung, PUBLISHED, "float16", guided=preset.guidance > 1)
            numbers = (*counted, None, *told, counted.most, told.most)
            table.add_row(
                name, mode, *("" if n is None else f"{n / 1e9:.2f}" for n in numbers),
                f"{told.most / counted.most - 1:+.1%}",
            )  # fmt: skip
            if asked.tensors:
                for each in STAGES:
                    show(f"{name} {mode} {each}", seen[each], model)
    Console(width=140).print(table)


def show(title: str, witness: Witness, model: LoadedModel) -> None:
    """Return the largest tensors at a stage's peak, without weights."""
    parts = (model.unet, model.vae, model.text_encoder, model.image_encoder)
    weights = {tuple(tensor.shape) for part in parts for tensor in part.parameters()}
    sys.stdout.write(f"{title}: {witness.peak / 1e9:.3f} GB in {witness.place}\n")
    sizes = {s: torch.Size(s).numel() * n for s, n in witness.alive.items() if s not in weights}
    for shape in sorted(sizes, key=lambda s: -sizes[s])[:14]:
        sys.stdout.write(f"    {witness.alive[shape]} x {shape} {sizes[shape] * 2 / 1e9:.3f} GB\n")


if __name__ == "__main__":
    main()
