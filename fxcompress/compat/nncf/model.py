"""`create_compressed_model`, and what states are loaded by."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from fxcompress.capture import is_compressed, private_copy
from fxcompress.capture.recording import recording
from fxcompress.compat.nncf.configuration import NNCFConfig
from fxcompress.compat.nncf.controller import CompressionAlgorithmController, QuantizationController, children
from fxcompress.compat.nncf.environment import nncf_logger
from fxcompress.compat.nncf.initialization import (
    Batches,
    QuantizationPrecisionInitArgs,
    QuantizationRangeInitArgs,
    on,
    precision_loss,
)
from fxcompress.compat.nncf.inputs import FillerInputInfo
from fxcompress.compat.nncf.stripping import stripped
from fxcompress.compiled import Compiled
from fxcompress.config import Config
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import CheckpointError, InputError
from fxcompress.inplace.compression import Compression, compress
from fxcompress.parts import PartlyCompiled
from fxcompress.passes import AdaptBatchNorm, ChooseBits
from fxcompress.training import adapt_batch_norm as _adapt

_MADE: WeakKeyDictionary[nn.Module, Compression] = WeakKeyDictionary()
"""What was made by `create_compressed_model`, by the model that it returned."""


class _Compressed(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, nn.Module) and any(map(is_compressed, instance.modules()))


class NNCFNetwork(metaclass=_Compressed):
    """Every model that is compressed, or whose parts are, is an instance; it keeps its own class."""


def get_nncf_network_type(model: nn.Module) -> type:
    """The class of `model`, which it keeps."""
    return type(model)


def create_compressed_model(
    model: nn.Module,
    config: NNCFConfig,
    compression_state: Mapping[str, Any] | None = None,
    dummy_forward_fn: Callable[..., Any] | None = None,
    wrap_inputs_fn: Callable[..., Any] | None = None,
    wrap_outputs_fn: Callable[..., Any] | None = None,
    dump_graphs: bool = False,
) -> tuple[CompressionAlgorithmController, nn.Module]:
    """A controller, and a copy of `model` compressed as `config` says, with its class, attributes and methods.

    Its parts are compressed where it cannot be traced as a whole, or returns something else in training (auxiliary heads).

    What of `config` is ignored, and why, is a warning of the logger ``nncf``.

    Args:
        compression_state: of `get_compression_state`: ranges and masks are not looked for, but come with the model's state.
        dummy_forward_fn: calls the model that it is given; looked at where neither data nor ``input_info`` say with what.
        wrap_inputs_fn, wrap_outputs_fn, dump_graphs: not needed, and not looked at.

    Raises:
        ConfigError, InputError: see `fxcompress.Config` and `fxcompress.compress`.
    """
    config = config if isinstance(config, NNCFConfig) else NNCFConfig.from_dict(config)
    wanted = config.as_config()
    for note in wanted.notes:
        nncf_logger.warning("%s", note)
    data: Any = None
    if config.has_extra_struct(QuantizationRangeInitArgs):
        data = Batches(config.get_extra_struct(QuantizationRangeInitArgs).data_loader, _device(model))
    if compression_state is not None:
        wanted, data = _resumed(wanted, compression_state), _first(data)
    example = None if data is not None else _example(wanted, model, dummy_forward_fn)
    if example is not None and compression_state is not None:
        data = [example]
    if data is None and any(one.reads_data for one in wanted.passes):
        raise InputError("compression needs data, for ranges and the like: register_default_init_args(config, loader)")
    if config.has_extra_struct(QuantizationPrecisionInitArgs) and any(isinstance(one, ChooseBits) for one in wanted.passes):
        wanted = wanted.given(loss=precision_loss(config.get_extra_struct(QuantizationPrecisionInitArgs)))
    twin = _copy(model)
    compression = compress(twin, config=wanted, example_inputs=example, data=data, dynamic_shapes=None)
    algorithms = {path.rpartition("/")[2] for path, _ in children(compression.controller)}
    alone = len(algorithms) == 1 and algorithms <= {"TrainQuantizers", "Binarize"}
    kind = QuantizationController if alone else CompressionAlgorithmController
    made = kind(compression, _inputs(config, compression.compiled))
    made.original = model if config.get("accuracy_aware_training") else None
    _MADE[twin] = compression
    if compression_state is not None:
        made.scheduler.load_state(compression_state["scheduler"])
    return made, twin


def _copy(model: nn.Module) -> nn.Module:
    """A copy of `model`, each of whose modules is in training where the original is."""
    twin = private_copy(model)
    for copied, original in zip(twin.modules(), model.modules()):
        copied.training = original.training
    return twin


def _example(wanted: Config, model: nn.Module, dummy_forward_fn: Callable[..., Any] | None) -> ExampleInputs | None:
    """A call of `model` as the file describes it, or as `dummy_forward_fn` makes it; None where neither is there."""
    if dummy_forward_fn is None:
        example = wanted.example()
        return None if example is None else on(example, _device(model))
    twin = private_copy(model)
    with recording({"": twin}) as calls, torch.no_grad():
        dummy_forward_fn(twin)
    if not calls:
        raise InputError("dummy_forward_fn does not call the model that it is given")
    return calls[""][0]


def _device(model: nn.Module) -> torch.device:
    return next((one.device for one in model.parameters()), torch.device("cpu"))


def _inputs(config: NNCFConfig, compiled: Compiled | PartlyCompiled) -> FillerInputInfo:
    """The inputs that the file names, else those that the model was compiled with."""
    if config.get("input_info"):
        return FillerInputInfo.from_nncf_config(config)
    return FillerInputInfo.of_example(compiled.compilation.example) if isinstance(compiled, Compiled) else FillerInputInfo([])


def _resumed(wanted: Config, state: Mapping[str, Any]) -> Config:
    """`wanted` without what is measured on data, since bit widths and statistics come back with the model's state."""
    if not isinstance(state, Mapping) or not {"scheduler", "config"} <= state.keys():
        raise CheckpointError("this is no compression state; give what get_compression_state() returned")
    return replace(wanted, passes=tuple(one for one in wanted.passes if not isinstance(one, (ChooseBits, AdaptBatchNorm))))


