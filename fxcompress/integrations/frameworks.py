"""The frameworks that there are callbacks for, and how one is made without importing the others."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from fxcompress.errors import InputError, did_you_mean, shown
from fxcompress.training.controller import CompositeController

FRAMEWORKS = {
    "transformers": "fxcompress.integrations.for_transformers",
    "lightning": "fxcompress.integrations.for_lightning",
    "mmengine": "fxcompress.integrations.for_mmengine",
    "accelerate": "fxcompress.integrations.for_accelerate",
}
"""The module with the callback for each framework; it imports the framework."""


def make_callback(framework: str, controller: CompositeController, model: nn.Module, **options: Any) -> Any:
    """The callback of `framework` that steps the schedules of `controller` while `model` is trained.

    Args:
        framework: a key of `FRAMEWORKS`.
        options: ``add_loss=False`` leaves adding ``controller.loss()`` to the user; Accelerate takes ``accelerator`` as well.

    Raises:
        InputError: there is no such framework here, or it is not installed.
    """
    if not isinstance(framework, str) or framework not in FRAMEWORKS:
        hint = did_you_mean(framework, FRAMEWORKS)
        raise InputError(f"there is no callback for {shown(framework)}{hint}; there are {', '.join(map(repr, FRAMEWORKS))}")
    try:
        module = importlib.import_module(FRAMEWORKS[framework])
    except ImportError as problem:
        raise InputError(
            f"a callback for {framework} needs {framework}, which cannot be imported ({problem}): pip install {framework}"
        ) from problem
    return module.callback(controller, model, **options)
