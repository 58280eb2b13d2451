"""What a script registers for initialisation, and how batches are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxcompress.compat.nncf.configuration import NNCFConfig
from fxcompress.data.inputs import ExampleInputs


class PTInitializingDataLoader:
    """A loader with a way to read its batches. Subclasses say which; by default the first item is the input."""

    def __init__(self, data_loader: Any):
        self._data_loader = data_loader

    @property
    def batch_size(self) -> int:
        return self._data_loader.batch_size

    def __iter__(self) -> Iterator[Any]:
        return iter(self._data_loader)

    def __len__(self) -> int:
        return len(self._data_loader)

    def get_inputs(self, dataloader_output: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (dataloader_output[0],), {}

    def get_target(self, dataloader_output: Any) -> Any:
        return dataloader_output[1]


@dataclass
class QuantizationRangeInitArgs:
    data_loader: Any
    device: Any = None


@dataclass
class BNAdaptationInitArgs:
    data_loader: Any
    device: Any = None


@dataclass
class QuantizationPrecisionInitArgs:
    criterion_fn: Callable[[Any, Any, Any], Tensor]
    criterion: Any
    data_loader: Any
    device: Any = None


@dataclass
class LeGRInitArgs:
    train_loader: Any
    train_fn: Callable[..., Any]
    val_loader: Any
    val_fn: Callable[..., Any]
    train_optimizer: Any
    nncf_config: Any


@dataclass
class AutoQPrecisionInitArgs:
    data_loader: Any
    eval_fn: Callable[..., Any]
    nncf_config: Any


@dataclass
class ModelEvaluationArgs:
    eval_fn: Callable[..., Any]


@dataclass
class ExecutionParameters:
    cpu_only: bool
    current_gpu: int | None


def default_criterion_fn(outputs: Any, target: Any, criterion: Any) -> Tensor:
    """The loss that `criterion` gives for what a model puts out."""
    return criterion(outputs, target)


def register_default_init_args(
    nncf_config: NNCFConfig,
    train_loader: Any,
    criterion: nn.Module | None = None,
    criterion_fn: Callable[[Any, Any, Any], Tensor] | None = None,
    train_steps_fn: Callable[..., Any] | None = None,
    validate_fn: Callable[..., Any] | None = None,
    val_loader: Any = None,
    autoq_eval_fn: Callable[..., Any] | None = None,
    model_eval_fn: Callable[..., Any] | None = None,
    distributed_callbacks: Any = None,
    execution_parameters: ExecutionParameters | None = None,
    legr_train_optimizer: Any = None,
    device: Any = None,
) -> NNCFConfig:
    """Keep a loader, and what else compression may ask for, in `nncf_config`, which is returned."""
    structs = [QuantizationRangeInitArgs(train_loader, device), BNAdaptationInitArgs(train_loader, device)]
    if train_loader and train_steps_fn and val_loader and validate_fn:
        structs.append(LeGRInitArgs(train_loader, train_steps_fn, val_loader, validate_fn, legr_train_optimizer, nncf_config))  # type: ignore[arg-type]
    if criterion is not None:
        structs.append(QuantizationPrecisionInitArgs(criterion_fn or default_criterion_fn, criterion, train_loader, device))  # type: ignore[arg-type]
    if model_eval_fn is not None:
        structs.append(ModelEvaluationArgs(model_eval_fn))  # type: ignore[arg-type]
    nncf_config.register_extra_structs(structs)
    return nncf_config


@dataclass(frozen=True)
class Given(ExampleInputs):
    """A call of the model with what a loader says are the inputs in what it yields."""

    loader: Any = None
    yielded: Any = None


class Batches:
    """The batches of a loader as `fxcompress.compile` takes data, on `device`."""

    def __init__(self, loader: Any, device: torch.device):
        self.loader, self.device = loader, device

    def __iter__(self) -> Iterator[Any]:
        for yielded in self.loader:
            if hasattr(self.loader, "get_inputs"):
                args, kwargs = self.loader.get_inputs(yielded)
                inputs = on(ExampleInputs(tuple(args) if isinstance(args, (tuple, list)) else (args,), kwargs), self.device)
                yield Given(inputs.args, inputs.kwargs, self.loader, yielded)
            else:
                yield pytree.tree_map_only(Tensor, lambda one: one.to(self.device), yielded)


def on(inputs: ExampleInputs, device: torch.device) -> ExampleInputs:
    """`inputs` with all tensors on `device`."""
    args, kwargs = pytree.tree_map_only(Tensor, lambda one: one.to(device), (inputs.args, inputs.kwargs))
    return ExampleInputs(args, kwargs)


def precision_loss(structure: QuantizationPrecisionInitArgs) -> Callable[[nn.Module, Any], Any]:
    """The loss that bit widths are chosen by, of a model and a batch of `Batches`."""

    def loss(model: nn.Module, batch: Any) -> Any:
        if not isinstance(batch, Given):
            return structure.criterion_fn(model(batch[0]), batch[1], structure.criterion)
        device = next(model.parameters()).device
        target = pytree.tree_map_only(Tensor, lambda one: one.to(device), batch.loader.get_target(batch.yielded))
        return structure.criterion_fn(model(*batch.args, **batch.kwargs), target, structure.criterion)

    return loss
