"""What a runtime executes in integers, as a table that quantizer placement reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import fx
from torch._ops import OpOverload

from fxcompress.ir.dialect import resolve
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.targets.faults import Fault


@dataclass(frozen=True)
class Weighted:
    """An operation with a weight: positions of its data and weight arguments, and the weight's output-channel axis.

    Where `data` is None, the weight alone is quantized, and the operation runs in float.
    """

    data: int | None = 0
    weight: int = 1
    channel_axis: int = 0


@dataclass(frozen=True)
class Product:
    """An operation on two activations, whose zero points are 0.

    Attributes:
        operands: their positions.
        signed: of those that must be signed.
        paired: the signed one whose neighbours are to stay small for CPUs that add up products in pairs
            (`fxcompress.quantizers.neighbours`); None where products run in float.
    """

    operands: tuple[int, ...] = (0, 1)
    signed: tuple[int, ...] = ()
    paired: int | None = None


@dataclass(frozen=True)
class Target:
    """One runtime on one kind of hardware.

    Attributes:
        name: as `compile(target=...)` takes it.
        runtime: the Python package that runs its files, `openvino` or `onnxruntime`, by which they are verified.
        weighted: operations with an integer kernel for quantized data and weights, or whose weight can be stored as integers.
        elementwise: operations with an integer kernel that pays only between integer neighbours, and the positions of
            the arguments to quantize: they are quantized where what they feed is quantized too.
        products: operations on two activations with an integer kernel.
        transparent: operations that move values without changing them: a quantizer travels through.
        joining: transparent operations over a list of tensors, whose parts must share one scale.
        travels: for some transparent operations, a function of the call that says whether a quantizer goes through this one;
            where not, it stays behind.
        exceptions: for some operations, a function of the call that says why this one must stay in float, or None.
        fused: operations that run inside the kernel that produces their input; no quantizer goes before them.
        accumulates: the kernels of `weighted` can add another tensor to what they compute, before anything is rounded: so the
            operand of an addition that such a kernel computes is not quantized.
        signed_weights: the kernels of `weighted` read signed weights of 8 bits and no zero point.
        filter_multiple: integer layers that keep a multiple of so many filters when they are pruned gain most, as measured; 1
            where that is not known.
        faults: what the runtimes that files are for get wrong, so that files are written around it.
        activations: the grid of activations.
        weights: the grid of weights; its channel axis comes from `weighted`.
    """

    name: str
    weighted: Mapping[OpOverload, Weighted]
    elementwise: Mapping[OpOverload, tuple[int, ...]]
    products: Mapping[OpOverload, Product]
    transparent: frozenset[OpOverload]
    joining: frozenset[OpOverload]
    fused: frozenset[OpOverload]
    travels: Mapping[OpOverload, Callable[[fx.Node], bool]] = field(default_factory=dict)
    exceptions: Mapping[OpOverload, Callable[[fx.Node], str | None]] = field(default_factory=dict)
    accumulates: bool = False
    signed_weights: bool = False
    filter_multiple: int = 1
    faults: frozenset[Fault] = frozenset()
    activations: QuantizationSpec = field(default_factory=QuantizationSpec)
    weights: QuantizationSpec = field(default_factory=lambda: QuantizationSpec(signed=True, narrow=True))
    runtime: str = "onnxruntime"

    @property
    def weights_only(self) -> frozenset[OpOverload]:
        """The operations whose weight alone is quantized."""
        return frozenset(operation for operation, how in self.weighted.items() if how.data is None)

    def rebitted(self, spec: QuantizationSpec, bits: int) -> QuantizationSpec:
        """The grid of weights like `spec` that has so many bits, as the kernels of `weighted` read it.

        8 bits have a sign and no zero point where these read no other. 7 bits, to which 8 are reduced for some CPUs, stay 7.
        """
        if bits == spec.bits or (bits == 8 and spec.bits == 7):
            return spec
        other = replace(spec, bits=bits)
        return replace(other, symmetric=True, signed=True) if bits == 8 and self.signed_weights else other

    @property
    def kernels(self) -> frozenset[OpOverload]:
        """The operations with an integer kernel."""
        return frozenset(self.weighted.keys() | self.products.keys() | self.elementwise.keys()) - self.weights_only


def ops(names: str) -> frozenset[OpOverload]:
    """The dialect's operations called by the space-separated `names`."""
    return frozenset(map(resolve, names.split()))
