"""Text limit: the part of a prompt that is beyond the text encoder's length.

The encoder of I2VGen-XL reads 77 tokens, two of which mark the start and the end. The rest of a
prompt has no effect on the clip. Loads the vocabulary only, so that the daemon can tell beforehand.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.checkpoint import layout
from pipeline.request.spec import Spec

_START_AND_END = 2
_USUAL_LENGTH = 77

# How CLIP divides a text into words, as in transformers' CLIPTokenizer.
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)

Offsets = Callable[[str], Sequence[tuple[int, int]]]
"""Returns start and end of each token of a text, without the marks of start and end."""


class TextLimit:
    """Length of a text encoder in tokens, and the division of a text into tokens."""

    def __init__(self, length: int, offsets: Offsets) -> None:
        self.length = length
        self._offsets = offsets

    def unread(self, text: str) -> str:
        """Return the end of a text that the encoder does not read; empty if it reads all."""
        kept = self.length - _START_AND_END
        offsets = self._offsets(text)
        return text[offsets[kept][0] :].strip() if len(offsets) > kept else ""

    def unread_of(self, spec: Spec) -> dict[str, str]:
        """Return the unread end of each prompt of a clip, by its key; without those read whole."""
        texts = {"prompt": spec.prompt}
        if spec.guided:
            texts["negative_prompt"] = spec.negative_prompt
        found = {key: self.unread(text) for key, text in texts.items()}
        return {key: text for key, text in found.items() if text}


def text_limit_of(model: str) -> TextLimit | None:
    """Return the limit of a model; None if the model is not there or its vocabulary is unknown."""
    try:
        files = layout.find(model, small=True)
    except layout.ModelUnusable:
        return None
    length = files.configs["tokenizer"].get("model_max_length")
    try:
        offsets = _offsets_by(files.tokenizer)
    except Exception:  # the library raises Exception itself for a file that it cannot read
        return None
    return TextLimit(length if isinstance(length, int) else _USUAL_LENGTH, offsets)


@functools.lru_cache(maxsize=2)
def _offsets_by(files: Sequence[Path]) -> Offsets:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    by_name = {file.name: str(file) for file in files}
    if "tokenizer.json" in by_name:
        tokenizer = Tokenizer.from_file(by_name["tokenizer.json"])
        tokenizer.no_truncation()
        tokenizer.no_padding()
    else:
        vocabulary = models.BPE.from_file(
            by_name["vocab.json"],
            by_name["merges.txt"],
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token="<|endoftext|>",
        )
        tokenizer = Tokenizer(vocabulary)
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )

    def offsets(text: str) -> Sequence[tuple[int, int]]:
        return list(tokenizer.encode(text, add_special_tokens=False).offsets)

    return offsets
