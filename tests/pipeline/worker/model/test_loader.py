"""Loading: the embedded checkpoint, the full layout shrunk in width, and what is wrong with both.

The full layout has the depth, the kinds of layers and the file names of the published model, whose
UNet is diffusers' default; only its widths, and the depth of CLIP, are smaller.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, I2VGenXLUNet
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from pipeline.checkpoint.layout import ModelUnusable, find
from pipeline.children.protocol import Generate
from pipeline.quality import NO_LIMITS
from pipeline.request.presets import MICRO, MICRO_FOLDER
from pipeline.worker.memory.budget import Budget
from pipeline.worker.memory.weights import empty_weights, joined_view, tensors_of
from pipeline.worker.model.loader import LoadedModel, load_model
from pipeline.worker.optimizations.attention import qkv_weights
from tests.pipeline.worker.test_generate import made

_UNET = {
    "block_out_channels": (32, 64, 64, 64),
    "cross_attention_dim": 32,
    "attention_head_dim": 32,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 32,
}
_VAE = {
    "block_out_channels": (32, 32, 32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "vocab_size": 520,
    "projection_dim": 32,
    "pad_token_id": 1,
    "bos_token_id": 518,
    "eos_token_id": 519,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 32,
}
_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.00085,
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def _bytes_as_letters() -> list[str]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + n) for n in range(256 - len(plain))]


def _save_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt, as the hub's repository has them (it has no tokenizer.json)."""
    folder.mkdir()
    letters = _bytes_as_letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), "pa", "pan</w>", "le", "ft</w>"]
    vocabulary = {word: n for n, word in enumerate(words)}
    vocabulary |= {"<|startoftext|>": 518, "<|endoftext|>": 519}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\np a\npa n</w>\nl e\nf t</w>\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "!"})
    )


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("full") / "i2vgen-xl"
    torch.manual_seed(0)
    parts = {
        "unet": I2VGenXLUNet(**_UNET),
        "vae": AutoencoderKL(**_VAE),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**_TEXT)),
        "image_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig(**_VISION)),
    }
    for name, part in parts.items():
        part.half().save_pretrained(folder / name, variant="fp16")
    for name, file, content in (
        ("scheduler", "scheduler_config.json", _SCHEDULER),
        ("feature_extractor", "preprocessor_config.json", _eye()),
        ("", "model_index.json", {"_class_name": "I2VGenXLPipeline"}),
    ):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / file).write_text(json.dumps(content))
    _save_tokenizer(folder / "tokenizer")
    return folder


def _eye() -> dict[str, Any]:
    eye = json.loads((MICRO_FOLDER / "feature_extractor/preprocessor_config.json").read_text())
    return eye | {"crop_size": {"width": 224, "height": 224}}


def loaded(folder: Path | str, dtype: str = "float32") -> LoadedModel:
    model = load_model(str(folder), "cpu", dtype, on_step=lambda: None)
    model.load_unet()
    return model


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_full_layout_makes_a_clip(
    full: Path, order: Callable[..., Generate], dtype: str
) -> None:
    model = loaded(full, dtype)

    assert (model.vae_factor, model.multiple) == (8, 64)
    assert all(p.dtype == getattr(torch, dtype) for p in model.unet.parameters())
    asked = order(width=64, height=64, guidance=9.0, negative_prompt="static")
    output = made(model, asked.model_copy(update={"limits": NO_LIMITS})).output
    assert (output.width, output.height, output.frames) == (64, 64, 8)


@pytest.mark.slow
def test_weights_are_those_that_diffusers_loads(full: Path) -> None:
    model = loaded(full)
    for part, kind in (("unet", I2VGenXLUNet), ("vae", AutoencoderKL)):
        theirs = kind.from_pretrained(full / part, variant="fp16", dtype=torch.float32)
        mine = getattr(model, part).state_dict()
        assert all(torch.equal(mine[n], tensor) for n, tensor in theirs.state_dict().items())
    theirs = CLIPTextModel.from_pretrained(full / "text_encoder", variant="fp16")
    ids = torch.arange(77)[None]
    with torch.no_grad():
        mine = model.text_encoder(ids).last_hidden_state
        torch.testing.assert_close(mine, theirs.float()(ids).last_hidden_state)


@pytest.mark.parametrize("include_buffers", ["0", "1"])
def test_empty_weights_leave_only_parameters_on_meta(
    monkeypatch: pytest.MonkeyPatch, include_buffers: str
) -> None:
    """Position numbers are in no file, so nothing after the building could fill them."""
    monkeypatch.setenv("ACCELERATE_INIT_INCLUDE_BUFFERS", include_buffers)
    with empty_weights():
        networks = (
            I2VGenXLUNet(**_UNET),
            AutoencoderKL(**_VAE),
            CLIPTextModel(CLIPTextConfig(**_TEXT)),
            CLIPVisionModelWithProjection(CLIPVisionConfig(**_VISION)),
        )
    assert all(tensor.is_meta for network in networks for tensor in network.parameters())
    buffers = [dict(network.named_buffers()) for network in networks]
    assert [list(each) for each in buffers] == [
        [],
        [],
        ["embeddings.position_ids"],
        ["vision_model.embeddings.position_ids"],
    ]
    for numbers in (*buffers[2].values(), *buffers[3].values()):
        assert torch.equal(numbers, torch.arange(numbers.shape[-1])[None])


