"""Training the micro checkpoint from nothing.

    python -m pipeline.micro.training.train --state DIR [--out DIR] [--seed N]

Four lessons, one after the other: the text encoder learns to name the motion in a prompt; the
autoencoder learns its filters and its decoder; the UNet's lower levels learn the flow; the decoder
learns to finish the pictures that the UNet moves along it. Each lesson keeps its state in the
`--state` folder; the same command goes on where it was cut off.
"""

import random
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from pipeline.micro.training import decoder, flow, layout, pictures, text, unet, vae
from pipeline.micro.training.trainer import Lesson, learn
from pipeline.request.presets import MICRO_FOLDER

PICTURES = 1600
BANK_SEED = 1
PROMPTS_A_STEP = 32
CROPS_A_STEP = 16
CROP = 40


def picture_bank(folder: Path) -> Tensor:
    """(n, 3, side, side) bytes, made once."""
    file = folder / "pictures.pt"
    if not file.exists():
        made = torch.from_numpy(pictures.bank(PICTURES, BANK_SEED)).permute(0, 3, 1, 2)
        torch.save(made, file)
    bank: Tensor = torch.load(file)
    return bank


def crops(bank: Tensor, rng: random.Random) -> Tensor:
    """(n, 3, crop, crop) in -1..1: pieces of pictures, some of them reduced as photographs are."""
    pieces = []
    for _ in range(CROPS_A_STEP):
        picture = bank[rng.randrange(len(bank))]
        reduction = rng.choice((1, 1, 2, 2, 3))
        span = CROP * reduction
        top, left = (rng.randint(0, picture.shape[-1] - span) for _ in range(2))
        piece = picture[:, top : top + span, left : left + span].float()
        piece = nn.functional.avg_pool2d(piece, reduction)
        pieces.append(piece.transpose(1, 2) if rng.random() < 0.5 else piece)
    return torch.stack(pieces) / 127.5 - 1


def text_lesson(model: layout.Model) -> Lesson:
    """Which motion does this prompt ask for?"""

    def loss(rng: random.Random) -> Tensor:
        texts, labels = text.draw(rng, PROMPTS_A_STEP)
        return text.loss(model.text_encoder, text.tokens(model.tokenizer, texts), labels)

    encoder = model.text_encoder
    return Lesson("text", 2500, 2e-3, encoder, list(encoder.parameters()), loss)


def vae_lesson(model: layout.Model, filters: vae.Filters, bank: Tensor) -> Lesson:
    """Four numbers for twelve, and back."""

    def loss(rng: random.Random) -> Tensor:
        true = crops(bank, rng)
        latents = filters(true)
        made = model.vae.decode(latents + 0.01 * torch.randn_like(latents)).sample
        return 3 * nn.functional.mse_loss(made, true) + 0.5 * nn.functional.l1_loss(made, true)

    weights = nn.ModuleList([model.vae, filters])
    parameters = [*vae.decoder_parameters(model.vae), *filters.parameters()]
    return Lesson("vae", 3300, 3e-3, weights, parameters, loss)


def flow_lesson(model: layout.Model, bank: Tensor) -> Lesson:
    """What moves where, for this prompt, at this time?"""
    embeddings = flow.image_embeddings(model, bank[:400])

    def loss(rng: random.Random) -> Tensor:
        return flow.loss(model, embeddings, rng)

    parameters = flow.lower_parameters(model.unet)
    return Lesson("flow", 4400, 2e-3, model.unet, parameters, loss, steady=0.4)


def painting_lesson(model: layout.Model, filters: vae.Filters, bank: Tensor) -> Lesson:
    """What does the moved picture look like?"""

    def loss(rng: random.Random) -> Tensor:
        return decoder.loss(model, filters, bank, rng)

    parameters = vae.decoder_parameters(model.vae)
    return Lesson("painting", 600, 1e-3, model.vae, parameters, loss, average=0.99)


def build(folder: Path) -> layout.Model:
    """All parts, untrained."""
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
    flow.quiet_time(model.unet)
    model.vae.to(memory_format=torch.channels_last)  # twice as fast on a CPU
    model.unet.set_attn_processor(AttnProcessor())  # faster than the fused one at this size
    model.image_encoder.requires_grad_(False)
    return model


def main(
    state: Annotated[Path, typer.Option(help="where the lessons keep their states")],
    out: Annotated[Path, typer.Option(help="the finished checkpoint")] = MICRO_FOLDER,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Run the lessons that are not finished, then write the checkpoint."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    state.mkdir(parents=True, exist_ok=True)
    bank = picture_bank(state)
    model, filters = build(state), vae.Filters()
    learn(text_lesson(model), state, seed)
    learn(vae_lesson(model, filters, bank), state, seed)
    vae.write_encoder(model.vae, filters)
    with flow.frame_by_frame(model.unet):
        learn(flow_lesson(model, bank), state, seed)
        decoder.calibrate(model.unet, filters, bank)
        learn(painting_lesson(model, filters, bank), state, seed)
    layout.save(model, out)


if __name__ == "__main__":
    typer.run(main)