def _first(data: Any) -> Any:
    return None if data is None else [next(iter(data))]


def load_state(
    model: nn.Module,
    state_dict_to_load: Mapping[str, Any],
    is_resume: bool = False,
    keys_to_ignore: Iterable[str] | None = None,
) -> int:
    """Load what `model` has of the state, whose names may begin with ``module.``; returns how many tensors that were.

    Raises:
        CheckpointError: with `is_resume`, the state lacks some of the model's, or has others; names them.
    """
    ignored = tuple(keys_to_ignore or ())
    given = {name.removeprefix("module."): value for name, value in state_dict_to_load.items()}
    own = {name.removeprefix("module."): value for name, value in model.state_dict().items()}
    fitting = {
        name: value
        for name, value in given.items()
        if name in own and name not in ignored and getattr(value, "shape", None) == getattr(own[name], "shape", None)
    }
    missing, other = sorted(own.keys() - fitting.keys() - set(ignored)), sorted(given.keys() - fitting.keys() - set(ignored))
    if is_resume and (missing or other):
        raise CheckpointError(
            f"the state is of another model: it lacks {missing[:5]}, and has {other[:5]}, of another name or shape"
        )
    getattr(model, "module", model).load_state_dict(fitting, strict=False)
    return len(fitting)


def strip(model: nn.Module, do_copy: bool = True) -> nn.Module:
    """`model` with torch's own `fake_quantize` in place of quantizers; see the controller's `strip`."""
    return stripped(copy.deepcopy(model) if do_copy else model)


class BatchnormAdaptationAlgorithm:
    """`adapt_batch_norm` as an object."""

    def __init__(self, data_loader: Any, num_bn_adaptation_samples: int, device: Any = None):
        self.data_loader, self.samples = data_loader, num_bn_adaptation_samples

    def run(self, model: nn.Module) -> None:
        adapt_batch_norm(model, self.data_loader, self.samples)


def adapt_batch_norm(model: nn.Module, data: Any, samples: int | None = 2000) -> int:
    """See `fxcompress.training.adapt_batch_norm`; `data` may be a loader that reads its own batches."""
    return _adapt(_MADE[model].compiled if model in _MADE else model, Batches(data, _device(model)), samples)
