"""Configurations: passes with their options, and what they are for, in files.

In: files of YAML, JSON or TOML, of ours or of NNCF's, or passes. Out: a `Config`, a file, or the JSON Schema of files.

Imports: options, documents, storage, data, targets, driver, defaults, nncf_files.
"""

from fxcompress.config.config import Config
from fxcompress.config.inputs import Input

__all__ = ["Config", "Input"]
