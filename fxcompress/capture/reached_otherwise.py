"""Parameters that a trace came to by another way than through the model's modules: closures of hooks, lists, globals.

torch.export knows the tensors of the modules that it traces, and takes others for constants; those would be trained no more.
A trace is of a twin of the user's model, whose parameters are others on the same memory, which tells them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree


def read_as_parameters(program: ExportedProgram) -> None:
    """Let `program` read as a parameter what it has for a constant on the memory of one."""
    inputs = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    specs = [
        (one.kind, str(one.target), inputs.get(getattr(one.arg, "name", ""))) for one in program.graph_signature.input_specs
    ]
    parameters = {
        _place(program.state_dict[target]): node
        for kind, target, node in specs
        if kind is InputKind.PARAMETER and node is not None and _has_place(program.state_dict[target])
    }
    for kind, target, node in specs:
        constant = program.constants.get(target) if kind is InputKind.CONSTANT_TENSOR else None
        parameter = parameters.get(_place(constant)) if _has_place(constant) else None
        if node is not None and parameter is not None:
            node.replace_all_uses_with(parameter)


def parameters_no_module_holds(model: nn.Module, program: ExportedProgram) -> list[str]:
    """What to tell of parameters in lists and the like of `model`, which was traced, that `program` has for constants."""
    constants = {_place(one) for one in program.constants.values() if _has_place(one)}
    known, held, found = vars(nn.Module()), set(map(id, model.parameters())), list[str]()
    for path, module in model.named_modules() if constants else ():
        for name in vars(module).keys() - known.keys():
            unheld = [one for one in _parameters(vars(module)[name]) if one.requires_grad and id(one) not in held]
            if any(_has_place(one) and _place(one) in constants for one in unheld):
                found.append(f"{path}.{name}".lstrip("."))
    where = "no module holds them: keep them in nn.ModuleList or nn.ParameterList"
    return (
        [f"the parameters in {', '.join(map(repr, sorted(found)))} are constants of the graph, since {where}"] if found else []
    )


def _parameters(value: Any) -> Iterator[Tensor]:
    for one in pytree.tree_leaves(value):
        if isinstance(one, nn.Module):
            yield from one.parameters()
        elif isinstance(one, nn.Parameter):
            yield one


def _has_place(tensor: Any) -> bool:
    if not isinstance(tensor, Tensor) or isinstance(tensor, FakeTensor) or is_functorch_wrapped_tensor(tensor):
        return False
    return tensor.layout is torch.strided and tensor.numel() > 0


def _place(tensor: Any) -> tuple[Any, ...]:
    return tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()
