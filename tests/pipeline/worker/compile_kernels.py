"""Compile our kernels for a card that need not be there: `compile_kernels 90` for an H100.

Prints each kernel's name and the bytes of its machine code.
"""

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pipeline.worker.optimizations import triton_kernels

HALF, WIDE, COUNT = "*fp16", "*fp32", "i32"
SIZES: dict[str, dict[str, Any]] = {
    "_moments": {"TILES": 4, "ROWS": 64, "COLUMNS": 64},
    "_scales": {"ADDED": True, "STRETCHES": 16, "WIDTH": 16},
    "_scaled": {"ACTIVATE": True, "ROWS": 64, "COLUMNS": 64},
    "_summed": {"ROWS": 64, "COLUMNS": 64},
    "_normed": {"ADDED": True, "ROWS": 8, "WIDTH": 512},
    "_gated": {"ROWS": 32, "COLUMNS": 128},
    "_over_time": {"FRAMES": 16, "WIDTH": 64},
}
_POINTERS = ("x", "y", "more", "weight", "bias", "added", "queries", "keys", "values")


def signature(names: list[str], name: str) -> dict[str, str]:
    """What Triton takes each argument for."""
    kinds = {}
    for each in names:
        if each in SIZES[name]:
            kinds[each] = "constexpr"
        elif each in ("eps", "scale"):
            kinds[each] = "fp32"
        elif each in ("found", "scales", "result"):
            kinds[each] = WIDE
        else:
            kinds[each] = HALF if each in _POINTERS else COUNT
    return kinds


def main(card: int) -> None:
    """Compile all of them."""
    for name, sizes in SIZES.items():
        kernel = getattr(triton_kernels, name)
        names = kernel.arg_names
        source = ASTSource(
            fn=kernel,
            signature=signature(names, name),
            constexprs={(names.index(each),): value for each, value in sizes.items()},
        )
        made = triton.compile(source, target=GPUTarget("cuda", card, 32))
        sys.stdout.write(f"{name} {len(made.asm['cubin'])}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
