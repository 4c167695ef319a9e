"""The real worker, whose compiled blocks are the plain ones, rounded otherwise: no minutes pass.

Where $ROUNDING is "never" they cannot be compiled.
"""

import os
from collections.abc import Callable
from typing import Any

from pipeline.worker.__main__ import main
from pipeline.worker.compiler import Compiler, NotCompiled


def run(_: Compiler, work: Callable[..., Any], *told: Any) -> Any:
    """A block's results, each a little larger."""
    if os.environ.get("ROUNDING") == "never":
        raise NotCompiled("never")
    given = work(*told)
    return tuple(map(larger, given)) if isinstance(given, tuple) else larger(given)


def larger(values: Any) -> Any:
    return values * (1 + 5e-5)


Compiler._run = run  # type: ignore[method-assign]
main()
