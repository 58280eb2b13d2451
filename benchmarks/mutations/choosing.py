"""Which tests can see a change: those that execute its line, as it was recorded."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


class Executed:
    """What was recorded: the tests of a line, and the seconds of a test.

    Attributes:
        seconds: of each test.
    """

    def __init__(self, map_folder: Path):
        self.seconds: dict[str, float] = {}
        self._lines: dict[tuple[str, int], list[tuple[list[str], int]]] = defaultdict(list)
        for path in sorted(map_folder.glob("*.json")):
            held = json.loads(path.read_text())
            tests = list(held["seconds"])
            self.seconds.update(held["seconds"])
            for file, lines in held["lines"].items():
                for line, bits in lines.items():
                    self._lines[file, int(line)].append((tests, int(bits, 16)))

    def tests(self, file: str, lines: Sequence[int]) -> set[str]:
        """Those that execute one of the lines."""
        return {
            test
            for line in lines
            for tests, bits in self._lines.get((file, line), ())
            for index, test in enumerate(tests)
            if bits >> index & 1
        }


class Texts:
    """The source that is changed, by file.

    Attributes:
        files: by the path from the root.
    """

    def __init__(self, files: Mapping[str, str]):
        self.files = files
        self._trees = {file: ast.parse(text) for file, text in files.items()}
        self._code = {file: set(_lines_with_code(compile(text, file, "exec"))) for file, text in files.items()}

    def lines_of(self, file: str, line: int) -> dict[str, list[int]]:
        """Where a test passes that can see a change of this line: by file, lines.

        In a function it is the line itself, or its statement where the line has no code of its own; of a default, the function;
        of what a module or a class declares, each line that has its name.
        """
        inner = self._around(file, line)[-1]
        if isinstance(inner, FUNCTION):
            return {file: _beginning(inner)}
        if self.in_function(file, line):
            return {file: [line] if line in self._code[file] else _span(inner)}
        names = {n.id for n in ast.walk(inner) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        found = self._mentions(names)
        found[file] += _span(inner)
        return found

    def in_function(self, file: str, line: int) -> bool:
        """Whether it is executed by who calls a function, and not where the module is imported."""
        return any(isinstance(statement, FUNCTION) for statement in self._around(file, line)[:-1])

    def _around(self, file: str, line: int) -> list[ast.stmt]:
        """The statements that the line is in, the innermost last."""
        every = (node for node in ast.walk(self._trees[file]) if isinstance(node, ast.stmt))
        found = [statement for statement in every if statement.lineno <= line <= (statement.end_lineno or 0)]
        return sorted(found, key=lambda s: (s.lineno, -(s.end_lineno or 0), s.col_offset))

    def body_lines(self, file: str) -> list[int]:
        """Lines with code inside functions, but for those that raise an error or begin a function."""
        found: set[int] = set()
        for function in ast.walk(self._trees[file]):
            if isinstance(function, FUNCTION):
                for statement in function.body:
                    found.update(line for line in _span(statement, whole=True) if line in self._code[file])
        for statement in ast.walk(self._trees[file]):
            if isinstance(statement, ast.Raise) or (isinstance(statement, ast.Expr) and _is_text(statement)):
                found.difference_update(_span(statement))
        return sorted(found)

    def _mentions(self, names: set[str]) -> dict[str, list[int]]:
        """Where the names are written; of a default, what the function begins with."""
        found: dict[str, list[int]] = defaultdict(list)
        if not names:
            return found
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
        for file, held in self.files.items():
            for number, text in enumerate(held.split("\n"), 1):
                if pattern.search(text):
                    around = self._around(file, number)
                    found[file] += _beginning(around[-1]) if around and isinstance(around[-1], FUNCTION) else [number]
        return found


def in_order(tests: Sequence[str], seconds: Mapping[str, float], limit: float) -> list[str]:
    """As many of `tests` as take `limit` seconds, and at least one: the quickest case of each function, then its next one."""
    cases: dict[str, int] = defaultdict(int)
    turns = []
    for test in sorted(tests, key=lambda test: (seconds[test], test)):
        function = test.partition("[")[0]
        turns.append((cases[function], seconds[test], test))
        cases[function] += 1
    chosen: list[str] = []
    for _, _, test in sorted(turns):
        if seconds[test] <= limit or not chosen:
            chosen.append(test)
            limit -= seconds[test]
    return chosen


def _lines_with_code(code: CodeType) -> Iterator[int]:
    yield from (line for _, _, line in code.co_lines() if line)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _lines_with_code(inner)


def _span(statement: ast.stmt, whole: bool = False) -> list[int]:
    """The lines of a statement; of one with a body, those before it."""
    body = None if whole else getattr(statement, "body", None)
    last = body[0].lineno - 1 if body else statement.end_lineno or statement.lineno
    return list(range(statement.lineno, max(last, statement.lineno) + 1))


def _beginning(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[int]:
    """The lines of the first statement that is executed where it is called."""
    return _span(function.body[1] if _is_text(function.body[0]) and function.body[1:] else function.body[0])


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
