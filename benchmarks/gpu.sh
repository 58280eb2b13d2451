#!/usr/bin/env bash
# All that a GPU is needed for, in at most eight minutes: tests of the kernels there, then what they cost.
# On a machine with a GPU and a torch for it:   pip install -e ".[test]" && benchmarks/gpu.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-out/gpu}
mkdir -p "$folder"
timeout 180 python -m pytest -q tests/test_gpu.py 2>&1 | tee "$folder/tests.txt"
timeout 150 python -m benchmarks.gpu --networks resnet50 --rounds 10 --output "$folder" 2>&1 | tee "$folder/resnet50.txt"
mv "$folder/gpu.md" "$folder/resnet50.md"
timeout 150 python -m benchmarks.gpu --networks minilm_l6 --rounds 10 --compiled --output "$folder" 2>&1 | tee "$folder/minilm.txt"
