"""The JSON Schema of configurations, from what passes and options declare: editors complete and check files by it."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen

from fxcompress.config.config import NOT_IN_FILES, PIPELINES, Config
from fxcompress.config.kinds import direct, is_options, known, needed, stands_alone
from fxcompress.driver.interface import Pass
from fxcompress.options.declared import declarations
from fxcompress.options.documented import sentences, summary
from fxcompress.options.kinds import OneOf

_LIMITS = {Ge: "minimum", Gt: "exclusiveMinimum", Le: "maximum", Lt: "exclusiveMaximum", MinLen: "minItems"}
_PLAIN = {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null", None: "null"}
OF_OTHERS = {"^[A-Za-z_][\\w.]*:[A-Za-z_][\\w.]*$": {"type": ["object", "null"]}}
"""Classes of other packages, by ``my_package:MyPass``."""


def schema() -> dict[str, Any]:
    """The schema, as `fxcompress config schema` prints it."""
    made = _Schema()
    properties = made.options(Config)["properties"]
    properties.pop(NOT_IN_FILES)
    lists = {name: made.arguments(function) for name, function in PIPELINES.items()}
    with_options = {
        "type": "object",
        "properties": lists,
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    }
    passes = {"anyOf": [{"enum": sorted(PIPELINES)}, with_options, made.of(Pass)]}
    told = {"description": properties["passes"]["description"]}
    properties["passes"] = {"anyOf": [{"type": "array", "items": passes}, passes], **told}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A configuration of fxcompress",
        "type": "object",
        "properties": {"$schema": {"type": "string"}, **properties},
        "required": ["passes"],
        "additionalProperties": False,
        "$defs": dict(sorted(made.definitions.items())),
    }


class _Schema:
    """Collects the definitions of classes that have been met."""

    def __init__(self) -> None:
        self.definitions: dict[str, dict[str, Any]] = {}

    def of(self, declared: Any) -> dict[str, Any]:
        """What a value is that is declared as `declared`."""
        origin, parts = get_origin(declared), get_args(declared)
        if origin is Annotated:
            limits = {_LIMITS[type(m)]: next(iter(vars_of(m).values())) for m in parts[1:] if type(m) in _LIMITS}
            names = [name for one in parts[1:] if isinstance(one, OneOf) for name in one.names]
            return self.of(parts[0]) | limits | ({"enum": names} if names else {})
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.of(part) for part in parts]}
        if origin is Literal:
            return {"enum": list(parts)}
        if declared in _PLAIN:
            return {"type": _PLAIN[declared]}
        if declared is Any:
            return {}
        if origin is Callable:
            return {"not": {}, "description": "a function, which no file holds"}
        if origin is tuple and parts[1:] != (...,):
            return {"type": "array", "prefixItems": [self.of(p) for p in parts], "minItems": len(parts), "items": False}
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(parts[1])}
        if isinstance(origin, type) and issubclass(origin, Iterable):
            return {"type": "array", "items": self.of(parts[0])}
        return self._objects(declared) if is_options(declared) else {"not": {}, "description": "which no file holds"}

    def _objects(self, base: type) -> dict[str, Any]:
        """A name, or a mapping from one to its options; options alone where there is one class only."""
        classes = known(base)
        if direct(base):
            return self._reference(base)
        alone = [name for name, one in classes.items() if stands_alone(one)]
        named = {name: self._reference(one) for name, one in classes.items()}
        named |= {name: {"anyOf": [named[name], {"type": "null"}]} for name in alone}
        one_of_them = {
            "type": "object",
            "properties": named,
            "patternProperties": OF_OTHERS,
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
        }
        return {"anyOf": [{"enum": alone}, {"type": "string", "pattern": ":"}, one_of_them]}

    def _reference(self, one: type) -> dict[str, Any]:
        if one.__name__ not in self.definitions:
            self.definitions[one.__name__] = {}  # met, should it hold itself
            self.definitions[one.__name__] = self.options(one)
        return {"$ref": f"#/$defs/{one.__name__}"}

    def arguments(self, function: Callable[..., Any]) -> dict[str, Any]:
        """The options of `function`, by name, or nothing."""
        properties = {name: self.of(declared) for name, declared in declarations(function).items()}
        return {"type": ["object", "null"], "properties": properties, "additionalProperties": False}

    def options(self, one: type) -> dict[str, Any]:
        """The options of the class `one`, by name."""
        told, properties, required = sentences(one), {}, needed(one)
        fields = {f.name: f for f in dataclasses.fields(one)}
        for name, declared in declarations(one).items():
            default = fields[name].default
            properties[name] = self.of(declared) | ({"description": told[name]} if name in told else {})
            if isinstance(default, (bool, int, float, str)) or (default is None and declared is not None):
                properties[name]["default"] = default
        made = {"type": "object", "properties": properties, "additionalProperties": False}
        made |= {"required": required} if required else {}
        return made | ({"description": summary(one)} if summary(one) else {})


def vars_of(limit: Any) -> dict[str, Any]:
    """The fields of a limit, such as ``Ge(1)``, by name."""
    return {field.name: getattr(limit, field.name) for field in dataclasses.fields(limit)}
