"""YAML, by the nodes that ruamel.yaml makes of it: no tag is obeyed, so that nothing is run or made by being read."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fxcompress.documents.limits import DEEPEST, MOST_VALUES, Key, Parsed, ParseProblem

_CORE = "tag:yaml.org,2002:"


def parse(text: str) -> Parsed:
    """The value that the YAML `text` is, one document, with the line of each key.

    Raises:
        ParseProblem: it is not well formed, says a key twice, has a tag, or means more than `limits` allow.
    """
    parser = YAML(typ="safe", pure=True)
    try:
        root = parser.compose(text)
    except MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        what = " ".join(filter(None, (problem.context, problem.problem))) or "this is no YAML"
        raise ParseProblem(what, (mark.line if mark else 0) + 1) from None
    except RecursionError:
        raise ParseProblem("it is nested too deep", 1) from None
    except (YAMLError, ValueError) as problem:
        first = (str(problem).splitlines() or ["it cannot be read"])[0]
        raise ParseProblem(f"this is no YAML: {first}", getattr(problem, "line", 0) + 1) from None
    reading = _Reading(parser.constructor)
    value = None if root is None else reading.value(root, ())
    return Parsed(value, reading.lines)


class _Reading:
    """Counts what it has read."""

    def __init__(self, scalars: SafeConstructor) -> None:
        self.lines: dict[Key, int] = {}
        self.count = 0
        self.scalars = scalars

    def value(self, node: Node, key: Key) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(key, line)
        self.count += 1
        if self.count > MOST_VALUES:
            raise ParseProblem(f"it means more than {MOST_VALUES} values; repeat less by aliases", line)
        if len(key) > DEEPEST:
            raise ParseProblem(f"it is nested more than {DEEPEST} deep", line)
        if isinstance(node, MappingNode):
            self._check(node, "map", line)
            return self._mapping(node, key)
        if isinstance(node, SequenceNode):
            self._check(node, "seq", line)
            return [self.value(item, (*key, position)) for position, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node, line)

    def _mapping(self, node: MappingNode, key: Key) -> dict[str, Any]:
        read: dict[str, Any] = {}
        for name, item in node.value:
            line = name.start_mark.line + 1
            if not isinstance(name, ScalarNode):
                raise ParseProblem("a key is a text, not a list or a mapping", line)
            if str(name.tag).endswith(":merge"):
                raise ParseProblem("keys are not merged (<<); write them out", line)
            if not str(name.tag).startswith(_CORE):
                raise ParseProblem(f"there are no tags in a configuration, such as {name.tag}", line)
            if name.value in read:
                raise ParseProblem(f"the key {name.value!r} stands twice, first on line {self.lines[(*key, name.value)]}", line)
            self.lines[(*key, name.value)] = line
            read[name.value] = self.value(item, (*key, name.value))
        return read

    def _scalar(self, node: ScalarNode, line: int) -> Any:
        kind = str(node.tag).removeprefix(_CORE)
        if kind == "str":
            return node.value
        if kind == "null":
            return None
        makers = {
            "int": self.scalars.construct_yaml_int,
            "float": self.scalars.construct_yaml_float,
            "bool": self.scalars.construct_yaml_bool,
        }
        if kind == "timestamp":
            return node.value
        if kind not in makers:
            raise ParseProblem(f"there are no tags in a configuration, such as {node.tag}", line)
        try:
            return makers[kind](node)
        except (ValueError, KeyError):
            raise ParseProblem(f"{node.value!r} is no {kind}", line) from None

    @staticmethod
    def _check(node: Node, kind: str, line: int) -> None:
        if str(node.tag) != _CORE + kind:
            raise ParseProblem(f"there are no tags in a configuration, such as {node.tag}", line)
