"""`create_compressed_model`, and what states are loaded by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

import fxcompress
from fxcompress.compat.nncf.configuration import NNCFConfig
from fxcompress.compat.nncf.controller import CompressionAlgorithmController, QuantizationController, children
from fxcompress.compat.nncf.environment import nncf_logger
from fxcompress.compat.nncf.initialization import Batches, QuantizationPrecisionInitArgs, QuantizationRangeInitArgs
from fxcompress.compat.nncf.inputs import FillerInputInfo
from fxcompress.compiled import Compiled
from fxcompress.config import Config
from fxcompress.errors import CheckpointError
from fxcompress.inplace.alike import parts_that_train_alike
from fxcompress.parts import PartlyCompiled
from fxcompress.passes import AdaptBatchNorm, ChooseBits
from fxcompress.pattern.scopes import OPTIONAL
from fxcompress.training import adapt_batch_norm as _adapt

NNCFNetwork = Compiled | PartlyCompiled
"""What `create_compressed_model` returns beside the controller."""


def create_compressed_model(
    model: nn.Module,
    config: NNCFConfig,
    compression_state: Mapping[str, Any] | None = None,
    dummy_forward_fn: Callable[..., Any] | None = None,
    wrap_inputs_fn: Callable[..., Any] | None = None,
    wrap_outputs_fn: Callable[..., Any] | None = None,
    dump_graphs: bool = False,
) -> tuple[CompressionAlgorithmController, nn.Module]:
    """A controller, and `model` compressed as `config` says; `model` itself stays as it is.

    Its parts are compressed where it cannot be traced as a whole, or returns something else in training (auxiliary heads).

    What of `config` is ignored, and why, is a warning of the logger ``nncf``.

    Args:
        compression_state: of `get_compression_state`: ranges and masks are not looked for, but come with the model's state.
        dummy_forward_fn, wrap_inputs_fn, wrap_outputs_fn, dump_graphs: not needed, and not looked at.

    Raises:
        ConfigError, InputError: see `fxcompress.Config` and `fxcompress.compile`.
    """
    config = config if isinstance(config, NNCFConfig) else NNCFConfig.from_dict(config)
    wanted = config.as_config()
    for note in wanted.notes:
        nncf_logger.warning("%s", note)
    data: Any = None
    if config.has_extra_struct(QuantizationRangeInitArgs):
        data = Batches(config.get_extra_struct(QuantizationRangeInitArgs).data_loader)
    if compression_state is not None:
        wanted, data = _resumed(wanted, compression_state), _first(data)
    if data is None and wanted.inputs:
        example = wanted.example()
        assert example is not None
        data = [_on(example, model)] if compression_state is not None or not _needs_data(wanted) else None
    if config.has_extra_struct(QuantizationPrecisionInitArgs) and any(isinstance(one, ChooseBits) for one in wanted.passes):
        wanted = wanted.given(loss=_loss(config.get_extra_struct(QuantizationPrecisionInitArgs)))
    compiled = _as_it_trains(fxcompress.compile(model, config=wanted, data=data), model, wanted, data)
    algorithms = {path.rpartition("/")[2] for path, _ in children(compiled.controller)}
    alone = len(algorithms) == 1 and algorithms <= {"TrainQuantizers", "Binarize"}
    kind = QuantizationController if alone else CompressionAlgorithmController
    made = kind(compiled, _inputs(config, compiled))
    if compression_state is not None:
        made.scheduler.load_state(compression_state["scheduler"])
    return made, compiled


def _as_it_trains(
    compiled: Compiled | PartlyCompiled, model: nn.Module, wanted: Config, data: Any
) -> Compiled | PartlyCompiled:
    """`compiled`, or the parts of `model` where it returns something else in training.

    The scopes have matched in the whole: those of what is outside of the parts match nothing in these.
    """
    lost = isinstance(compiled, Compiled) and compiled.meta.get("lost_in_training")
    parts = parts_that_train_alike(model, compiled.compilation.example) if lost and isinstance(compiled, Compiled) else []
    return fxcompress.compile(model, config=_unchecked(wanted), data=data, submodules=parts) if parts else compiled


def _unchecked(wanted: Config) -> Config:
    """`wanted`, whose scopes may match nothing."""
    passes = []
    for one in wanted.passes:
        options: dict[str, Any] = {}
        for name in ("ignored", "scopes", "overrides"):
            given = getattr(one, name, None)
            if given:
                named = {f"{OPTIONAL}{scope.removeprefix(OPTIONAL)}": scope for scope in given}
                options[name] = {new: given[old] for new, old in named.items()} if name == "overrides" else tuple(named)
        passes.append(replace(one, **options) if options else one)  # type: ignore[type-var]
    return replace(wanted, passes=tuple(passes))


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


def _needs_data(config: Config) -> bool:
    return any(one.reads_data for one in config.passes)


def _first(data: Any) -> Any:
    return None if data is None else [next(iter(data))]


def _on(example: Any, model: nn.Module) -> Any:
    device = next((one.device for one in model.parameters()), torch.device("cpu"))
    if example.kwargs:
        return {name: value.to(device) for name, value in example.kwargs.items()}
    return tuple(value.to(device) for value in example.args)


def _loss(args: QuantizationPrecisionInitArgs) -> Callable[[nn.Module, Any], Any]:
    def loss(model: nn.Module, batch: Any) -> Any:
        device = next(model.parameters()).device
        return args.criterion_fn(model(batch[0].to(device)), batch[1].to(device), args.criterion)

    return loss


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
    own = model.state_dict()
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
    model.load_state_dict(fitting, strict=False)
    return len(fitting)


def adapt_batch_norm(model: nn.Module, data: Any, samples: int | None = 2000) -> int:
    """See `fxcompress.training.adapt_batch_norm`; `data` may be a loader that reads its own batches."""
    return _adapt(model, Batches(data), samples)
