"""A call written as the calls that torch itself decomposes it into."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, fx
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental import _config as symbolic_shapes
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from fxcompress.emit.guards import unguarded
from fxcompress.emit.translation import Emitter, UntranslatableError

aten = torch.ops.aten

WriteCall = Callable[[Emitter, Any, Any], Any]

_ASSERTIONS = {
    aten._assert_async.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten._assert_tensor_metadata.default,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
}


def find(target: Any) -> Iterator[Callable[..., Any]]:
    """torch's decompositions of calls of the overload `target`, those written in Python first: they know free sizes."""
    if not isinstance(target, OpOverload):
        return
    if target in torch._decomp.decomposition_table:
        yield torch._decomp.decomposition_table[target]
    if torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), "CompositeImplicitAutograd"):
        yield target.decompose


def write(emit: Emitter, decomposition: Callable[..., Any], args: Any, kwargs: Any, write_call: WriteCall) -> Any:
    """Run `decomposition` on fake tensors, and write each call that it makes with `write_call`.

    Raises:
        UntranslatableError: it holds for the sizes of the example only, or a call that it makes cannot be written.
    """
    fakes = [leaf.meta.get("val") for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, ir.Value)]
    mode = detect_fake_mode([fakes, emit.result]) or FakeTensorMode(allow_non_fake_inputs=True)
    calls = _Calls(emit, write_call)
    args, kwargs = pytree.tree_map_only(ir.Value, lambda value: calls.fake(value, mode), (args, kwargs))
    with torch.no_grad(), free_sizes(mode), enable_python_dispatcher(), mode, calls:
        results = _functional(decomposition, args, kwargs)
    if results is NotImplemented:
        raise UntranslatableError("torch's decomposition of it does not take these arguments")
    return pytree.tree_map_only(Tensor, calls.value, results)


def _functional(decomposition: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What `decomposition` returns, its changes in place made functional calls."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def run(*given: Tensor) -> Any:
        wrapped = iter(given)
        args, kwargs = pytree.tree_unflatten([next(wrapped) if isinstance(x, Tensor) else x for x in leaves], spec)
        return decomposition(*_lists(args), **_lists(kwargs))

    return torch.func.functionalize(run, remove="mutations")(*tensors)


def _lists(arguments: Any) -> Any:
    """`arguments` with lists that can be changed, which a graph's cannot: some decompositions fill in theirs."""
    if isinstance(arguments, list):
        return [_lists(one) for one in arguments]
    if isinstance(arguments, dict):
        return {name: _lists(one) for name, one in arguments.items()}
    return tuple(map(_lists, arguments)) if type(arguments) is tuple else arguments


@contextlib.contextmanager
def free_sizes(mode: FakeTensorMode) -> Iterator[None]:
    """Refuse what takes a free size for a constant, and forget that it did.

    Raises:
        UntranslatableError: a free size was taken for that of the example.
    """
    asked = unguarded(mode.shape_env, "torch's decomposition", constants_only=True)
    with asked, symbolic_shapes.patch(backed_size_oblivious=True):
        yield


class _Calls(TorchDispatchMode):
    """Writes every ATen call, and holds the ONNX values of the fake tensors."""

    def __init__(self, emit: Emitter, write_call: WriteCall) -> None:
        super().__init__()
        self.emit = emit
        self.write_call = write_call
        self.outer = emit.node
        self.graph = fx.Graph()
        self.counts: Counter[str] = Counter()
        self.known: dict[int, tuple[Tensor, ir.Value]] = {}  # by the id of a fake tensor, which it keeps alive

    def fake(self, value: ir.Value, mode: FakeTensorMode) -> Tensor:
        """A fake tensor of its own for `value`."""
        known = self.emit.fake(value)
        fresh = known.detach() if isinstance(known, FakeTensor) else mode.from_tensor(known, static_shapes=True)
        self.known[id(fresh)] = fresh, value
        return fresh

    def value(self, tensor: Tensor) -> ir.Value:
        """The ONNX value of `tensor`: what a call wrote, or a constant."""
        if id(tensor) in self.known:
            return self.known[id(tensor)][1]
        constant = tensor.constant if isinstance(tensor, FakeTensor) else tensor
        if constant is None:
            raise UntranslatableError(f"torch's decomposition of {self.outer.target} uses a tensor of unknown origin")
        return self.emit.constant(constant)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(map(is_functorch_wrapped_tensor, given)):  # which would kill the process
            raise UntranslatableError(f"torch's decomposition of {self.outer.target} cannot be made functional at {func}")
        result = func(*args, **kwargs)
        if func in _ASSERTIONS or not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
            return result
        emit = self.emit
        emit.node, emit.result = self._node(func, result), result
        with _disable_current_modes():  # what is written holds real constants
            written = self.write_call(emit, *pytree.tree_map_only(Tensor, self.value, (args, kwargs)))
        for tensor, value in zip(pytree.tree_leaves(result), pytree.tree_leaves(written), strict=True):
            self.known[id(tensor)] = tensor, value
        return result

    def _node(self, func: Any, result: Any) -> fx.Node:
        """A node that stands for the inner call: with its target, and a name below the outer one's."""
        node = self.graph.call_function(func)
        name = func.overloadpacket.__name__
        self.counts[name] += 1
        node.name = f"{self.outer.name}/{name}" + (f"_{self.counts[name] - 1}" if self.counts[name] > 1 else "")
        node.meta = {**self.outer.meta, "val": result}
        return node
