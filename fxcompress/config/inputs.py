"""Inputs of a model as a configuration names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, MinLen
from torch import Tensor

from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import InputError
from fxcompress.options import Declared, OneOf

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int8)
} | {"bool": torch.bool, "uint8": torch.uint8}


@dataclass(frozen=True, kw_only=True)
class Input(Declared):
    """An input of the model, for a model that comes without data to take one from.

    Attributes:
        shape: its sizes, the batch first.
        dtype: the type of its elements.
        fill: what it is filled with: ``"random"`` numbers, from 0 to 1 or zeros and ones if whole, ``"zeros"`` or ``"ones"``.
        keyword: the parameter of forward that takes it; None for the next one by position.
    """

    shape: Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)]
    dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    fill: Literal["random", "zeros", "ones"] = "random"
    keyword: str | None = None

    def tensor(self, generator: torch.Generator) -> Tensor:
        """The input itself.

        Raises:
            InputError: it is larger than the memory.
        """
        try:
            return self._tensor(generator)
        except (RuntimeError, OverflowError, TypeError) as problem:
            reason = str(problem).splitlines()[0]
            raise InputError(f"an input of the sizes {list(self.shape)!r:.80} cannot be made: {reason:.120}") from None

    def _tensor(self, generator: torch.Generator) -> Tensor:
        dtype = DTYPES[self.dtype]
        if self.fill != "random":
            return torch.full(self.shape, self.fill == "ones", dtype=dtype)
        if dtype.is_floating_point:
            return torch.rand(self.shape, generator=generator).to(dtype)
        return torch.randint(2, self.shape, generator=generator).to(dtype)


def example_of(inputs: Sequence[Input]) -> ExampleInputs | None:
    """One call with `inputs`, the same in every process; None where there are none."""
    if not inputs:
        return None
    generator = torch.Generator().manual_seed(0)
    made = [(one.keyword, one.tensor(generator)) for one in inputs]
    return ExampleInputs(
        tuple(tensor for keyword, tensor in made if keyword is None),
        {keyword: tensor for keyword, tensor in made if keyword is not None},
    )
