"""Files of settings, YAML, JSON or TOML, read as plain data that knows on which line each of its values stands.

In: a path. Out: dicts, lists, texts and numbers, or an error with file, line and key.

Imports: errors.
"""

from fxcompress.documents.document import Document, Key, load_document, parse_document

__all__ = ["Document", "Key", "load_document", "parse_document"]
