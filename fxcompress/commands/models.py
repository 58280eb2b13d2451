"""Models as the command line names them: a factory in a module, or a file that torch.export saved."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from fxcompress.data.inputs import ExampleInputs, example_inputs
from fxcompress.errors import InputError, unreadable
from fxcompress.storage.names import file_names

HOW = (
    "write package.module:function, package.module:function(argument, name=argument), or the path of a .pt2 file that "
    "torch.export.save wrote"
)

CALL = "timm:create_model('resnet18', pretrained=True)"


def load_model(target: str, *, trust: bool = False) -> nn.Module | ExportedProgram:
    """The model that `target` names: ``"package.module:function"`` or ``"model.pt2"``.

    The function returns the model. It is called with the arguments that stand behind it, plain values as in
    ``"timm:create_model('resnet18', pretrained=True)"``, or none; a module-level model will do as well. Modules are looked
    for in the current folder first. A file is read with `torch.export.load`, which unpickles, and so only with `trust`.

    Raises:
        InputError: there is no such module, function or file, or it gives something else than a model. What the user's
            own code raises passes through.
    """
    if target.endswith(".pt2"):
        return _load_program(Path(target), trust)
    if Path(target).suffix in (".pt", ".pth", ".ckpt", ".safetensors", ".bin"):
        raise InputError(
            f"{target} is no file of a model that is read here: such files hold weights, pickled modules or TorchScript; {HOW}"
            ", where the function builds the model and loads them"
        )
    function, args, kwargs = _call(target)
    module_name, colon, name = function.partition(":")
    if not colon or not module_name or not name:
        raise InputError(f"{target!r} does not name a model; {HOW}")
    model = _factory(_import(module_name), module_name, name)
    if not isinstance(model, (nn.Module, ExportedProgram)) or args or kwargs:
        model = _called(model, target, args, kwargs)
    if not isinstance(model, (nn.Module, ExportedProgram)):
        raise InputError(f"{target} returned {type(model).__name__}, not a torch.nn.Module; let it return the model")
    return model


def _call(target: str) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """`target` without the arguments that stand behind it, and these.

    Raises:
        InputError: they are no plain values.
    """
    function, bracket, rest = target.partition("(")
    if not bracket:
        return target, (), {}
    try:
        call = ast.parse(f"function({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("it is no single call")
        if any(one.arg is None for one in call.keywords):
            raise ValueError("** stands for no plain value")
        kwargs = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
        return function, tuple(map(ast.literal_eval, call.args)), kwargs
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        reason = re.sub(r"malformed node.*", "one of them is computed", str(error).partition("\n")[0])
        raise InputError(f"the arguments in {target!r} cannot be read: {reason}; write plain values, as {CALL!r}") from None


def _called(factory: Any, target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the factory returns; arguments that it does not take are told as the user's, all else passes through."""
    try:
        inspect.signature(factory).bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"{target} cannot be called so: {error}; write its arguments in brackets, as {CALL!r}") from None
    except ValueError:  # a function without a signature
        pass
    return factory(*args, **kwargs)


def model_name(target: str) -> str:
    """A name for files about the model `target`: that of its file, of the first text it is made from, or of its function."""
    if target.endswith(".pt2"):
        return Path(target).stem
    function, args, _ = _call(target)
    named = [one for one in args if isinstance(one, str)]
    (safe,) = file_names([named[0] if named else function.rpartition(":")[2].rpartition(".")[2]]).values()
    return safe


def example_from_shapes(shapes: list[tuple[list[int], torch.dtype]] | None) -> ExampleInputs | None:
    """Random inputs of these shapes (zeros for integers); None for none."""
    if not shapes:
        return None
    generator = torch.Generator().manual_seed(0)
    return ExampleInputs(
        tuple(
            torch.randn(shape, generator=generator, dtype=dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)
            for shape, dtype in shapes
        )
    )


def example_for(model: nn.Module | ExportedProgram, shapes: list[tuple[list[int], torch.dtype]] | None) -> ExampleInputs | None:
    """Inputs of the given `shapes`; else those that the model itself knows; None where there are neither."""
    if shapes and isinstance(model, ExportedProgram):
        raise InputError("an exported program takes the shape that it was exported with; leave out --input-shape")
    try:
        return example_inputs(model, example_from_shapes(shapes))
    except InputError:
        if shapes:
            raise
        return None


def _load_program(path: Path, trust: bool) -> ExportedProgram:
    if not path.is_file():
        raise InputError(f"there is no file {path}; {HOW}")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not an exported program; write it with torch.export.save(program, {path.name!r})")
    if not trust:
        raise InputError(
            f"reading {path} can run any code that whoever wrote it put there: torch unpickles it; "
            "where you trust its origin, add --trust"
        )
    with unreadable(f"{path} cannot be loaded", "write it with torch.export.save(program, path)"):
        return torch.export.load(path)


def _import(name: str) -> Any:
    """The module `name`; an import that fails inside it is the user's own and passes through."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if name.endswith(".py"):
        raise InputError(f"{name} is a file; name it as a module: {name.removesuffix('.py').replace('/', '.')}:function")
    if not all(part.isidentifier() for part in name.split(".")):
        raise InputError(f"{name!r} is no module; {HOW}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        parent, _, leaf = name.rpartition(".")
        package = parent if error.name == name else ""
        hint = _nearest(leaf, _siblings(package), package or "the current folder")
        raise InputError(f"there is no module {error.name!r}, here or installed{hint}; {HOW}") from None


def _siblings(package: str) -> list[str]:
    """The modules beside each other in `package`, or in the current folder for an empty name."""
    if not package:
        folders = [str(Path.cwd())]
    else:
        spec = importlib.util.find_spec(package)
        folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [path for folder in folders for path in Path(folder).iterdir()]
    return [path.stem for path in files if path.suffix == ".py" or (path / "__init__.py").is_file()]


def _factory(module: Any, module_name: str, name: str) -> Any:
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [n for n in dir(found) if not n.startswith("_") and callable(getattr(found, n, None))]
            raise InputError(f"{module_name} has no {part!r}{_nearest(part, public, 'it')}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{module_name}:{name} is a {type(found).__name__}, not a function that returns a model")
    return found


def _nearest(name: str, known: list[str], where: str) -> str:
    close = difflib.get_close_matches(name, known, 3)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; {where} has {', '.join(sorted(known)[:8])}" if 0 < len(known) <= 8 else ""
