"""Compiles one block with torch's own compiler and tells what came of it: a process for tests.

python -m tests.pipeline.worker.once
"""

import json
import os
import sys

# What one piece does not need and would take most of the time: headers compiled ahead, trials of
# what the processor can do, and other processes that compile.
os.environ["TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"] = "0"
os.environ["TORCHINDUCTOR_VEC_ISA_OK"] = "1"
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"

import torch
from torch import nn
from torch._dynamo.utils import counters

from pipeline.worker import cache
from pipeline.worker.compiler import Compiler
from tests.pipeline.worker.test_compiler import small

torch.set_num_threads(1)
torch.manual_seed(0)
folder = cache.keep()
compiler = Compiler()
with torch.no_grad(), compiler.at_work():
    given = small(nn.Linear(4, 4), torch.randn(3, 4))
cached = counters["aot_autograd"]["autograd_cache_hit"]
json.dump([str(folder), cached, compiler.pieces, given.flatten().tolist()], sys.stdout)
