"""Another ggml in the process does no harm: llama-cpp-python before and after ggembed."""

from __future__ import annotations

import importlib.util

import pytest

needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None,
    reason="llama-cpp-python is not installed; it is built from source, so this test is opt-in",
)

OURS = """
from ggembed import Embedder
embedder = Embedder(sys.argv[1], n_threads=1)
ours = embedder.encode("the question", normalize_embeddings=False)
"""
THEIRS = """
import llama_cpp
llama = llama_cpp.Llama(
    sys.argv[1], embedding=True, verbose=False, n_threads=1, n_ctx=64, n_gpu_layers=0
)
theirs = np.array(llama.embed("the question", normalize=False))
"""
COMPARE = """
for _ in range(3):
    again = embedder.encode("the question", normalize_embeddings=False)
    also = np.array(llama.embed("the question", normalize=False))
cosine = lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
assert cosine(ours, theirs) > 0.99999, cosine(ours, theirs)
assert cosine(ours, again) > 0.99999 and cosine(theirs, also) > 0.99999
embedder.close()
llama.close()
print("ok")
"""


@needs_llama_cpp
@pytest.mark.parametrize("order", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours first", "ours last"])
def test_both_compute_the_same_row(run_python, tiny, order):
    program = "import sys\nimport numpy as np\n" + "".join(order) + COMPARE
    done = run_python(program, tiny("bert-mean"))
    assert done.stdout == "ok\n", done.stderr
