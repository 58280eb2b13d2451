"""How one ATen call becomes ONNX nodes: the table of translations, and the emitter that they are written against."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor, to_torch_dtype
from torch import fx

from fxcompress.emit.deferred import Deferred
from fxcompress.emit.forms import Form
from fxcompress.emit.shapes import Size, SymbolicSizes, UnknownSizeError, same
from fxcompress.emit.types import attribute, number, onnx_type, output_type

Translation = Callable[..., Any]
TRANSLATIONS: dict[Callable, Translation] = {}
TAKE_COMPLEX: set[Callable] = set()
"""Those whose translation takes complex numbers, as pairs of real ones along one more axis at the end."""

_SUB_BYTE = {ir.DataType.INT4, ir.DataType.UINT4}
_LARGEST_NAMED_CONSTANT = 6  # elements; a constant up to this size is named after its values
_LARGEST_SHARED_CONSTANT = 64  # elements; larger ones are not compared with those already in the file


class UntranslatableError(Exception):
    """This call has no ONNX form; the message says why.

    Attributes:
        final: no other way of writing the call will do either.
    """

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


def translation(*targets: Callable, takes_complex: bool = False) -> Callable[[Translation], Translation]:
    """Register the decorated function as the way to write calls of `targets` (ATen or custom overloads) in ONNX.

    The function gets an `Emitter` and the call's own arguments, positional and by keyword as in the operator's schema:
    tensors as `onnx_ir.Value`, symbolic sizes as `torch.SymInt`, all else as it is. It returns the `onnx_ir.Value` that
    stands for the result (a tuple of them for an operator with several)::

        @translation(torch.ops.aten.square.default)
        def square(emit, x):
            return emit.Mul(x, x)

    ``emit.Mul(...)`` appends an ONNX node. A later registration replaces an earlier one. One that `takes_complex` is called
    for complex tensors as well: pairs of real numbers along one more axis at the end.
    """

    def register(function: Translation) -> Translation:
        for target in targets:
            TRANSLATIONS[target] = function
            if takes_complex:
                TAKE_COMPLEX.add(target)
        return function

    return register


class Emitter:
    """Appends ONNX nodes to a graph: ``emit.Relu(x)``, ``emit.Conv(x, w, b, strides=[2, 2])``.

    Positional arguments are the node's inputs: an `onnx_ir.Value`; None for an optional input left out; a number, which
    becomes a constant of the first numeric tensor's type; a list of sizes, which becomes a 1-D int64 tensor; or a
    `torch.Tensor`, which becomes a constant. Keyword arguments are attributes, those that are None left out.

    Attributes:
        node: the FX node being translated.
        result: what it gives, as `node.meta["val"]` has it: a fake tensor with the shape and dtype, or a tuple of them.
        ways: how each call was written, by the name of its node: "constant", "ours", "torchlib" or "decomposed".
        forms: what the file may have though not every runtime takes it well.
    """

    def __init__(self, graph: ir.Graph, *, forms: Collection[Form] = (), within: Emitter | None = None) -> None:
        self.graph = graph
        self.forms: Collection[Form] = within.forms if within else forms
        self.symbols: SymbolicSizes = within.symbols.within() if within else SymbolicSizes()
        self.node: fx.Node
        self.result: Any
        self.ways: dict[str, str] = {}
        self._names: dict[str, int] = within._names if within else {}
        self._constants: dict[tuple, ir.Value] = {}
        self._storages: dict[tuple, ir.Value] = {}
        self._derived: dict[tuple, tuple[ir.Value, ir.Value]] = {}  # holds the sources, whose ids are its keys

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if not op_type[0].isupper():
            raise AttributeError(op_type)
        return functools.partial(self.op, op_type)

    def op(self, op_type: str, *inputs: Any, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Append a node of `op_type`; its output, or a tuple of `outputs` of them. A `domain` is imported in version 1."""
        numeric = (i.dtype for i in inputs if isinstance(i, ir.Value) and i.dtype != ir.DataType.BOOL)
        like = next(numeric, ir.DataType.BOOL)  # None: of a type that is not known
        values = [self._input(i, like or ir.DataType.BOOL) for i in inputs]
        while values and values[-1] is None:
            values.pop()
        name = self.unique(f"{self.node.name}/{op_type}")
        settings = [attribute(key, value) for key, value in attributes.items() if value is not None]
        if domain:
            self.graph.opset_imports[domain] = 1
        self.graph.append(node := ir.Node(domain, op_type, values, settings, num_outputs=outputs, name=name))
        for output in node.outputs:
            output.name = name if outputs == 1 else self.unique(f"{name}_{output.index()}")
            output.dtype = output_type(op_type, like, attributes)  # type: ignore[assignment]  # None as well
        return node.outputs[0] if outputs == 1 else tuple(node.outputs)

    def require_opset(self, version: int) -> None:
        """Have the file say that it uses the standard operators of `version` at least."""
        self.graph.opset_imports[""] = max(version, self.graph.opset_imports[""])

    def _input(self, argument: Any, like: ir.DataType) -> ir.Value | None:
        if isinstance(argument, ir.Value):
            return self.registered(argument)
        if isinstance(argument, list | tuple):
            return self.sizes(argument)
        if isinstance(argument, torch.SymInt):
            return self.cast(self.size_scalar(argument), to_torch_dtype(like))
        if isinstance(argument, bool | int | float):
            return self.constant(torch.tensor(argument, dtype=to_torch_dtype(like)))
        if isinstance(argument, torch.Tensor):
            return self.constant(argument)
        if argument is None:
            return None
        return self.unsupported(f"operand {argument!r} is neither a tensor, a number nor a list of sizes")

    def registered(self, value: ir.Value) -> ir.Value:
        """`value`, which a node reads, entered in the file if it is a constant."""
        if value.const_value is not None and not value.is_initializer():
            value.name = self.unique(value.name or "constant")
            self.graph.register_initializer(value)
        return value

    def unique(self, name: str) -> str:
        """`name`, with a number after it if it is taken."""
        count = self._names.get(name)
        self._names[name] = 1 if count is None else count + 1
        return name if count is None else self.unique(f"{name}_{count}")

    # Constants ---------------------------------------------------------------------------------------------------

    def stored(self, tensor: torch.Tensor, name: str) -> ir.Value:
        """The initializer for a tensor that the module holds under `name`; tensors that share memory share it."""
        tensor = tensor.detach()
        key = (tensor.data_ptr() or id(tensor), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if key not in self._storages:
            self._storages[key] = self.initializer(TorchTensor(tensor, name), name)
        return self._storages[key]

    def constant(self, tensor: torch.Tensor) -> ir.Value:
        """An initializer that holds `tensor`; small equal constants share one."""
        shared = tensor.numel() <= _LARGEST_SHARED_CONSTANT
        values = tuple(map(str, tensor.flatten().tolist())) if shared else (id(tensor),)  # -0.0 is not 0.0
        key = (tensor.dtype, tuple(tensor.shape), *values)
        if key not in self._constants:
            kind = str(tensor.dtype).removeprefix("torch.")
            told = values if tensor.numel() <= _LARGEST_NAMED_CONSTANT else ()
            name = "_".join(map(str, (f"constant/{kind}", *told)))
            self._constants[key] = self.initializer(TorchTensor(tensor), name)
        return self.registered(self._constants[key])

    def initializer(self, tensor: ir.TensorProtocol, name: str) -> ir.Value:
        """A constant of the file, entered in it (under `name` or one like it) when a node first reads it."""
        shape, kind = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
        return ir.Value(name=name, shape=shape, type=kind, const_value=tensor)

    def derived(self, source: ir.Value, what: Any, make: Callable[[], ir.Value]) -> ir.Value:
        """``make()``, once for each `source` and `what`: constants made from one another, masks used by every layer."""
        key = (id(source), what)
        if key not in self._derived:
            self._derived[key] = source, make()
        return self._derived[key][1]

    def data(self, value: ir.Value) -> torch.Tensor | None:
        """The tensor behind `value` if it is a constant, else None."""
        tensor = value.const_value
        if isinstance(tensor, Deferred):
            return tensor.values()
        return tensor.raw if isinstance(tensor, TorchTensor) else None

    def deferred(self, values: Callable[[], torch.Tensor], shape: Sequence[int], name: str) -> ir.Value:
        """A constant of integers that are computed whenever they are asked for, one a byte, so that nobody holds them."""
        return self.initializer(Deferred(values, shape, name), name)

    # Sizes -------------------------------------------------------------------------------------------------------

    def fake(self, value: ir.Value) -> torch.Tensor:
        """The tensor that an argument stands for, as a fake one; a constant as it is."""
        known, held = value.meta.get("val"), value.const_value
        if known is None:
            known = held.fake() if isinstance(held, Deferred) else self.data(value)
        return self.unsupported(f"the shape of {value.name} is not known") if known is None else known

    def shape(self, value: ir.Value) -> tuple[Size, ...]:
        """The shape of an argument, symbolic sizes as `torch.SymInt`."""
        return tuple(self.fake(value).shape)

    def rank(self, value: ir.Value) -> int:
        """The number of dimensions of an argument."""
        return len(self.shape(value))

    def static(self, value: ir.Value, *axes: int) -> list[int]:
        """The sizes of an argument along `axes`, which must not be symbolic."""
        shape = self.shape(value)
        found = [shape[axis] for axis in axes]
        if not all(isinstance(size, int) for size in found):
            self.unsupported(f"needs constant sizes along dimensions {list(axes)}, has {found}")
        return [int(size) for size in found]

    def sizes(self, sizes: Sequence[Size]) -> ir.Value:
        """`sizes` as a 1-D int64 tensor: a constant where all are known."""
        if all(isinstance(size, int) for size in sizes):
            return self.constant(torch.tensor(list(sizes), dtype=torch.int64))
        if not all(isinstance(size, int | torch.SymInt) for size in sizes):
            self.unsupported(f"{list(sizes)} is not a list of sizes")
        try:
            values = [self.symbols.value(self, size) for size in sizes]
        except UnknownSizeError as error:
            self.unsupported(str(error))
        return values[0] if len(values) == 1 else self.Concat(*values, axis=0)

    def size_scalar(self, size: Size) -> ir.Value:
        """`size` as an int64 tensor of shape []."""
        return self.constant(torch.tensor(size)) if isinstance(size, int) else self.Squeeze(self.sizes([size]), [0])

    def reshape(self, x: ir.Value, old: Sequence[Size], new: Sequence[Size]) -> ir.Value:
        """`x` of shape `old` as shape `new`, by a constant target wherever one will do: 0 is what stays, -1 one other size."""
        kept = [i < len(old) and not isinstance(s, int) and same(s, old[i]) for i, s in enumerate(new)]
        moved = [i for i, s in enumerate(new) if not isinstance(s, int) and not kept[i]]
        if any(isinstance(size, int) and size == 0 for size in new):
            return self.Reshape(x, self.sizes(new), allowzero=1)
        if len(moved) > 1:
            return self.Reshape(x, self.sizes(new))
        return self.Reshape(x, [0 if k else s if isinstance(s, int) else -1 for k, s in zip(kept, new)])

    def transposed(self, x: ir.Value, order: Sequence[int]) -> ir.Value:
        """`x` with its axes in this order, by one transposition where `x` is itself transposed."""
        producer = x.producer()
        if producer is not None and producer.op_type == "Transpose":
            inner, source = producer.attributes["perm"].as_ints(), producer.inputs[0]
            assert source is not None
            if x.dtype is not None:
                source.dtype = x.dtype  # torchlib leaves it open
            x, order = source, [inner[axis] for axis in order]
        return x if list(order) == sorted(order) else self.Transpose(x, perm=list(order))

    def with_batch(self, x: ir.Value, rank: int, write: Callable[[ir.Value], Any]) -> Any:
        """What `write` gives for `x`, which has a batch axis where it has `rank` axes; a lone sample gets one, and loses it."""
        if self.rank(x) == rank:
            return write(x)
        if self.rank(x) != rank - 1:
            self.unsupported(f"an input of {self.rank(x)} dimensions")
        batch = self.Unsqueeze(x, [0])
        batch.meta["val"] = self.fake(x).unsqueeze(0)
        written = write(batch)
        if isinstance(written, ir.Value):
            return self.Squeeze(written, [0])
        return tuple(None if value is None else self.Squeeze(value, [0]) for value in written)

    # Types -------------------------------------------------------------------------------------------------------

    def dtype(self, value: ir.Value) -> torch.dtype:
        """The torch dtype of a value."""
        known = value.dtype or self.unsupported(f"the type of {value.name} is not known")
        return torch.int8 if known in _SUB_BYTE else to_torch_dtype(known)

    def cast(self, value: ir.Value, dtype: torch.dtype) -> ir.Value:
        """`value` as `dtype`; itself if it is that already."""
        target = onnx_type(dtype)
        return value if value.dtype == target else self.Cast(value, to=int(target))

    def promote(self, a: Any, b: Any) -> tuple[Any, Any]:
        """Two operands in the type that torch computes in: tensors cast to it, numbers converted."""
        dtype = self.common_dtype(a, b)
        first, second = (self.cast(o, dtype) if isinstance(o, ir.Value) else number(o, dtype) for o in (a, b))
        return first, second

    def common_dtype(self, a: Any, b: Any) -> torch.dtype:
        """The type that torch promotes two operands (values or numbers) to."""
        return torch.result_type(*(self._stand_in(operand) for operand in (a, b)))

    def _stand_in(self, operand: Any) -> Any:
        if isinstance(operand, ir.Value):
            return torch.empty((1,) * min(self.rank(operand), 1), dtype=self.dtype(operand), device="meta")
        return 1 if isinstance(operand, torch.SymInt) else operand

    def unsupported(self, reason: str) -> NoReturn:
        """Give up on writing this node so; where no other way does, `reason` reaches the user with its source line."""
        raise UntranslatableError(reason)

    def refuse(self, reason: str) -> NoReturn:
        """Give up on this node, whatever other ways of writing it there are."""
        raise UntranslatableError(reason, final=True)
