"""The daemon with a fault: `python -m tests.system.saboteur run`.

SABOTAGE="MODULE:CLASS.METHOD=COUNT": the first COUNT calls of that method or function raise.
"""

import asyncio
import functools
import importlib
import inspect
import itertools
import os
from typing import Any


class Sabotaged(Exception):
    """What a sabotaged function raises: no error that anybody expects."""


def sabotage(order: str) -> None:
    place, count = order.split("=")
    module_name, path = place.split(":")
    *owners, name = path.split(".")
    owner: Any = functools.reduce(getattr, owners, importlib.import_module(module_name))
    original = getattr(owner, name)
    calls = itertools.count(1)

    def fail() -> None:
        if next(calls) <= int(count):
            raise Sabotaged("a\ud800b\x1b[31m")

    if inspect.iscoroutinefunction(original):

        async def replacement(*arguments: Any, **named: Any) -> Any:
            await asyncio.sleep(0)
            fail()
            return await original(*arguments, **named)

    else:

        def replacement(*arguments: Any, **named: Any) -> Any:
            fail()
            return original(*arguments, **named)

    setattr(owner, name, replacement)


for each in os.environ["SABOTAGE"].split():
    sabotage(each)

import tests.chaos.launch  # noqa: E402, F401  # runs the daemon
