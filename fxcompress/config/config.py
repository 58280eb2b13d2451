"""`Config`: what to do with a model, as an object and as a file."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fxcompress import defaults
from fxcompress.config import writing
from fxcompress.config.inputs import Input, example_of
from fxcompress.config.reading import Reader
from fxcompress.config.texts import to_text
from fxcompress.data.inputs import ExampleInputs
from fxcompress.documents import Document, load_document, parse_document
from fxcompress.driver.interface import Pass
from fxcompress.errors import ConfigError, InputError, did_you_mean
from fxcompress.nncf_files import is_nncf_file, read_nncf_file
from fxcompress.options import Declared, OneOf
from fxcompress.options.declared import declarations
from fxcompress.storage.atomic import as_file, as_path, write_text
from fxcompress.targets import TARGETS

PIPELINES: dict[str, Callable[..., list[Pass]]] = {
    f"defaults.{name}": made
    for name, made in vars(defaults).items()
    if inspect.isfunction(made) and made.__module__ == defaults.__name__
}
"""Lists of passes that a file can name in place of a pass, with options where they have some."""


NOT_IN_FILES = "notes"
"""The attribute that reading a file makes."""


@dataclass(frozen=True, kw_only=True)
class Config(Declared):
    """What to do with a model: ``compile(model, config=config, data=loader)``.

    Attributes:
        passes: in their order. In a file a pass is its name, ``{name: options}``, or a list of them, named in the same way:
            ``defaults.training``, or ``{defaults.post_training: {effort: high}}``.
        target: the runtime that the model is for.
        inputs: of the model, for where there is neither data nor an example to take them from.
        submodules: paths of the parts to compile, where the whole is not to be, such as a detector's backbone.
        extra: settings of other programs, which are kept.
        notes: of a file of NNCF's, what was ignored, and why.

    Raises:
        InputError: an option cannot be used.
    """

    passes: tuple[Pass, ...]
    target: Annotated[str, OneOf(TARGETS)] = "openvino"
    inputs: tuple[Input, ...] = ()
    submodules: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, allow_imports: bool = False) -> Config:
        """The configuration in the file at `path`: YAML, JSON (with comments) or TOML, by its suffix; or one of NNCF 2.

        Args:
            allow_imports: also take passes that the file names as ``my_package:MyPass``, which runs that module's code.

        Raises:
            ConfigError: the file cannot be read, or something in it is unknown, of a wrong type or out of its range; names the
                file, the line, the key, and what is allowed.
        """
        return cls._read(load_document(as_path(path)), allow_imports)

    @classmethod
    def parse(cls, text: str, suffix: str = ".yaml", *, allow_imports: bool = False) -> Config:
        """As `load`, from the `text` of a file with this suffix."""
        if not isinstance(text, str):
            raise ConfigError(f"the text of a configuration is needed, not a {type(text).__name__}")
        return cls._read(parse_document(text, suffix), allow_imports)

    @classmethod
    def _read(cls, document: Document, allow_imports: bool) -> Config:
        if is_nncf_file(document.value):
            return cls._from_nncf(document)
        if not isinstance(document.value, dict):
            document.fail((), "a configuration is a mapping with the key 'passes'")
        reader, options = Reader(document, allow_imports), dict(document.value)
        if not isinstance(options.pop("$schema", ""), str):
            document.fail(("$schema",), "this is a text: where the schema is")
        declared = {name: kind for name, kind in declarations(cls).items() if name != NOT_IN_FILES}
        for name in options:
            if name not in declared:
                document.fail(
                    (name,), f"there is no key {name!r}{did_you_mean(name, declared)}; there are {', '.join(declared)}"
                )
        if "passes" not in options:
            document.fail((), "it needs the key 'passes': a list, such as [defaults.post_training]")
        passes = _passes(reader, options.pop("passes"))
        read = {name: reader.value(given, declared[name], (name,)) for name, given in options.items()}
        return cls(passes=passes, **read)

    @classmethod
    def _from_nncf(cls, document: Document) -> Config:
        found, reader = read_nncf_file(document), Reader(document)
        inputs = tuple(reader.object(Input, one, ("input_info",)) for one in found.inputs)
        return cls(passes=found.passes, inputs=inputs, extra=found.extra, notes=found.notes)

    def dump(self, path: str | os.PathLike[str]) -> Path:
        """Write the configuration to `path`, from where `load` makes an equal one; the suffix says the format.

        Raises:
            ConfigError: something in it cannot be written, such as a function; says what.
            InputError: the file cannot be written.
        """
        return write_text(path, self.text(as_file(path).suffix))

    def text(self, suffix: str = ".yaml") -> str:
        """The text that `dump` writes to a file with this `suffix`."""
        listed = [writing.value(one, Pass, str(one.name)) for one in self.passes]
        written = writing.written_options(dataclasses.replace(self, passes=(), notes=()), "Config")
        return to_text(written | {"passes": listed}, suffix)

    @classmethod
    def of_checkpoint(cls, state: Mapping[str, Any], *, allow_imports: bool = False) -> Config:
        """The configuration of the model that the checkpoint `state` was taken of.

        Raises:
            ConfigError: it has none, or names passes of other packages, which `allow_imports` does not allow.
        """
        text = state.get("config") if isinstance(state, Mapping) else None
        if not isinstance(text, str):
            raise ConfigError("this checkpoint has no configuration: one of its passes has options that no file can hold")
        return cls.parse(text, allow_imports=allow_imports)

    def python(self) -> str:
        """The passes as Python, a pass a line; those of other packages with the module that they are in."""
        lines = [f"    {_module(one)}.{one}," for one in self.passes]
        return "\n".join(["passes = [", *lines, "]"])

    def given(self, **options: Any) -> Config:
        """This configuration with `options`, such as ``loss=function``, for the passes that have them.

        Raises:
            InputError: no pass has such an option.
        """
        passes = list(self.passes)
        for name, one in options.items():
            having = [i for i, p in enumerate(passes) if name in declarations(type(p))]
            if not having:
                raise InputError(f"no pass of this configuration has an option {name!r}")
            for i in having:
                passes[i] = dataclasses.replace(passes[i], **{name: one})  # type: ignore[type-var]
        return dataclasses.replace(self, passes=tuple(passes))

    def example(self) -> ExampleInputs | None:
        """A call of the model with `inputs`; None where there are none."""
        return example_of(self.inputs)


def _module(one: Pass) -> str:
    path = type(one).__module__
    return "passes" if path.startswith("fxcompress.passes.") else path


def text_or_none(passes: Sequence[Pass], target: str) -> str | None:
    """The text, in YAML, of the configuration with these passes; None where something in it cannot be written."""
    try:
        return Config(passes=tuple(passes), target=target).text()
    except InputError:
        return None


def _passes(reader: Reader, given: Any) -> tuple[Pass, ...]:
    """The passes that the file lists, with those of the lists that it names."""
    listed: Iterable[Any] = given if isinstance(given, list) else [given]
    found: list[Pass] = []
    for position, one in enumerate(listed):
        key = ("passes", position) if isinstance(given, list) else ("passes",)
        name, options = next(iter(one.items())) if isinstance(one, dict) and len(one) == 1 else (one, {})
        if isinstance(name, str) and name in PIPELINES:
            found += reader.call(PIPELINES[name], options, (*key, name) if isinstance(one, dict) else key)
        elif isinstance(name, str) and name.startswith("defaults."):
            reader.document.fail(key, f"there is no {name!r}{did_you_mean(name, PIPELINES)}; there are {', '.join(PIPELINES)}")
        else:
            found.append(reader.value(one, Pass, key))
    return tuple(found)
