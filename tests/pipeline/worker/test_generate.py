"""One clip within the process: modes, sizes, lack of memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.children.protocol import MAX_POSTER_BYTES, ClipDone, Generate, Progress
from pipeline.memory import ladder
from pipeline.memory.dimensions import dimensions_of
from pipeline.memory.modes import Mode, Rung
from pipeline.memory.peak_memory import peak_memory, required_memory
from pipeline.request.presets import MICRO_FAMILY, Speed
from pipeline.worker import generate
from pipeline.worker.diffusion import decode
from pipeline.worker.diffusion.conditioning import frame_positions, picture_latents, read_picture
from pipeline.worker.errors import QualityFailure, SettingsRefused
from pipeline.worker.memory.budget import Budget
from pipeline.worker.model.loader import LoadedModel, load_model
from pipeline.worker.progress import ProgressReporter
from tests.pipeline.worker.kit import a_picture

Order = Callable[..., Generate]


class Silence:
    """A channel that nobody listens to."""

    def __init__(self) -> None:
        self.reports: list[Progress] = []

    def send(self, reply: Any) -> None:
        self.reports.append(reply)

    def waiting(self) -> bool:
        return False


def made(model: LoadedModel, order: Generate, budget: Budget | None = None) -> ClipDone:
    watch = ProgressReporter(Silence(), "condition")  # type: ignore[arg-type]
    budget = budget or Budget(torch.device("cpu"), None)
    with budget.enforced():
        film = generate.generate_frames(model, order, watch, budget)
    return generate.write_clip(film, watch)


def shortened(order: Generate, steps: int) -> Generate:
    """Of fewer steps than a rule may ask for."""
    return order.model_copy(update={"spec": order.spec.model_copy(update={"steps": steps})})


def shown(order: Generate) -> Any:
    with av.open(str(Path(order.staging) / "clip.mp4")) as container:
        return np.stack([f.to_ndarray(format="gray") for f in container.decode(video=0)])


def test_a_clip_shows_its_picture(micro: LoadedModel, order: Order) -> None:
    asked = order(width=64, height=64, steps=10, quality=8)
    result = made(micro, asked)

    output = result.output
    assert (output.width, output.height, output.frames, output.fps) == (64, 64, 8, 8)
    assert list(result.seconds) == ["condition", "denoise", "decode", "encode_video"]
    assert result.peak_memory is None
    picture = np.asarray(a_picture().convert("L"), float)
    assert np.abs(shown(asked)[0] - picture).mean() < 20
    poster = Path(asked.staging) / "poster.jpg"
    assert poster.stat().st_size <= MAX_POSTER_BYTES
    small = np.asarray(Image.open(poster).convert("L"), float)
    assert np.abs(small - shown(asked)[0]).mean() < 20


@pytest.mark.slow
def test_every_mode_gives_the_same_frames_and_fp8_nearly(
    micro: LoadedModel, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = {}
    examine = generate.examine

    def keep(values: Any, *others: Any) -> Any:
        frames[mode] = values.astype(int)
        return examine(values, *others)

    monkeypatch.setattr(generate, "examine", keep)
    for mode in Mode:
        made(micro, shortened(order(mode=mode, guidance=3.0), 4))
    for mode in Mode:
        off = frames[mode] - frames[Mode.RESIDENT]
        if mode.exact:
            assert np.abs(off).max() <= 1, mode
    psnr = 10 * np.log10(255**2 / (off_fp8 := frames[Mode.FP8] - frames[Mode.RESIDENT]).var())
    print(f"\nfp8: {psnr:.1f} dB to the exact clip, at most {np.abs(off_fp8).max()} of 255")
    assert 25 < psnr < 70


@pytest.mark.parametrize("speed", get_args(Speed))
def test_same_spec_same_file(micro: LoadedModel, order: Order, speed: Speed) -> None:
    def digest(seed: int) -> str:
        asked = order(speed=speed, guidance=2.0, width=16, height=16, seed=seed)
        return made(micro, shortened(asked, 6)).output.sha256

    first = digest(5)
    torch.manual_seed(99)
    assert digest(5) == first
    assert digest(6) != first


def test_the_speed_decides_the_number_of_reported_steps(micro: LoadedModel, order: Order) -> None:
    channel = Silence()
    watch = ProgressReporter(channel, "condition")  # type: ignore[arg-type]
    asked = order(speed="fast", steps=24, width=16, height=16)
    generate.generate_frames(micro, asked, watch, Budget(torch.device("cpu"), None))
    steps = [(p.step, p.steps) for p in channel.reports if p.stage == "denoise"]
    assert steps == [(n, 12) for n in range(13)]


def test_a_smaller_rung_shows_the_whole_picture_smaller(micro: LoadedModel, order: Order) -> None:
    asked = order(width=64, height=64, rung_width=32, rung_height=32, quality=8)
    result = made(micro, asked)

    assert (result.output.width, result.output.height) == (32, 32)
    small = np.asarray(a_picture().resize((32, 32)).convert("L"), float)
    assert np.abs(shown(asked)[0] - small).mean() < 25


def test_the_pictures_edge_is_used_as_it_is(tmp_path: Path, micro: LoadedModel) -> None:
    """The reference gives sizes such as 512x512 a black column, which conditions every frame."""
    for width, height in ((64, 64), (40, 64), (64, 40), (48, 48)):
        Image.new("RGB", (width, height), (255, 250, 240)).save(tmp_path / "white.png")
        picture = read_picture(tmp_path / "white.png", width, height)
        assert picture.getextrema() == ((255, 255), (250, 250), (240, 240))
        with torch.no_grad():
            latents = picture_latents(micro, picture)
            values = micro.vae.decode(latents[:, :, 0]).sample
        edges = (values[..., 0], values[..., -1], values[..., 0, :], values[..., -1, :])
        assert all(edge.mean() > 0.7 for edge in edges)  # black is -1


def test_a_picture_of_another_shape_is_covered_and_cropped(tmp_path: Path) -> None:
    wide = Image.new("RGB", (200, 40), (255, 0, 0))
    wide.paste((0, 255, 0), (80, 0, 120, 40))
    wide.save(tmp_path / "wide.png")
    picture = read_picture(tmp_path / "wide.png", 32, 32)
    assert picture.size == (32, 32)
    assert picture.getpixel((16, 16)) == (0, 255, 0)
    assert all(picture.getpixel((x, 16))[1] > 200 for x in range(2, 30))  # type: ignore[index]


def test_only_png_is_opened(tmp_path: Path) -> None:
    a_picture().save(tmp_path / "clean.png", format="JPEG")
    with pytest.raises(SettingsRefused, match="cannot be read"):
        read_picture(tmp_path / "clean.png", 64, 64)
    with pytest.raises(SettingsRefused, match="No such file"):
        read_picture(tmp_path / "gone.png", 64, 64)


def test_frame_positions_are_evenly_spaced() -> None:
    first = torch.full((1, 4, 1, 2, 2), 0.3)
    places = frame_positions(first, 5)
    assert places[0, 0, :, 0, 0].tolist() == pytest.approx([0.3, 0.25, 0.5, 0.75, 1.0])


def test_sizes_that_the_model_cannot_make_are_refused(micro: LoadedModel, order: Order) -> None:
    assert micro.multiple == 8
    with pytest.raises(SettingsRefused, match="width 36 is not a multiple of 8"):
        made(micro, order(width=36))


def test_out_of_memory_in_decoding_repeats_only_the_decoding(
    micro: LoadedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    latents = torch.randn(1, 4, 6, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = decode.decode(micro, latents, Mode.RESIDENT.policy, on_step=lambda _: None)
    real, sizes = micro.vae.decode, []

    def limited(cells: Any) -> Any:
        sizes.append(len(cells))
        if len(cells) > 1:
            raise torch.OutOfMemoryError("no memory")
        return real(cells)

    monkeypatch.setattr(micro.vae, "decode", limited)
    with torch.no_grad():
        pieces = decode.decode(micro, latents, Mode.RESIDENT.policy, on_step=lambda _: None)

    assert sizes == [6, 1, 1, 1, 1, 1, 1]
    assert whole.shape == pieces.shape == (6, 32, 32, 3)
    assert np.abs(whole.astype(int) - pieces).max() <= 1
    assert "retrying with VAE tiling" in capsys.readouterr().err


def test_a_half_precision_overflow_is_decoded_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load_model("micro", "cpu", "bfloat16", on_step=lambda: None)
    model.load_unet()
    latents = torch.randn(1, 4, 2, 8, 8)
    real, types = model.vae.decode, []

    def overflowing(cells: torch.Tensor) -> Any:
        types.append(cells.dtype)
        result = real(cells)
        if cells.dtype == torch.bfloat16:
            result.sample[..., 0, 0] = float("nan")
        return result

    monkeypatch.setattr(model.vae, "decode", overflowing)
    with torch.no_grad():
        frames = decode.decode(model, latents, Mode.RESIDENT.policy, on_step=lambda _: None)
    assert frames.shape == (2, 16, 16, 3)
    assert types == [torch.bfloat16, torch.float32]


def test_frames_that_are_not_finite_are_rejected(micro: LoadedModel) -> None:
    latents = torch.full((1, 4, 2, 8, 8), float("inf"))
    with torch.no_grad(), pytest.raises(QualityFailure, match="not numbers"):
        decode.decode(micro, latents, Mode.RESIDENT.policy, on_step=lambda _: None)


@pytest.fixture(scope="module")
def budgeted() -> Callable[[int], tuple[LoadedModel, Budget]]:
    def make(limit: int) -> tuple[LoadedModel, Budget]:
        budget = Budget(torch.device("cpu"), limit)
        model = load_model("micro", "cpu", "float32", copy=True, on_step=lambda: None)
        with budget.enforced():
            model.load_unet()
        return model, budget

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "width", "height", "frames", "guidance", "speed"),
    [
        (Mode.RESIDENT, 64, 64, 8, 1.0, "exact"),
        (Mode.RESIDENT, 48, 32, 16, 3.0, "exact"),
        (Mode.RESIDENT, 48, 32, 16, 3.0, "fast"),
        (Mode.CHUNKED, 96, 64, 16, 1.0, "exact"),
        (Mode.CHUNKED, 48, 32, 16, 3.0, "fast"),
        (Mode.FP8, 64, 48, 8, 3.0, "exact"),
        (Mode.OFFLOAD, 64, 64, 8, 3.0, "exact"),
        (Mode.OFFLOAD, 64, 64, 8, 3.0, "balanced"),
    ],
)
def test_peak_memory_matches_the_prediction(
    budgeted: Callable[[int], tuple[LoadedModel, Budget]],
    order: Order,
    mode: Mode,
    width: int,
    height: int,
    frames: int,
    guidance: float,
    speed: Speed,
) -> None:
    """Counted while a real clip is made; a share of the micro model's few megabytes."""
    model, budget = budgeted(10**12)
    asked = order(
        mode=mode, width=width, height=height, frames=frames, guidance=guidance, speed=speed
    )
    steps = 1 if speed == "exact" else 3  # so that features are taken too
    counted = made(model, shortened(asked, steps), budget).peak_memory
    assert counted is not None
    rung = Rung(mode, width, height, frames)
    reports = peak_memory(asked.spec, rung, dimensions_of("micro"), "float32")
    print(f"\n{rung}: {counted / 1e6:.1f} MB, predicted {reports.most / 1e6:.1f} MB {reports}")
    assert reports.most == pytest.approx(counted, rel=0.05)


