"""The layer table and the glossary of daemon/README.md agree with the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_arrows import FILES, LAYERS, ROOT

README = (ROOT / "daemon" / "README.md").read_text()
BANNED = {
    "daemon": {
        "hand": "running job",
        "ledger": "queue, job store",
        "outlook": "dry run",
        "presence": "membership",
        "room": "storage health",
        "settler": "stability tracker",
        "takeover": "recovery",
    },
    "pipeline": {
        "anatomy": "dimensions",
        "finisher": "video thread",
        "hand": "running job",
        "lookahead": "prefetch",
        "maker": "clip generator",
        "thrift": "memory policy",
    },
    "rules": {},
}
"""By package: former words, with the term that replaces each."""


def table(title: str) -> list[list[str]]:
    """Return the rows of the table under a heading of the README, without its head."""
    text = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in text.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Yield each name that the code gives or uses: definitions, parameters, variables, fields."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Name():
                yield node.id
            case ast.Attribute():
                yield node.attr
            case ast.arg():
                yield node.arg


def defined(path: Path, tree: ast.AST) -> Iterator[str]:
    """Yield the names of a file, and of its classes and functions."""
    yield path.stem
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name


def second_names(path: Path, tree: ast.AST) -> set[str]:
    """Return the defined names that hold a banned word, each with the better term."""
    banned = BANNED[path.parts[0]]
    return {
        f"{path}: {name}, better: {banned[word]}"
        for name in defined(path, tree)
        for word in words(name) & banned.keys()
    }


def words(name: str) -> set[str]:
    """Split snake_case and CamelCase into lower-case words."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


TREES = {path: ast.parse((ROOT / path).read_text()) for path in FILES}


def test_the_layer_table_has_the_order_of_the_imports() -> None:
    assert [name.strip("`") for name, _ in table("Layers")] == list(LAYERS["daemon"])


def test_each_code_name_of_the_glossary_is_used() -> None:
    known = {name for tree in TREES.values() for name in identifiers(tree)}
    listed = [set(re.findall(r"`(\w+)`", cell)) for _, cell, _ in table("Glossary")]
    assert all(listed)
    assert set().union(*listed) - known == set()
    assert len(listed) > 20


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_term_of_the_glossary_has_a_second_name(path: Path) -> None:
    assert second_names(path, TREES[path]) == set()


@pytest.mark.parametrize(
    ("path", "code", "banned"),
    [
        ("daemon/room.py", "", True),
        ("daemon/a.py", "class JobLedger: ...", True),
        ("daemon/a.py", "class A:\n    async def _take_hand(self): ...", True),
        ("daemon/a.py", "def handle(): ...", False),
        ("pipeline/a.py", "def room_for(): ...", False),
    ],
)
def test_a_second_name_is_found(path: str, code: str, banned: bool) -> None:
    assert bool(second_names(Path(path), ast.parse(code))) is banned
