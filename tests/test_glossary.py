"""The layer tables, walks and glossaries of the READMEs agree with the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_arrows import FILES, LAYERS, ROOT

READMES = {name: (ROOT / name / "README.md").read_text() for name in ("daemon", "pipeline")}
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


def table(package: str, title: str) -> list[list[str]]:
    """Return the rows of the table under a heading of a README, without its head."""
    text = READMES[package].split(f"\n## {title}\n")[1].split("\n## ")[0]
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


@pytest.mark.parametrize(
    ("package", "title", "layers"),
    [
        ("daemon", "Layers", "daemon"),
        ("pipeline", "Layers", "pipeline"),
        ("pipeline", "The worker's layers", "pipeline/worker"),
    ],
)
def test_a_layer_table_has_the_order_of_the_imports(package: str, title: str, layers: str) -> None:
    assert [name.strip("`") for name, _ in table(package, title)] == list(LAYERS[layers])


@pytest.mark.parametrize(("package", "steps"), [("daemon", 9), ("pipeline", 15)])
def test_each_file_of_a_walk_exists(package: str, steps: int) -> None:
    walk = READMES[package].split("```")[1]
    files = {ROOT / package / name for name in re.findall(r"[\w/]+\.py\b", walk)}
    assert {file for file in files if not file.is_file()} == set()
    assert len(files) >= steps


@pytest.mark.parametrize(
    ("package", "title", "terms"),
    [("daemon", "Glossary", 20), ("pipeline", "Words of diffusers", 10)],
)
def test_each_code_name_of_a_glossary_is_used(package: str, title: str, terms: int) -> None:
    known = {name for tree in TREES.values() for name in identifiers(tree)}
    listed = [set(re.findall(r"`(\w+)`", row[1])) for row in table(package, title)]
    assert all(listed)
    assert set().union(*listed) - known == set()
    assert len(listed) >= terms


def test_the_words_of_diffusers_are_where_the_table_says() -> None:
    wrong = [
        (name, file)
        for _, names, file in table("pipeline", "Words of diffusers")
        for name in re.findall(r"`(\w+)`", names)
        if name not in (ROOT / "pipeline" / file.strip("`")).read_text()
    ]
    assert wrong == []


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
