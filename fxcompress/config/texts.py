"""Plain data as the text of a file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import tomli_w
from ruamel.yaml import YAML

from fxcompress.errors import ConfigError

_WIDTH = 128


def to_text(value: dict[str, Any], suffix: str) -> str:
    """`value` as the text of a file with this `suffix`.

    Raises:
        ConfigError: there is no such format, or it cannot hold the value.
    """
    if suffix.lower() not in _WRITERS:
        raise ConfigError(f"a configuration is a file of {', '.join(_WRITERS)}, not {suffix or 'without a suffix'}")
    return _WRITERS[suffix.lower()](value)


def _yaml(value: dict[str, Any]) -> str:
    stream, yaml = io.StringIO(), YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width, yaml.sort_base_mapping_type_on_output = False, _WIDTH, False  # type: ignore[assignment]
    yaml.allow_unicode = True
    yaml.dump(value, stream)
    return stream.getvalue()


def _json(value: dict[str, Any]) -> str:
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:
        raise ConfigError("JSON has finite numbers alone, and an option here is not; write a file of YAML or TOML") from None


def _toml(value: dict[str, Any]) -> str:
    try:
        return tomli_w.dumps(value)
    except TypeError:
        raise ConfigError("TOML has no null, and an option here is None; write a file of YAML or JSON") from None


_WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {".yaml": _yaml, ".yml": _yaml, ".json": _json, ".toml": _toml}
