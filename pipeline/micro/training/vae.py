"""2x autoencoder: a linear encoder, written into the weights, and a trained decoder.

A latent pixel represents 2 x 2 pixels: three weighted means of the colours and one luminance
detail. Because the encoder is linear and has no attention, moving the picture by two pixels
moves its latents by one: motion in latents is motion in pictures. The filter bank is learned
together with the decoder, then written into an `AutoencoderKL` whose residual blocks do nothing.

Pictures are (n, 3, height, width) in -1..1; latents are (n, 4, height / 2, width / 2).
"""

import math

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 40
LATENTS = 4
DETAIL = 3  # the latent channel of detail; it also carries OFFSET
OFFSET = -4.0  # separates frames of latents from frames of position marks (0..1 in every channel)
CONSTANT = 64.0  # dwarfs the picture inside the encoder, so that its group norms only scale
LOG_VARIANCE = -20.0  # sampling the posterior moves a latent by 5e-5: in effect, the mode


class Filters(nn.Module):
    """Linear encoder: four 3 x 3 filters with stride 2, fixed norms for stable scales."""

    def __init__(self) -> None:
        super().__init__()
        brightness = torch.tensor([0.3, 0.59, 0.11])
        weight = torch.zeros(LATENTS, 3, 3, 3)
        for colour in range(3):
            weight[colour, colour, :2, :2] = 0.4
        weight[DETAIL, :, 0, 0] = 3 * brightness
        weight[DETAIL, :, 1, 1] = -3 * brightness
        self.weight = nn.Parameter(weight)
        self.register_buffer("length", weight.flatten(1).norm(dim=1))

    def normalised(self) -> Tensor:
        """Return the filters with their fixed norms: (4, 3, 3, 3)."""
        length = self.get_buffer("length") / self.weight.flatten(1).norm(dim=1)
        scaled: Tensor = self.weight * length.view(-1, 1, 1, 1)
        return scaled

    def forward(self, pictures: Tensor) -> Tensor:
        """Encode `pictures` exactly as the finished encoder does."""
        padded = functional.pad(pictures, (0, 1, 0, 1))
        latents = functional.conv2d(padded, self.normalised(), stride=2)
        offset = torch.zeros(LATENTS, 1, 1)
        offset[DETAIL] = OFFSET
        return latents + offset


def build() -> AutoencoderKL:
    """Build an untrained autoencoder; one norm group preserves the relative channel means."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENTS,
        block_out_channels=(WIDTH, WIDTH),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=1,
        mid_block_add_attention=False,
        sample_size=64,
        scaling_factor=1.0,
    )
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if ".conv2." in name:  # residual blocks begin as the identity
                parameter.zero_()
        decoder = vae.decoder
        decoder.conv_in.bias[:2] = torch.tensor([6.0, -6.0])
        decoder.conv_in.weight[:2] = 0
        vae.post_quant_conv.weight.copy_(torch.eye(LATENTS).view(LATENTS, LATENTS, 1, 1))
        vae.post_quant_conv.bias.zero_()
        vae.post_quant_conv.bias[DETAIL] = -OFFSET
    return vae


@torch.no_grad()
def write_encoder(vae: AutoencoderKL, filters: Filters) -> None:
    """Write `filters` into `vae`, so that `vae.encode` computes them."""
    encoder = vae.encoder
    for convolution in (encoder.conv_in, encoder.conv_out, vae.quant_conv):
        convolution.weight.zero_()
        convolution.bias.zero_()
    for colour in range(3):
        encoder.conv_in.weight[colour, colour, 1, 1] = 1
    down = encoder.down_blocks[0].downsamplers[0].conv
    down.weight.zero_()
    down.bias.zero_()
    weight = filters.normalised()
    for latent in range(LATENTS):  # a pair of signs, since silu(x) - silu(-x) = x
        down.weight[2 * latent, :3] = weight[latent]
        down.weight[2 * latent + 1, :3] = -weight[latent]
        encoder.conv_out.weight[latent, 2 * latent, 1, 1] = 1
        encoder.conv_out.weight[latent, 2 * latent + 1, 1, 1] = -1
        vae.quant_conv.weight[latent, latent, 0, 0] = 1
    down.bias[-2:] = torch.tensor([CONSTANT, -CONSTANT])
    encoder.conv_norm_out.weight.fill_(CONSTANT * math.sqrt(2 / WIDTH))
    encoder.conv_norm_out.bias.zero_()
    vae.quant_conv.bias[DETAIL] = OFFSET
    vae.quant_conv.bias[LATENTS:] = LOG_VARIANCE


def decoder_parameters(vae: AutoencoderKL) -> list[nn.Parameter]:
    """Return the parameters that the training of the decoder changes."""
    return [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
