"""Small things that scripts import from NNCF."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import random
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

from fxcompress.compat.nncf.controller import NNCFStatistics

nncf_logger = logger = logging.getLogger("nncf")
CACHE_MODELS_PATH = Path(os.environ.get("TORCH_HOME", Path.home() / ".cache")) / "nncf" / "models"

Kept = TypeVar("Kept")

HWConfigType = Enum("HWConfigType", {"CPU": "CPU", "GPU": "GPU", "VPU": "VPU"})
TargetDevice = Enum(
    "TargetDevice", {"ANY": "ANY", "CPU": "CPU", "GPU": "GPU", "VPU": "VPU", "NPU": "NPU", "CPU_SPR": "CPU_SPR"}
)


def is_dist_avail_and_initialized() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def is_main_process() -> bool:
    return not is_dist_avail_and_initialized() or distributed.get_rank() == 0


def is_linux() -> bool:
    return platform.system() == "Linux"


def is_windows() -> bool:
    return platform.system() == "Windows"


def get_model_device(model: nn.Module) -> torch.device:
    """Where the first parameter of `model` is."""
    return next((one.device for one in model.parameters()), torch.device("cpu"))


def get_rank() -> int:
    return distributed.get_rank() if is_dist_avail_and_initialized() else 0


def get_world_size() -> int:
    return distributed.get_world_size() if is_dist_avail_and_initialized() else 1


def safe_thread_call(main_call_fn: Callable[[], Any], after_barrier_call_fn: Callable[[], Any] | None = None) -> Any:
    """What the function returns, which the first process calls before the others do."""
    if not is_dist_avail_and_initialized():
        return main_call_fn()
    found = main_call_fn() if is_main_process() else None
    distributed.barrier()
    return found if is_main_process() else (after_barrier_call_fn or main_call_fn)()


def manual_seed(seed: int) -> None:
    """Seed all generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def safe_open(file: Path, *args: Any, **kwargs: Any) -> Iterator[Any]:
    """An open file, which is no link.

    Raises:
        RuntimeError: it is.
    """
    if Path(file).is_symlink():
        raise RuntimeError(f"{file} is a link, which is not followed")
    with open(file, *args, **kwargs) as opened:
        yield opened


def prepare_for_tensorboard(statistics: NNCFStatistics) -> dict[str, float]:
    """The numbers among the statistics, by name."""
    return dict(statistics.numbers)


@contextlib.contextmanager
def no_nncf_trace() -> Iterator[None]:
    """Nothing is to be done: models are traced by torch.export."""
    yield


forward_nncf_trace = disable_tracing = no_nncf_trace


class TracedTensor(Tensor):
    """What no tensor is: models are not traced while they run."""


class CompressionParameter(nn.Parameter):
    """What no parameter is: those of quantizers and masks are torch's own."""


def get_current_context() -> None:
    """None: models are not traced while they run."""


def force_build_cpu_extensions() -> None:
    """Nothing is to be done: kernels are built when they are first needed."""


force_build_cuda_extensions = force_build_cpu_extensions


def is_tracing_state() -> bool:
    """Whether torch.jit traces: a model may then put out something else. It does not while it is compiled."""
    return torch._C._get_tracing_state() is not None


@contextlib.contextmanager
def no_jit_trace() -> Iterator[None]:
    """What is called inside stays out of a trace of torch.jit."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)


def add_domain(name_operator: str) -> str:
    """The name of OpenVINO's own ONNX operator."""
    return f"org.openvinotoolkit::{name_operator}"


def unchanged(*args: Any, **kwargs: Any) -> Callable[[Kept], Kept]:
    """A decorator that changes nothing: operators and modules need no registration."""
    return lambda one: one


def as_it_is(value: Kept) -> Kept:
    """An input or output of a model, which needs no mark."""
    return value


def as_they_are(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The inputs of a model, which need no mark."""
    return args, kwargs


def disable_logging() -> None:
    nncf_logger.disabled = True


def set_log_level(level: int) -> None:
    nncf_logger.setLevel(level)
