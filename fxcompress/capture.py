"""Capture: from a model to a graph in the dialect."""

from __future__ import annotations

import contextlib
import copy
import inspect
import linecache
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection, export

from fxcompress.attention_dropout import record_attention_dropout
from fxcompress.canonical import canonicalize
from fxcompress.constants import fold_constants
from fxcompress.errors import CaptureError
from fxcompress.functionalize import functionalize
from fxcompress.inline import inline_regions
from fxcompress.inputs import ExampleInputs
from fxcompress.modes import set_training
from fxcompress.naming import rename

aten = torch.ops.aten


def capture(
    model: nn.Module | fx.GraphModule | ExportedProgram, example_inputs: ExampleInputs, *, dynamic_shapes: Any = None
) -> fx.GraphModule:
    """`model` in inference mode as a graph in the dialect, called as the model is called with `example_inputs`.

    The batch (dimension 0 of every tensor that agrees there with the first one) is symbolic where the model allows it.
    `model` is left untouched; the graph has copies of its parameters under the same `state_dict` keys.
    ``meta["capture_notes"]`` lists what the graph does not keep of the model, and why.

    Args:
        dynamic_shapes: as for `torch.export.export`, instead of the symbolic batch.

    Raises:
        CaptureError: the model cannot be traced; names the source line that stopped it.
    """
    notes: list[str] = []
    if isinstance(model, ExportedProgram):
        program, traced = model, None
    else:
        traced = _scoped(private_copy(model).eval())
        program = _trace(traced, example_inputs, dynamic_shapes, notes)
    module = _functional(program, notes)
    canonicalize(module.graph)
    record_attention_dropout(module.graph, traced, example_inputs, notes)
    result = _assemble(module, rename(module.graph), copy_tensors=traced is None)
    set_training(result, False)
    result.meta["capture_notes"] = notes
    return result.eval()


# ------------------------------------------------------------------------------------------------------------ copy


