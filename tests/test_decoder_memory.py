"""What a decoder of 220 M parameters takes beside itself to be compiled, written and checked, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MOST = {
    "float32": {"compile": 0.3, "held after compile": 0.25, "and the file": 0.3, "and the file, verified": 0.3},
    "bfloat16": {"compile": 1.5, "held after compile": 0.45, "and the file": 1.5, "and the file, verified": 1.5},
}
"""Of the model's own size, with weights alone compressed; a copy of the model is 1, and one of bfloat16 in float32 is 2."""


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="what a process holds is Linux's to tell")
@pytest.mark.parametrize("dtype", MOST)
def test_weights_alone_are_compressed_without_a_copy_of_the_model(dtype):
    command, root = [sys.executable, "-m", "benchmarks.memory", "--dtype", dtype], Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert not done.returncode, done.stderr[-2000:]
    told = [line.partition(" of the model")[0] for line in done.stdout.splitlines() if " of the model" in line]
    rows = [line.rsplit(maxsplit=1) for line in told]
    shares = {name.strip(): float(share) for name, share in rows}
    assert {name: shares[name] for name, most in MOST[dtype].items() if shares[name] > most} == {}, done.stdout
