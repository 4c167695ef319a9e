"""The arrows of the design: who may import whom."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "av"}
LAYERS = {
    "daemon": (
        "fs", "config", "devices", "jobs", "telemetry", "storage", "estimate", "publish",
        "services", "webhooks", "intake", "dispatch", "fleet", "status", "collectors", "web",
        "app", "cli", "__main__",
    ),
    "pipeline": (
        "request", "checkpoint", "memory", "quality", "children", "sidecar", "image", "worker",
        "micro",
    ),
}  # fmt: skip
"""Files and folders from the bottom: each imports only itself and what stands before it."""

FILES = sorted(
    path.relative_to(ROOT)
    for package in ("daemon", "pipeline", "rules")
    for path in (ROOT / package).rglob("*.py")
)


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def forbidden(path: Path) -> set[str]:
    """What a file must not import."""
    package, *rest = path.parts
    in_worker = package == "pipeline" and rest[0] in ("worker", "micro")
    no = set() if in_worker else set(HEAVY)
    if package != "daemon":
        no |= {"daemon"}
    if package == "rules":
        no |= {"pipeline"}
    if package == "daemon":
        no |= {"pipeline.worker"}
    if not in_worker and path.parts[:2] != ("pipeline", "image"):
        no |= {"PIL", "pillow_heif"}
    return no


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_follow_the_arrows(path: Path) -> None:
    wrong = {
        name
        for name in imports(path)
        for no in forbidden(path)
        if name == no or name.startswith(f"{no}.")
    }
    assert not wrong


def module(path: Path) -> str:
    """The dotted name of a file."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_import_leads_back_to_where_it_came_from() -> None:
    modules = {module(path): path for path in FILES}
    graph = {name: imports(path) & modules.keys() - {name} for name, path in modules.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_downwards(package: str) -> None:
    rank = {name: number for number, name in enumerate(LAYERS[package])}
    paths = [path for path in FILES if path.parts[0] == package and path.parts[1] != "__init__.py"]
    upwards = {
        f"{path} imports {name}"
        for path in paths
        for name in imports(path)
        if name.startswith(f"{package}.")
        and rank[name.split(".")[1]] > rank[path.parts[1].removesuffix(".py")]
    }
    assert not upwards


_MODULES = {"huggingface-hub": "huggingface_hub", "nvidia-ml-py": "pynvml", "pillow": "PIL"}
"""Modules whose names differ from their distributions' by more than case and hyphens."""

_IMPORTED_BY_OTHERS = {"python-multipart"}  # FastAPI imports it, for uploads


def test_every_dependency_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w.-]", each)[0] for each in project["dependencies"]}
    imported = {name.partition(".")[0] for path in FILES for name in imports(path)}
    missing = {
        name for name in names if _MODULES.get(name, name.lower().replace("-", "_")) not in imported
    }
    assert missing == _IMPORTED_BY_OTHERS


@pytest.mark.parametrize(
    ("starting", "without"),
    [("daemon.app", HEAVY | {"PIL"}), ("daemon.cli.commands", HEAVY | {"PIL", "sqlalchemy"})],
)
def test_what_starts_often_starts_without_the_heavy_libraries(
    starting: str, without: set[str]
) -> None:
    code = f"import sys, {starting}; print([m for m in {sorted(without)!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
