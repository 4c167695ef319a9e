"""Training of the micro checkpoint from scratch.

    python -m pipeline.micro.training.train --state DIR [--out DIR] [--seed N]

Four stages run in sequence. The text encoder learns to classify the motion of a prompt; the
autoencoder learns its filters and its decoder. The lower levels of the UNet learn the flow; the
decoder learns to sharpen the pictures that the UNet moves along it. Each stage keeps its state in
the `--state` folder, and the same command resumes an interrupted run.
"""

import random
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from pipeline.micro.training import decoder, flow, layout, pictures, text, unet, vae
from pipeline.micro.training.trainer import TrainingStage, train_stage
from pipeline.request.presets import MICRO_FOLDER

PICTURES = 1600
BANK_SEED = 1
PROMPTS_A_STEP = 32
CROPS_A_STEP = 16
CROP = 40


def picture_bank(folder: Path) -> Tensor:
    """Return (n, 3, side, side) bytes; drawn at the first call, then read from `folder`."""
    file = folder / "pictures.pt"
    if not file.exists():
        made = torch.from_numpy(pictures.bank(PICTURES, BANK_SEED)).permute(0, 3, 1, 2)
        torch.save(made, file)
    bank: Tensor = torch.load(file)
    return bank


def crops(bank: Tensor, rng: random.Random) -> Tensor:
    """Draw crops of pictures, some downscaled: (n, 3, crop, crop) in -1..1."""
    batch = []
    for _ in range(CROPS_A_STEP):
        picture = bank[rng.randrange(len(bank))]
        reduction = rng.choice((1, 1, 2, 2, 3))
        span = CROP * reduction
        top, left = (rng.randint(0, picture.shape[-1] - span) for _ in range(2))
        crop = picture[:, top : top + span, left : left + span].float()
        crop = nn.functional.avg_pool2d(crop, reduction)
        batch.append(crop.transpose(1, 2) if rng.random() < 0.5 else crop)
    return torch.stack(batch) / 127.5 - 1


def text_stage(model: layout.Model) -> TrainingStage:
    """Build the stage that trains the text encoder to classify the motion of a prompt."""

    def loss(rng: random.Random) -> Tensor:
        texts, labels = text.draw(rng, PROMPTS_A_STEP)
        return text.loss(model.text_encoder, text.tokens(model.tokenizer, texts), labels)

    encoder = model.text_encoder
    return TrainingStage("text", 2500, 2e-3, encoder, list(encoder.parameters()), loss)


def vae_stage(model: layout.Model, filters: vae.Filters, bank: Tensor) -> TrainingStage:
    """Build the stage that trains the autoencoder."""

    def loss(rng: random.Random) -> Tensor:
        true = crops(bank, rng)
        latents = filters(true)
        made = model.vae.decode(latents + 0.01 * torch.randn_like(latents)).sample
        return 3 * nn.functional.mse_loss(made, true) + 0.5 * nn.functional.l1_loss(made, true)

    weights = nn.ModuleList([model.vae, filters])
    parameters = [*vae.decoder_parameters(model.vae), *filters.parameters()]
    return TrainingStage("vae", 3300, 3e-3, weights, parameters, loss)


def flow_stage(model: layout.Model, bank: Tensor) -> TrainingStage:
    """Build the stage that trains the lower levels of the UNet to predict the flow."""
    embeddings = flow.image_embeddings(model, bank[:400])

    def loss(rng: random.Random) -> Tensor:
        return flow.loss(model, embeddings, rng)

    parameters = flow.lower_parameters(model.unet)
    return TrainingStage("flow", 4400, 2e-3, model.unet, parameters, loss, steady=0.4)


def decoder_stage(model: layout.Model, filters: vae.Filters, bank: Tensor) -> TrainingStage:
    """Build the stage that trains the VAE decoder on rendered latents."""

    def loss(rng: random.Random) -> Tensor:
        return decoder.loss(model, filters, bank, rng)

    parameters = vae.decoder_parameters(model.vae)
    # the name seeds the batches, so it is still that of the shipped weights' training
    return TrainingStage("painting", 600, 1e-3, model.vae, parameters, loss, average=0.99)


def build(folder: Path) -> layout.Model:
    """Build all parts, untrained."""
    tokenizer = text.build_tokenizer(folder / "tokenizer")
    model = layout.Model(
        tokenizer=tokenizer,
        text_encoder=text.build_encoder(tokenizer),
        feature_extractor=layout.build_feature_extractor(),
        image_encoder=layout.build_image_encoder(),
        vae=vae.build(),
        scheduler=layout.build_scheduler(),
        unet=unet.build(),
    )
    unet.construct(model.unet)
    flow.clear_temporal_layers(model.unet)
    model.vae.to(memory_format=torch.channels_last)  # doubles the speed on a CPU
    model.unet.set_attn_processor(AttnProcessor())  # faster than the fused one at this size
    model.image_encoder.requires_grad_(False)
    return model


def main(
    state: Annotated[Path, typer.Option(help="folder for the states of the stages")],
    out: Annotated[Path, typer.Option(help="the finished checkpoint")] = MICRO_FOLDER,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Run the unfinished stages, then write the checkpoint."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    state.mkdir(parents=True, exist_ok=True)
    bank = picture_bank(state)
    model, filters = build(state), vae.Filters()
    train_stage(text_stage(model), state, seed)
    train_stage(vae_stage(model, filters, bank), state, seed)
    vae.write_encoder(model.vae, filters)
    with flow.frame_by_frame(model.unet):
        train_stage(flow_stage(model, bank), state, seed)
        decoder.calibrate(model.unet, filters, bank)
        train_stage(decoder_stage(model, filters, bank), state, seed)
    layout.save(model, out)


if __name__ == "__main__":
    typer.run(main)
