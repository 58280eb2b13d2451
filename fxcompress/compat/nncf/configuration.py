"""`NNCFConfig`: the dict of a file, with what a script registers beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from fxcompress.config import Config
from fxcompress.documents import load_document
from fxcompress.errors import InputError


class NNCFConfig(dict):
    """The keys of an NNCF file, and structures that `register_extra_structs` keeps by their class."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._structs: dict[type, Any] = {}

    @classmethod
    def from_dict(cls, nncf_dict: Mapping[str, Any]) -> NNCFConfig:
        """A checked configuration.

        Raises:
            ConfigError: a key is unknown, of a wrong type, out of its range, or cannot be had.
        """
        made = cls(nncf_dict)
        made.as_config()
        return made

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> NNCFConfig:
        """As `from_dict`, of the file at `path`, which may have comments."""
        Config.load(path)
        return cls(load_document(path).value)

    def register_extra_structs(self, struct_list: Iterable[Any]) -> None:
        """Keep each of the structures, one of a class.

        Raises:
            InputError: there is one of that class already.
        """
        for one in struct_list:
            if type(one) in self._structs:
                raise InputError(f"a {type(one).__name__} is registered already")
            self._structs[type(one)] = one

    def get_extra_struct(self, struct_cls: type) -> Any:
        return self._structs[struct_cls]

    def has_extra_struct(self, struct_cls: type) -> bool:
        return struct_cls in self._structs

    def get_all_extra_structs(self) -> list[Any]:
        return list(self._structs.values())

    def as_config(self) -> Config:
        """What it asks for, as a configuration of this library."""
        known = {"compression": [], **plain(self)}
        return Config.parse(json.dumps(known), ".json")


def plain(value: Any) -> Any:
    """`value` as JSON has it; what that has not is left out."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items() if _is_plain(one)}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value if _is_plain(one)]
    return value


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, Mapping, list, tuple))