def private_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` that shares no tensor with it; tied parameters stay tied."""
    try:
        return copy.deepcopy(model)
    except Exception:  # locks, files, tensors with a history: whatever a module may hold that cannot be copied
        return _copy_structure(model, {})


def _copy_structure(module: nn.Module, done: dict[int, Any]) -> nn.Module:
    """Copies of the modules and their tensors; everything else that they hold is shared."""
    if id(module) in done:
        return done[id(module)]
    twin = done[id(module)] = copy.copy(module)
    for registry in ("_parameters", "_buffers"):
        tensors = {}
        for name, tensor in getattr(module, registry).items():
            if tensor is not None and id(tensor) not in done:
                done[id(tensor)] = _copy_tensor(tensor)
            tensors[name] = None if tensor is None else done[id(tensor)]
        twin.__dict__[registry] = tensors
    twin.__dict__["_modules"] = {
        name: None if child is None else _copy_structure(child, done) for name, child in module._modules.items()
    }
    return twin


def _copy_tensor(tensor: Tensor) -> Tensor:
    new = tensor.detach().clone()
    return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


# ----------------------------------------------------------------------------------------------------------- trace


def _scoped(model: nn.Module) -> nn.Module:
    """Run a graph module node by node while it is traced, which hands the scopes of its nodes on."""
    if not isinstance(model, fx.GraphModule):
        return model
    signature = inspect.signature(model.forward)

    def forward(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return fx.Interpreter(model).run(*bound.args)

    forward.__signature__ = signature  # type: ignore[attr-defined]
    model.forward = forward
    return model


def _trace(model: nn.Module, example: ExampleInputs, dynamic_shapes: Any, notes: list[str]) -> ExportedProgram:
    if dynamic_shapes is not None:
        return _export(model, example, dynamic_shapes)
    wide = _widened(example)
    try:
        program = _export(model, wide, _symbolic_batch(model, wide, Dim.AUTO))
        if _has_symbolic_batch(program):
            return program
        reason = _why_static(model, wide)
    except CaptureError as error:
        reason = str(error.__cause__)
    program = _export(model, example, None)
    notes.append(f"the batch size is fixed to that of the example inputs: {_first_sentence(reason)}")
    return program


def _export(model: nn.Module, example: ExampleInputs, dynamic_shapes: Any) -> ExportedProgram:
    try:
        with _plain_kernels():
            return export(model, example.args, example.kwargs, dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be traced: {_first_sentence(str(error)) or type(error).__name__}; "
            f"the line that stopped it: {_user_line(error)}. Check that the example inputs {example!r} are what forward "
            'takes; where a part of the model cannot be traced, name those that can: submodules=["backbone"]'
        ) from error


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Without the fused inference kernel of `nn.MultiheadAttention` and `nn.TransformerEncoder`, which hides their operations."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _batched(example: ExampleInputs) -> list[Tensor]:
    tensors = [leaf for _, leaf in example.leaves() if isinstance(leaf, Tensor)]
    size = next((t.shape[0] for t in tensors if t.dim()), None)
    return [t for t in tensors if t.dim() and t.shape[0] == size]


def _widened(example: ExampleInputs) -> ExampleInputs:
    """`example` with a batch of two instead of one: torch.export takes a size of 1 for a constant."""
    batched = {id(t) for t in _batched(example)}

    def widen(leaf: Any) -> Any:
        one = isinstance(leaf, Tensor) and id(leaf) in batched and leaf.shape[0] == 1
        return torch.cat([leaf.detach(), leaf.detach()]) if one else leaf

    args, kwargs = torch.utils._pytree.tree_map(widen, (example.args, example.kwargs))
    return ExampleInputs(args, kwargs)


def _symbolic_batch(model: nn.Module, example: ExampleInputs, kind: Any) -> Any:
    shapes = ShapesCollection()
    for tensor in _batched(example):
        shapes[tensor] = {0: kind}
    return shapes.dynamic_shapes(model, example.args, example.kwargs)


def _has_symbolic_batch(program: ExportedProgram) -> bool:
    inputs = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.name in inputs]
    return any(isinstance(v, Tensor) and v.dim() and not isinstance(v.shape[0], int) for v in values)


def _why_static(model: nn.Module, example: ExampleInputs) -> str:
    """torch's explanation of why the batch cannot be symbolic, which it gives only if that is demanded."""
    try:
        _export(model, example, _symbolic_batch(model, example, Dim.DYNAMIC))
    except CaptureError as error:
        return str(error.__cause__)
    return "the model uses it as a constant"


def _first_sentence(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("-")), lines[0] if lines else "").lstrip("- ")[:300].rstrip(".")


def _user_line(error: BaseException | None) -> str:
    """The innermost line outside torch and this package in the tracebacks behind `error`."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
    while error is not None:
        traceback, found = error.__traceback__, None
        while traceback is not None:
            path = traceback.tb_frame.f_code.co_filename
            if not path.startswith(ours):
                found = f"{path}:{traceback.tb_lineno}: {linecache.getline(path, traceback.tb_lineno).strip()}"
            traceback = traceback.tb_next
        if found:
            return found
        error = error.__cause__ or error.__context__
    return "(no source recorded)"


# -------------------------------------------------------------------------------------------------------- assembly


def _functional(program: ExportedProgram, notes: list[str]) -> fx.GraphModule:
    """`program` as a module without in-place operations, regions or constant computations."""
    module = program.module(check_guards=False)
    reason = _make_functional(module, notes)
    if reason is None:
        return module
    module = _with_kept_dropout(program).run_decompositions({}).module(check_guards=False)
    reason = _make_functional(module, notes)
    if reason is not None:
        raise CaptureError(f"an in-place operation cannot be replaced: {reason}; write it without the underscore")
    return module


def _make_functional(module: fx.GraphModule, notes: list[str]) -> str | None:
    inline_regions(module, notes)
    fold_constants(module)
    return functionalize(module.graph)


def _with_kept_dropout(program: ExportedProgram) -> ExportedProgram:
    """Dropouts as `native_dropout`, which torch's functionalisation keeps where it would drop an idle `dropout`."""
    program = copy.copy(program)
    program._graph_module = copy.deepcopy(program.graph_module)
    for node in program.graph.find_nodes(op="call_function", target=aten.dropout.default):
        with program.graph.inserting_before(node):
            both = program.graph.call_function(aten.native_dropout.default, node.args)
            new = program.graph.call_function(operator.getitem, (both, 0))
        both.meta = {**node.meta, "val": (node.meta["val"], node.meta["val"].bool())}
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        program.graph.erase_node(node)
    return program


def _assemble(module: fx.GraphModule, graph: fx.Graph, copy_tensors: bool) -> fx.GraphModule:
    """A plain graph module with `graph` and every parameter and buffer of `module`."""
    result = fx.GraphModule(nn.Module(), fx.Graph())
    done: dict[int, Tensor] = {}
    for path, tensor, persistent in _tensors(module, graph):
        new = done.setdefault(id(tensor), _copy_tensor(tensor) if copy_tensors else tensor)
        parent, _, name = path.rpartition(".")
        owner = _submodule(result, parent)
        if isinstance(new, nn.Parameter):
            owner.register_parameter(name, new)
        else:
            owner.register_buffer(name, new, persistent=persistent)
    result.graph = graph
    return result


def _tensors(module: nn.Module, graph: fx.Graph) -> Iterator[tuple[str, Tensor, bool]]:
    seen = set()
    for prefix, owner in module.named_modules():
        dot = f"{prefix}." if prefix else ""
        for name, tensor in [*owner._parameters.items(), *owner._buffers.items()]:
            if tensor is not None:
                seen.add(dot + name)
                yield dot + name, tensor, name not in owner._non_persistent_buffers_set
    for node in graph.find_nodes(op="get_attr"):
        if node.target not in seen:
            seen.add(node.target)
            parent, _, name = node.target.rpartition(".")
            yield node.target, getattr(module.get_submodule(parent), name), False


def _submodule(root: nn.Module, path: str) -> nn.Module:
    for part in path.split(".") if path else ():
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    return root