@pytest.mark.slow
def test_each_rung_fits_in_its_requirement_where_the_previous_one_does_not(
    budgeted: Callable[[int], tuple[LoadedModel, Budget]], order: Order
) -> None:
    def asked(mode: Mode) -> Generate:
        size = {"width": 64, "height": 64, "frames": 16}
        return shortened(order(mode=mode, guidance=3.0, fallback="never", **size), 2)

    spec = asked(Mode.RESIDENT).spec
    needs = {}

    def most(rung: Rung) -> int:
        reports = peak_memory(spec, rung, dimensions_of("micro"), "float32")
        needs[rung.mode] = required_memory(reports, rung.mode, None, gpu=False)
        return reports.most

    modes = [rung.mode for rung in ladder.rungs(spec, MICRO_FAMILY, most)]
    assert modes == [mode for mode in Mode if mode.exact]
    for above, mode in zip([None, *modes], modes, strict=False):
        model, budget = budgeted(needs[mode])
        if above:
            with pytest.raises(torch.OutOfMemoryError, match="the budget is"):
                made(model, asked(above), budget)
            decode.release(model.device)
        peak = made(model, asked(mode), budget).peak_memory
        assert peak is not None
        assert peak <= needs[mode], mode


def test_exceeding_the_budget_is_out_of_memory_and_releases_all(
    budgeted: Callable[[int], tuple[LoadedModel, Budget]], order: Order
) -> None:
    model, budget = budgeted(10**12)
    store = budget._counter
    assert store is not None
    for side in (32, 64):  # from now on the embeddings are kept
        made(model, shortened(order(width=side, height=side), 2), budget)
    held = store.live
    store.limit = held + 1_000_000
    try:
        made(model, shortened(order(), 2))
    except torch.OutOfMemoryError:
        pytest.fail("outside of the budget nothing is counted")
    with pytest.raises(torch.OutOfMemoryError, match="the budget is"):
        made(model, order(width=64, height=64), budget)
    decode.release(model.device)
    assert store.live == held


def test_a_model_over_the_budget_stays_on_the_host(
    budgeted: Callable[[int], tuple[LoadedModel, Budget]],
    order: Order,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, budget = budgeted(8_000_000)
    assert "has no room for the UNet" in capsys.readouterr().err
    assert budget._counter is not None
    assert budget._counter.live == 0
    asked = shortened(order(mode=Mode.OFFLOAD, width=16, height=16), 2)
    assert made(model, asked, budget).output.frames == 8
