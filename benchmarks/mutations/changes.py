"""Small changes of Python source, one at a time, each of a kind that people make by mistake.

DeMillo, Lipton and Sayward, "Hints on test data selection", Computer 11(4), 1978, section "Program mutation".
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
OPPOSITES = {
    "min": "max",
    "amin": "amax",
    "minimum": "maximum",
    "floor": "ceil",
    "any": "all",
    "EXACT": "LOSSY",
    "max": "min",
    "amax": "amin",
    "maximum": "minimum",
    "ceil": "floor",
    "all": "any",
    "ROUNDING": "LOSSY",
}
NO_BEHAVIOUR = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)
"""What only words or checks an error: its changes are no faults of what is computed."""


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        module: its full name.
        function: the qualified name of what was changed; empty for code of the module or a class.
        line: of the source.
        what: the line before and after.
        index: the change's number among those of its module, from which `mutated` makes it again.
    """

    module: str
    function: str
    line: int
    what: str
    index: int


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """All changes of a module's source."""
    tree = ast.parse(source)
    for index, (node, function, change) in enumerate(_places(tree)):
        before = ast.unparse(node)
        change(node_copy := copy.deepcopy(node))
        after = "pass" if getattr(node_copy, "removed", False) else ast.unparse(node_copy)
        if isinstance(node, ast.stmt):
            before, after = before.partition("\n")[0], after.partition("\n")[0]
        yield Mutant(module, function, node.lineno, f"{_short(before)}  ->  {_short(after)}", index)


def mutated(source: str, index: int) -> ast.Module:
    """The module with the change of this number."""
    tree = ast.parse(source)
    for number, (node, _, change) in enumerate(_places(tree)):
        if number == index:
            change(node)
            return ast.fix_missing_locations(_Removal().visit(tree))
    raise IndexError(index)


class _Removal(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        return ast.copy_location(ast.Pass(), node) if getattr(node, "removed", False) else node


def _short(text: str) -> str:
    return text if len(text) <= 70 else f"{text[:67]}..."


Change = Callable[[ast.AST], None]


def _places(tree: ast.AST, function: str = "") -> Iterator[tuple[ast.expr | ast.stmt, str, Change]]:
    """Each node that can be changed, with the function that it is in and what changes it (or a copy of it)."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, NO_BEHAVIOUR) or _is_docstring(child):
            continue
        inner = function
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            inner = f"{function}.{child.name}".lstrip(".")
        for change in _changes(child):
            yield child, function, change  # type: ignore[misc]
        if isinstance(child, ast.FunctionDef):
            for part in (child.args.defaults, child.args.kw_defaults, child.body):
                yield from _places(ast.Module(part, []), inner)  # type: ignore[arg-type]  # no annotations, no decorators
        elif isinstance(child, ast.ClassDef):
            yield from _places(ast.Module(child.body, []), inner)  # a decorator declares: frozen, or compared by identity
        elif isinstance(child, ast.AnnAssign):
            if child.value is not None:
                yield from _places(ast.List([child.value], ast.Load()), function)
        else:
            yield from _places(child, inner)


def _changes(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield _set("ops", [COMPARISONS[type(node.ops[0])](), *node.ops[1:]])
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in ARITHMETIC and not _is_text(node):
        yield _set("op", ARITHMETIC[type(node.op)]())
    if isinstance(node, ast.BoolOp):
        yield _set("op", ast.And() if isinstance(node.op, ast.Or) else ast.Or())
    if isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield _set("test", ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        yield _set("value", _other(node.value))
    if isinstance(node, ast.Attribute) and node.attr in OPPOSITES:
        yield _set("attr", OPPOSITES[node.attr])
    if isinstance(node, ast.Name) and node.id in OPPOSITES:
        yield _set("id", OPPOSITES[node.id])
    if isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield _set("removed", True)


def _set(name: str, value: object) -> Change:
    return lambda node: setattr(node, name, value)


def _other(value: bool | int | float) -> bool | int | float:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value * 2 or 1.0


def _is_text(node: ast.BinOp | ast.AugAssign) -> bool:
    parts = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.value,)
    return any(isinstance(part, ast.JoinedStr) or isinstance(getattr(part, "value", None), str) for part in parts)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
