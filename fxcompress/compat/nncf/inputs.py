"""The inputs that a file describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fxcompress.compat.nncf.configuration import NNCFConfig
from fxcompress.config import Input
from fxcompress.config.inputs import DTYPES, example_of
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
    def from_example_input(cls, example_input: Any) -> ExampleInputInfo:
        listed = list(example_input) if isinstance(example_input, (tuple, list)) else [example_input]
        return cls([FillerInputElement(list(one.shape), str(one.dtype).removeprefix("torch.")) for one in listed])
