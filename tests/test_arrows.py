"""The arrows of the design: who may import whom."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "av"}
LAYERS = {
    "daemon": (
        "signals", "fs", "config", "devices", "jobs", "telemetry", "background", "storage",
        "estimate", "publish", "services", "webhooks", "retention", "intake",
        "dispatch", "fleet", "status", "collectors", "web", "app", "cli", "__main__",
    ),
    "pipeline": (
        "durable", "request", "checkpoint", "memory", "quality", "children", "sidecar", "image",
        "worker", "micro",
    ),
    "pipeline/worker": (
        "errors", "trace", "faults", "monkey_patch", "memory", "optimizations", "model",
        "placement", "output", "diffusion", "progress", "prefetch", "video_thread", "generate",
        "self_test", "bench", "server", "__main__",
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
    depth = len(Path(package).parts)
    dotted = package.replace("/", ".") + "."
    inside = [path for path in FILES if path.is_relative_to(package)]
    upwards = {
        f"{path} imports {name}"
        for path in inside
        if (own := path.parts[depth].removesuffix(".py")) != "__init__"
        for name in imports(path)
        if name.startswith(dotted) and rank[name.split(".")[depth]] > rank[own]
    }
    assert not upwards


def test_tests_are_in_folders_of_the_code() -> None:
    packages = {path.parent for path in FILES}
    tests = [
        path.relative_to(ROOT / "tests")
        for package in ("daemon", "pipeline", "rules")
        for path in (ROOT / "tests" / package).rglob("test_*.py")
    ]
    assert {str(path) for path in tests if path.parent not in packages} == set()
    assert len(tests) > 50


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
