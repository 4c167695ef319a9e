"""The tokenizer and the text encoder of the micro checkpoint.

The text encoder is trained by itself, before the UNet, to say which motion a prompt asks for: at
every token after the prompt's end its state is drawn towards one of ten orthogonal vectors. What
the UNet attends to is therefore almost a motion's name, and it need not learn English from video.
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
    """A CLIP tokenizer whose merges were learned on the grammar, saved to `folder`.

    Words that the grammar does not know fall back to shorter pieces, down to bytes.
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
    """An untrained text encoder; of its three layers the pipeline reads the second."""
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
    """(prompts, 77) token numbers, padded with the end token, as the pipeline pads them."""
    batch = tokenizer(
        texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    )
    ids: Tensor = batch.input_ids
    return ids


def states(encoder: CLIPTextModel, ids: Tensor) -> Tensor:
    """(prompts, 77, width): the last layer but one under the final norm, as the pipeline reads."""
    hidden = encoder(ids, output_hidden_states=True).hidden_states[-2]
    result: Tensor = encoder.final_layer_norm(hidden)
    return result


def names() -> Tensor:
    """(10, width): the orthogonal unit vectors towards which the states are drawn."""
    generator = torch.Generator().manual_seed(11)
    basis: Tensor = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
    return basis[: len(Motion)]


def understood(encoder: CLIPTextModel, ids: Tensor) -> Tensor:
    """(prompts, 10): how strongly the tokens after the prompt say each motion."""
    logits = states(encoder, ids) @ names().T
    ends = (ids == encoder.config.eos_token_id).unsqueeze(-1)
    strength: Tensor = (logits * ends).sum(dim=1) / ends.sum(dim=1)
    return strength


def draw(rng: random.Random, count: int) -> tuple[list[str], Tensor]:
    """`count` prompts and the numbers of their motions."""
    motions = list(Motion)
    labels = [rng.randrange(len(motions)) for _ in range(count)]
    return [prompts.say(rng, motions[label]) for label in labels], torch.tensor(labels)


def loss(encoder: CLIPTextModel, ids: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the motion, read at every end token."""
    logits = states(encoder, ids) @ names().T
    ends = ids == encoder.config.eos_token_id
    wanted = labels.unsqueeze(1).expand_as(ids)
    return functional.cross_entropy(logits[ends], wanted[ends])


@torch.no_grad()
def accuracy(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, seed: int, count: int) -> float:
    """The share of fresh prompts whose motion the encoder names."""
    texts, labels = draw(random.Random(seed), count)
    guessed = understood(encoder, tokens(tokenizer, texts)).argmax(dim=1)
    return float((guessed == labels).float().mean())
