"""Tokenizer and text encoder of the micro checkpoint.

The text encoder is trained separately, before the UNet, to classify the motion of a prompt: at
every end token its state is trained towards one of ten orthogonal vectors. So the UNet attends to
an encoding of the motion, and need not learn English from video.
"""

import json
import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pipeline.micro.training import prompts
from pipeline.micro.training.motions import Motion

WIDTH = 64
TOKENS = 77
MERGES = 1170
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # as CLIP splits


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Build a CLIP tokenizer with merges learned on the grammar, and save it to `folder`.

    Words outside the grammar are split into shorter tokens, down to bytes.
    """
    rng = random.Random(0)
    motions = list(Motion)
    corpus = [prompts.say(rng, rng.choice(motions)) for _ in range(20_000)]
    corpus += list(prompts.NEGATIVES) * 200
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    last_letters = [letter + "</w>" for letter in alphabet]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    learner.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    learner.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=len(alphabet) + len(last_letters) + MERGES,
            min_frequency=3,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            continuing_subword_prefix="",
            # Equally frequent pairs merge in the order of their letters' numbers, which for last
            # letters is another one at each run, unless they are given.
            special_tokens=last_letters,
            show_progress=False,
        ),
    )
    found = json.loads(learner.to_str())["model"]["merges"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in found]
    words = [*alphabet, *last_letters, *(first + second for first, second in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def build_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build an untrained text encoder of three layers; the pipeline reads the second."""
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        encoder.embeddings.token_embedding.weight.mul_(5)
        encoder.embeddings.position_embedding.weight.mul_(3)
    return encoder.eval()


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Tokenize: (prompts, 77) token ids, padded with the end token, as in the pipeline."""
    batch = tokenizer(
        texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    )
    ids: Tensor = batch.input_ids
    return ids


def states(encoder: CLIPTextModel, ids: Tensor) -> Tensor:
    """Encode: (prompts, 77, width), penultimate layer with the final norm, as the pipeline."""
    hidden = encoder(ids, output_hidden_states=True).hidden_states[-2]
    result: Tensor = encoder.final_layer_norm(hidden)
    return result


def motion_vectors() -> Tensor:
    """Return the orthogonal unit vectors of the motions: (10, width)."""
    generator = torch.Generator().manual_seed(11)
    basis: Tensor = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
    return basis[: len(Motion)]


def motion_logits(encoder: CLIPTextModel, ids: Tensor) -> Tensor:
    """Return (prompts, 10): mean logits of the motions over the end tokens."""
    logits = states(encoder, ids) @ motion_vectors().T
    ends = (ids == encoder.config.eos_token_id).unsqueeze(-1)
    mean_logits: Tensor = (logits * ends).sum(dim=1) / ends.sum(dim=1)
    return mean_logits


def draw(rng: random.Random, count: int) -> tuple[list[str], Tensor]:
    """Draw `count` prompts and the indices of their motions."""
    motions = list(Motion)
    labels = [rng.randrange(len(motions)) for _ in range(count)]
    return [prompts.say(rng, motions[label]) for label in labels], torch.tensor(labels)


def loss(encoder: CLIPTextModel, ids: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross entropy of the motion at every end token."""
    logits = states(encoder, ids) @ motion_vectors().T
    ends = ids == encoder.config.eos_token_id
    targets = labels.unsqueeze(1).expand_as(ids)
    return functional.cross_entropy(logits[ends], targets[ends])


@torch.no_grad()
def accuracy(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, seed: int, count: int) -> float:
    """Return the share of new prompts whose motion is classified correctly."""
    texts, labels = draw(random.Random(seed), count)
    predicted = motion_logits(encoder, tokens(tokenizer, texts)).argmax(dim=1)
    return float((predicted == labels).float().mean())
