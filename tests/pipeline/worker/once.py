"""Build a C extension in the kernel cache, as Triton does for each kernel: a process for tests.

Prints the folder and what the extension says.
"""

import sys

from triton.runtime.build import compile_module_from_src

from pipeline.worker.optimizations import kernel_cache

SOURCE = """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "probe", "at work", -1, NULL};
PyMODINIT_FUNC PyInit_probe(void) { return PyModule_Create(&module); }
"""

folder = kernel_cache.set_up()
built = compile_module_from_src(SOURCE, "probe")
sys.stdout.write(f"{folder} {built.__doc__}\n")
