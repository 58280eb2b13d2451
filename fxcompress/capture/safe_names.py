"""Where names enter: what becomes code is made an identifier, before torch generates any from it."""

from __future__ import annotations

import copy
import keyword
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, OutputKind

from fxcompress.errors import InputError, shown
from fxcompress.ir.naming import SafeNames

_READ_BY_CODE = frozenset({"torch", "pytree", "fx_pytree"})
_WRITTEN = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)


def with_safe_names(program: ExportedProgram) -> tuple[ExportedProgram, dict[str, str]]:
    """`program` with identifiers for the names of its state, and the model's own name of each that is another one.

    `torch.fx` writes these names into the code of a graph module, and runs it: ``a"), f(), getattr(self, "b`` would call f.

    Raises:
        InputError: a parameter of its forward is no identifier.
    """
    inputs, outputs = program.graph_signature.input_specs, program.graph_signature.output_specs
    named = [spec.target for spec in inputs if spec.target is not None]
    names = SafeNames([*named, *program.state_dict, *program.constants])
    check_parameters(_parameters(program))
    if not names.own:
        return program, {}
    program = copy.copy(program)
    program._graph_signature = ExportGraphSignature(
        [spec if spec.target is None else replace(spec, target=names[spec.target]) for spec in inputs],
        [replace(spec, target=names[spec.target]) if spec.kind in _WRITTEN and spec.target else spec for spec in outputs],
    )
    program._state_dict = {names[name]: value for name, value in program.state_dict.items()}
    program._constants = {names[name]: value for name, value in program.constants.items()}
    return program, names.own


def check_parameters(names: Iterable[Any]) -> None:
    """Raise `InputError` where one of `names` cannot be a parameter of the function that a graph becomes."""
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise InputError(
                f"an input of the model is called {shown(name)}, which is no identifier of Python; call it by another"
            )
        if not name.isascii() or name in _READ_BY_CODE:
            why = "which the code of a graph reads as a module" if name.isascii() else "which has letters beyond those of ASCII"
            raise InputError(f"an input of the model is called {name!r}, {why}; give the parameter of forward another name")


def _parameters(program: ExportedProgram) -> list[Any]:
    """The names that the forward of `program` has for its inputs."""
    signature = program.module_call_graph[0].signature
    names = list(signature.forward_arg_names or ()) if signature else []
    by_name = program.call_spec.in_spec.children()[1] if program.call_spec.in_spec else None
    return names + (list(by_name.context) if by_name is not None else [])
