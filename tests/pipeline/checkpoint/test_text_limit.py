"""Text limit: what of a prompt is beyond the encoder's length, as transformers truncates it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.checkpoint.layout import find
from pipeline.checkpoint.text_limit import TextLimit, _offsets_by, text_limit_of
from pipeline.request.presets import MICRO, MICRO_FOLDER
from tests.pipeline.request.test_sampling_plan import spec

LENGTH = 77


@pytest.fixture(scope="module")
def limit() -> TextLimit:
    found = text_limit_of(MICRO)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def slow_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The vocabulary as the published checkpoint has it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    model = json.loads((MICRO_FOLDER / "tokenizer/tokenizer.json").read_text())["model"]
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return folder / "vocab.json", folder / "merges.txt"


@pytest.mark.parametrize(
    ("text", "unread"),
    [
        ("", ""),
        ("cat " * 75, ""),
        ("cat " * 75 + "tail", "tail"),
        ("cat, " * 37 + "cat " + "A tail, as it is  written", "A tail, as it is  written"),
        ("  " + "CAT " * 75 + " Ende\u202f", "Ende"),
    ],
)
def test_the_rest_is_said_as_it_was_written(limit: TextLimit, text: str, unread: str) -> None:
    assert limit.unread(text) == unread


texts = st.text(st.sampled_from("ab ,.'sWave猫é👨\u200d1  \n"), max_size=400)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(MICRO_FOLDER / "tokenizer")


@settings(deadline=None)
@given(texts)
@example("don't " * 60)
@example("e\u0301" * 200)
def test_the_length_is_counted_as_by_transformers(
    limit: TextLimit, tokenizer: Any, text: str
) -> None:
    is_longer = len(tokenizer(text).input_ids) > LENGTH
    assert bool(limit.unread(text)) <= is_longer
    if is_longer and (unread := limit.unread(text)):
        assert text.rstrip().endswith(unread)


@settings(deadline=None)
@given(texts)
def test_both_kinds_of_vocabulary_divide_a_text_alike(
    slow_files: tuple[Path, Path], text: str
) -> None:
    fast = _offsets_by(find(MICRO, small=True).tokenizer)
    assert list(_offsets_by(slow_files)(text)) == list(fast(text))


def test_a_model_without_a_readable_vocabulary_has_no_limit(tmp_path: Path) -> None:
    assert text_limit_of(str(tmp_path / "none")) is None
    assert text_limit_of("nobody/nothing") is None


def test_the_negative_prompt_counts_only_where_it_is_used(limit: TextLimit) -> None:
    long = "cat " * 75 + "tail"
    made = spec(prompt=long, negative_prompt=long)
    assert limit.unread_of(made) == {"prompt": "tail", "negative_prompt": "tail"}
    unguided = made.model_copy(update={"guidance": 1.0})
    assert limit.unread_of(unguided) == {"prompt": "tail"}
    assert limit.unread_of(spec(prompt="short")) == {}
