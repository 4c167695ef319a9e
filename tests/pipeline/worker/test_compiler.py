"""What is compiled: few pieces for all sizes, each proven, or nothing at all."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.worker.compiler import Compiler, NotCompiled, difference
from pipeline.worker.exact.block import block


@pytest.fixture(scope="module", autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield
    torch._dynamo.reset()


@block
def small(module: nn.Linear, x: Tensor) -> Tensor:
    y = module(x)
    y += functional.silu(y)
    return y


@block
def pair(module: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    return module(x), x + 1


def of(graph: Any, _: Any, change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """A backend whose results are changed ones."""
    return lambda *told: tuple(change(each) for each in graph.forward(*told))


def test_modules_of_one_shape_share_a_piece_and_so_do_sizes() -> None:
    compiler = Compiler("eager")
    told: list[int] = []
    compiler.on_piece = lambda: told.append(compiler.pieces)
    modules = [nn.Linear(4, 4) for _ in range(3)]
    with compiler.at_work():
        for rows in (4, 5, 9):
            for module in modules:
                x = torch.randn(rows, 4)
                assert torch.equal(small(module, x), small.__wrapped__(module, x))  # type: ignore[attr-defined]
        assert told == [1]
        small(nn.Linear(4, 5), torch.randn(7, 4))
        x = torch.randn(8, 2, 3).transpose(1, 2).flatten(1)[:, :4]
        assert torch.equal(pair(modules[0], x)[1], x + 1)
    assert told == [1, 2, 3]
    small(modules[0], torch.randn(3, 4))
    assert compiler.pieces == 3, "outside it is as it was"


def test_what_does_not_compile_is_told_with_its_reason() -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler here")

    with Compiler(broken).at_work(), pytest.raises(NotCompiled, match=r"^small: no compiler here$"):
        small(nn.Linear(4, 4), torch.ones(2, 4))


def test_what_a_c_compiler_complains_of_is_told() -> None:
    said = "C++ compile error\n\nOutput:\nx.cpp:1:10: fatal error: Python.h: No such file\n   1 |"

    def broken(*_: Any) -> Any:
        raise RuntimeError(said)

    told = r"^small: C\+\+ compile error: Python.h: No such file$"
    with Compiler(broken).at_work(), pytest.raises(NotCompiled, match=told):
        small(nn.Linear(4, 4), torch.ones(2, 4))


def test_what_fails_when_it_runs_is_told_and_lack_of_memory_is_lack_of_memory() -> None:
    def raising(error: Exception) -> Callable[..., Any]:
        def run(*_: Any) -> Any:
            raise error

        return lambda *_: run

    for error, told in (
        (RuntimeError("a kernel is wrong"), NotCompiled),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
        (torch.AcceleratorError("CUDA error: launch failure"), torch.AcceleratorError),
    ):
        with Compiler(raising(error)).at_work(), pytest.raises(told):
            small(nn.Linear(4, 4), torch.ones(2, 4))


@pytest.mark.parametrize("work", [small, pair])
@pytest.mark.parametrize(
    "change", [lambda y: y * 1.001, lambda y: y * torch.nan, lambda y: y.double()]
)
def test_what_differs_is_not_used(
    work: Callable[..., Any], change: Callable[[Tensor], Tensor]
) -> None:
    compiler = Compiler(partial(of, change=change))
    with (
        compiler.at_work(),
        pytest.raises(NotCompiled, match=rf"^{work.__name__}: compiled, it differs by"),
    ):
        work(nn.Linear(4, 4), torch.ones(2, 4))


@pytest.mark.parametrize(
    ("dtype", "rounding", "more"),
    [
        (torch.float32, 1e-6, 1e-3),
        (torch.float16, 5e-3, 3e-2),
        (torch.bfloat16, 2e-2, 2e-1),
    ],
)
def test_what_differs_by_rounding_is_used_and_what_differs_by_more_is_not(
    dtype: torch.dtype, rounding: float, more: float
) -> None:
    x, module = torch.randn(3, 4, dtype=dtype), nn.Linear(4, 4, dtype=dtype)
    with Compiler(partial(of, change=lambda y: y * (1 + rounding))).at_work():
        given = small(module, x)
    assert given.dtype == dtype
    assert 0 < difference(given, small(module, x)) < 2 * rounding
    wrong = Compiler(partial(of, change=lambda y: y * (1 + more)))
    with wrong.at_work(), pytest.raises(NotCompiled, match="it differs by"):
        small(module, x)


def test_what_cannot_be_traced_whole_is_not_compiled() -> None:
    @block
    def broken(x: Tensor) -> Tensor:
        y = x + 1
        torch._dynamo.graph_break()
        return y * 2

    with Compiler("eager").at_work(), pytest.raises(NotCompiled, match=r"^broken: "):
        broken(torch.ones(2, 4))


def test_what_is_traced_for_a_tensor_serves_its_views() -> None:
    compiler = Compiler("eager")
    module = nn.Linear(4, 4)
    with compiler.at_work():
        for origin in ((3, 4), (2, 5, 4), (2, 3, 2, 2), (8, 16)):
            x = torch.randn(origin).view(-1, 4)
            assert torch.equal(small(module, x), small.__wrapped__(module, x))  # type: ignore[attr-defined]
    assert compiler.pieces == 1


def test_no_kernel_is_chosen_by_which_was_faster_today() -> None:
    """By which a clip would have other bytes after each start."""
    config = torch._inductor.config
    seen: list[bool] = []

    def looking(graph: Any, _: Any) -> Callable[..., Any]:
        seen.append(config.deterministic)
        return graph.forward  # type: ignore[no-any-return]

    with Compiler(looking).at_work():
        small(nn.Linear(4, 4), torch.ones(2, 4))
    assert seen == [True]
    assert not config.deterministic


def test_a_difference_is_a_share_of_the_largest_and_what_is_no_number_in_both_is_none() -> None:
    one = torch.tensor([[4.0, torch.inf], [torch.nan, 0.0]])
    other = torch.tensor([[5.0, torch.nan], [torch.inf, 0.0]])
    assert difference(one, other) == pytest.approx(0.2)
    assert difference(other, torch.ones(2, 2)) == float("inf")
    assert difference(torch.zeros(2, 2), torch.zeros(2, 2)) == 0


def test_a_block_that_is_made_again_and_again_is_given_up() -> None:
    compiler = Compiler("eager", limit=3)
    with compiler.at_work(), pytest.raises(NotCompiled, match="small"):
        for width in range(2, 8):
            small(nn.Linear(width, 4), torch.ones(2, width))
    assert compiler.pieces == 3


@pytest.mark.slow
def test_a_second_process_takes_the_code_from_the_cache(tmp_path: Path) -> None:
    def once() -> Any:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        ended = subprocess.run(
            [sys.executable, "-m", "tests.pipeline.worker.once"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    folder, cached, pieces, given = once()
    assert (cached, pieces) == (0, 1)
    before = sorted(Path(folder).rglob("*.so"))
    assert before
    assert once() == [folder, 1, 1, given]
    assert sorted(Path(folder).rglob("*.so")) == before
