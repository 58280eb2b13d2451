"""The inputs that a file describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from fxcompress.compat.nncf.configuration import NNCFConfig
from fxcompress.config import Input
from fxcompress.config.inputs import DTYPES, example_of
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import InputError


@dataclass
class FillerInputElement:
    """One input: its sizes, its type, what it is filled with, and the parameter of forward that takes it."""

    shape: list[int]
    type_str: str = "float"
    keyword: str | None = None
    filler: str | None = None

    @property
    def type(self) -> Any:
        return DTYPES[{"float": "float32", "long": "int64"}.get(self.type_str, self.type_str)]

    def is_integer_input(self) -> bool:
        return not self.type.is_floating_point

    def as_input(self) -> Input:
        dtype = {"float": "float32", "long": "int64"}.get(self.type_str, self.type_str)
        return Input(shape=tuple(self.shape), dtype=dtype, fill=self.filler or "ones", keyword=self.keyword)  # type: ignore[arg-type]


class FillerInputInfo:
    """All inputs of a model, as ``input_info`` has them."""

    def __init__(self, elements: Sequence[FillerInputElement]):
        self.elements = list(elements)

    def __len__(self) -> int:
        return len(self.elements)

    def __iter__(self) -> Iterator[FillerInputElement]:
        return iter(self.elements)

    @classmethod
    def of_example(cls, example: ExampleInputs) -> FillerInputInfo:
        """The tensors of a call of the model: those by position, then those by name."""
        by_position = [_element(one, None) for one in pytree.tree_leaves(example.args) if isinstance(one, Tensor)]
        by_name = [_element(one, name) for name, one in example.kwargs.items() if isinstance(one, Tensor)]
        return cls(by_position + by_name)

    @classmethod
    def from_nncf_config(cls, config: Mapping[str, Any]) -> FillerInputInfo:
        """Those of `config`.

        Raises:
            InputError: it has no ``input_info``.
        """
        given = config.get("input_info")
        if not given:
            raise InputError('the configuration lacks "input_info", such as {"sample_size": [1, 3, 224, 224]}')
        known = NNCFConfig({"input_info": given}).as_config().inputs
        return cls([FillerInputElement(list(one.shape), one.dtype, one.keyword, one.fill) for one in known])

    def get_forward_inputs(self, device: Any = None) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """One call of the model: arguments by position and by name."""
        example = example_of([one.as_input() for one in self.elements])
        assert example is not None
        moved = tuple(value.to(device) if device else value for value in example.args)
        return moved, {name: value.to(device) if device else value for name, value in example.kwargs.items()}


class ExampleInputInfo(FillerInputInfo):
    """As `FillerInputInfo`, of an example."""

    @classmethod
    def from_example_input(cls, example_input: Any) -> FillerInputInfo:
        if isinstance(example_input, Mapping):
            return cls.of_example(ExampleInputs(kwargs=dict(example_input)))
        return cls.of_example(ExampleInputs(example_input if isinstance(example_input, tuple) else (example_input,)))


def create_input_infos(config: Mapping[str, Any]) -> list[FillerInputElement]:
    """The inputs that ``input_info`` of `config` describes."""
    return FillerInputInfo.from_nncf_config(config).elements


def _element(tensor: Tensor, keyword: str | None) -> FillerInputElement:
    return FillerInputElement(list(tensor.shape), str(tensor.dtype).removeprefix("torch."), keyword)


def count_tensors(obj: Any) -> int:
    return sum(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(obj))


def get_export_args(model: Any, model_args: tuple[Any, ...] | None = None, device: Any = None) -> tuple[Any, ...]:
    """One call with one sample, as `torch.onnx.export` takes it: the arguments, then a dict of those by name."""
    args, kwargs = model.nncf.input_infos.get_forward_inputs(device)
    more, named = (model_args[:-1], model_args[-1]) if model_args else ((), {})
    return pytree.tree_map_only(Tensor, lambda one: one[:1], (*args, *more, {**kwargs, **named}))


def generate_input_names_list(num_inputs: int) -> list[str]:
    return [f"input.{i}" for i in range(num_inputs)]


def generate_output_names_list(num_outputs: int) -> list[str]:
    return [f"output.{i}" for i in range(num_outputs)]
