"""Compile the Triton kernels for a GPU that need not be present: `compile_kernels 90` for an H100.

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
    "_channel_moments": {"TILES": 4, "ROWS": 64, "COLUMNS": 64},
    "_combine_moments": {"SHIFTED": True, "SEGMENTS": 16, "WIDTH": 16},
    "_scale_shift": {"ACTIVATE": True, "ROWS": 64, "COLUMNS": 64},
    "_add_bias_residual": {"ROWS": 64, "COLUMNS": 64},
    "_layer_norm": {"RESIDUAL": True, "ROWS": 8, "WIDTH": 512},
    "_geglu": {"ROWS": 32, "COLUMNS": 128},
    "_temporal_attention": {"FRAMES": 16, "WIDTH": 64},
}
_POINTERS = ("x", "y", "residual", "weight", "bias", "shift_in", "queries", "keys", "values")


def signature(names: list[str], name: str) -> dict[str, str]:
    """Return the Triton type of each argument of a kernel."""
    kinds = {}
    for each in names:
        if each in SIZES[name]:
            kinds[each] = "constexpr"
        elif each in ("eps", "scale"):
            kinds[each] = "fp32"
        elif each in ("moments", "scales", "result"):
            kinds[each] = WIDE
        else:
            kinds[each] = HALF if each in _POINTERS else COUNT
    return kinds


def main(capability: int) -> None:
    """Compile all kernels for a compute capability."""
    for name, sizes in SIZES.items():
        kernel = getattr(triton_kernels, name)
        names = kernel.arg_names
        source = ASTSource(
            fn=kernel,
            signature=signature(names, name),
            constexprs={(names.index(each),): value for each, value in sizes.items()},
        )
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        sys.stdout.write(f"{name} {len(made.asm['cubin'])}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