def test_empty_weights_patch_torch_only_while_networks_are_built() -> None:
    with empty_weights():
        assert torch.nn.Linear(3, 3).weight.is_meta
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 3)
    assert layer.weight.device.type == "cpu"
    assert layer.weight.count_nonzero() == 9
    assert layer.weight.abs().max() <= 3**-0.5


@pytest.mark.slow
def test_files_of_older_libraries(full: Path, tmp_path: Path) -> None:
    """CLIP's parts once began with "text_model.", and its position numbers were saved."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "old"
    shutil.copytree(full, folder)
    (file,) = (folder / "text_encoder").glob("*.safetensors")
    tensors = {f"text_model.{n.removeprefix('text_model.')}": t for n, t in load_file(file).items()}
    save_file(tensors | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, file)
    (file,) = (folder / "vae").glob("*.safetensors")
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    tensors = load_file(file)
    for new, name in old.items():
        tensors = {n.replace(new, name): t for n, t in tensors.items()}
    save_file(tensors, file)

    mine, other = loaded(folder), loaded(full)
    for part in ("text_encoder", "vae"):
        for a, b in zip(
            getattr(mine, part).parameters(), getattr(other, part).parameters(), strict=True
        ):
            assert torch.equal(a, b)
    assert mine.digest != other.digest


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(MICRO_FOLDER, tmp_path / "model")
    return tmp_path / "model"


def test_the_digest_is_that_of_the_same_files_elsewhere(copy: Path, micro: LoadedModel) -> None:
    assert loaded(copy).digest == micro.digest
    assert len(micro.digest) == 64


@pytest.mark.parametrize(
    "file",
    [
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "feature_extractor/preprocessor_config.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    ],
)
def test_the_digest_covers_every_file_that_is_loaded(copy: Path, file: str) -> None:
    before = find(str(copy), small=False).digest()
    (copy / file).write_text((copy / file).read_text() + "\n")
    assert find(str(copy), small=False).digest() != before


def _drop(part: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / part)


def _pickles(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


def _cut(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def _swap(folder: Path) -> None:
    shutil.copy(folder / "unet" / "config.json", folder / "vae" / "config.json")


def _wider(folder: Path) -> None:
    file = folder / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"intermediate_size": 256}))


def _unlink(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def _write(file: str, **changes: Any) -> Callable[[Path], None]:
    """Change keys of a JSON file; None removes one."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / file).read_text()) | changes
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / file).write_text(json.dumps(kept))

    return spoil


def _fewer_words(folder: Path) -> None:
    file = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["merges"] = []
    content["model"]["vocab"] = {w: n for w, n in vocabulary.items() if n < 300 or n > 1681}
    ends = {word: 300 + n for n, word in enumerate(w for w, n in vocabulary.items() if n > 1681)}
    content["model"]["vocab"] |= ends
    for token in content["added_tokens"]:
        token["id"] = ends[token["content"]]
    file.write_text(json.dumps(content))


_EYE = "feature_extractor/preprocessor_config.json"


def _other_pipeline(folder: Path) -> None:
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop("vae"), "lacks vae/config.json"),
        (_drop("tokenizer"), "lacks tokenizer/tokenizer_config.json"),
        (_pickles, "only .bin files"),
        (_cut, "cannot be read"),
        (_swap, "is a I2VGenXLUNet, not a AutoencoderKL"),
        (_wider, "text_encoder: wrong shape of encoder.layers.0.mlp"),
        (_other_pipeline, "StableDiffusionPipeline, not an I2VGenXLPipeline"),
        (_unlink("model_index.json"), "not in diffusers layout"),
        (_unlink("tokenizer/tokenizer.json"), "has no vocabulary: tokenizer.json or vocab.json"),
        (lambda f: (f / "tokenizer/tokenizer.json").write_text("{}"), "cannot be loaded"),
        (_fewer_words, "has 302 tokens, the text encoder 1684: they do not belong together"),
        (_write("tokenizer/tokenizer_config.json", model_max_length=10), "10 tokens a prompt"),
        (lambda f: (f / _EYE).write_text("{}"), "lacks a crop_size"),
        (_write(_EYE, image_mean=None), "lacks image_mean"),
        (_write(_EYE, image_std=[0.1, 0.1]), "lacks image_std"),
        (_write(_EYE, image_std=[0.1, 0.0, 0.1]), "image_std has a zero"),
    ],
)
def test_a_broken_checkpoint_is_reported(
    copy: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(copy)
    with pytest.raises(ModelUnusable, match=message):
        loaded(copy)


def test_a_model_that_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelUnusable, match="i2vd model pull nobody/nothing"):
        loaded("nobody/nothing")
    with pytest.raises(ModelUnusable, match="there is no such folder"):
        loaded(tmp_path / "nowhere" / "at" / "all")


def test_qkv_weights_are_adjacent_on_the_device() -> None:
    """And take no more memory there than apart."""
    model = load_model(MICRO, "cpu", "float32", copy=True, on_step=lambda: None)
    groups = list(qkv_weights(model.unet))
    assert groups
    budget = Budget(torch.device("cpu"), 1 << 40)
    with budget.enforced():
        model.load_unet()
    assert all(joined_view(group) is not None for group in groups)
    assert model.weights.device_bytes() == sum(t.nbytes for t in tensors_of(model.unet))
    assert budget.live() == pytest.approx(model.weights.device_bytes(), rel=0.1)
    model.weights.unload(model.unet)
    assert budget.live() == 0
    assert all(joined_view(group) is None for group in groups)
