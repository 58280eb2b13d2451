"""Names of modules and tensors are any text: none becomes code or a path, and all are found again in the state."""

from __future__ import annotations

import copy
import keyword
from pathlib import Path

import pytest
import torch
from levels import Undecided
from torch import fx, nn

import fxcompress
from fxcompress import Compiled, passes
from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.emit.files import write_onnx
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.errors import CaptureError, InputError
from fxcompress.ir.naming import MODULE_NAMES, SafeNames, identifier, translated
from fxcompress.storage.names import file_names

TAKEN = sorted(name for name in {*dir(Compiled), *Compiled.__annotations__, "code", "meta"} - MODULE_NAMES if name[0] != "_")
ODD = [
    *(
        "/etc/x",
        "a b",
        'a"b',
        "a\\b",
        "a\nb",
        "<b>",
        "[/d]",
        "é",
        "ﬁ",
        "x²",
        "名前",
        "\ud800",
        "self",
        "torch",
        "_",
        "__",
        "0_1",
    ),
    "class",
]
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Holder(nn.Module):
    """A linear layer, a parameter and a buffer of any names, in any depth."""

    def __init__(self, *names: str):
        super().__init__()
        torch.manual_seed(0)
        self.names, owner = names, self
        for name in names[:-2]:
            owner._modules[name] = nn.Module()
            owner = owner._modules[name]
        owner._modules[names[-2]] = nn.Linear(4, 4)
        owner._parameters[names[-1]] = nn.Parameter(torch.randn(4, 4))
        owner._buffers[f"{names[-1]} of it"] = torch.randn(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        owner = self
        for name in self.names[:-2]:
            owner = owner._modules[name]
        hidden = owner._modules[self.names[-2]](x).relu() @ owner._parameters[self.names[-1]]
        return hidden + owner._buffers[f"{self.names[-1]} of it"]


def check(model: Holder) -> fx.GraphModule:
    graph = capture(model, ExampleInputs((X,)))
    assert torch.equal(graph(X), model.eval()(X))
    return graph


@pytest.mark.parametrize("position", range(0, len(TAKEN), 8))
def test_no_attribute_of_a_compiled_model_is_in_the_way(position: int) -> None:
    for name, other in zip(TAKEN[position : position + 8], reversed(TAKEN)):
        if name != other:
            model = Holder(name, other)
            compiled = fxcompress.compile(model, [], example_inputs=X)
            assert list(compiled.state_dict()) == list(model.state_dict())
            assert torch.equal(compiled(X), model(X)) and compiled.text() and compiled.report and compiled.controller


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_kept_in_the_state_and_nowhere_else(name: str, tmp_path: Path) -> None:
    model = Holder(name, f"{name}{name}", name)
    compiled = fxcompress.compile(model, example_inputs=X, data=[X])
    assert model.state_dict().keys() <= compiled.state_dict().keys()
    state = {key: value + 1 for key, value in model.state_dict().items()}
    assert compiled.load_state_dict(state, strict=False).missing_keys
    twin = copy.deepcopy(compiled)
    assert all(torch.equal(twin.state_dict()[key], value) for key, value in state.items())
    twin.load_checkpoint(compiled.checkpoint())
    for path in [*compiled.dump(tmp_path / "graphs"), compiled.to_onnx(tmp_path / "model.onnx")]:
        assert tmp_path in path.parents and path.is_file()
    with pytest.raises(RuntimeError) as problem:
        compiled.load_state_dict(dict.fromkeys([f"{name}.none"], X))
    assert f"{name}.{name}" in str(problem.value).replace("\\n", "\n").replace("\\\\", "\\") or not name.isascii()


@pytest.mark.parametrize("where", ["module", "parameter"])
def test_a_name_runs_nothing(where: str, tmp_path: Path) -> None:
    name = f'training"), open("{tmp_path}/ran", "w"), getattr(self,"training'
    model = Holder(*((name, "weight") if where == "module" else ("layer", name)))
    compiled = fxcompress.compile(model, [], example_inputs=X)
    assert torch.equal(compiled(X), model(X)) and not list(tmp_path.iterdir())
    assert list(compiled.state_dict()) == list(model.state_dict())


def test_an_exported_program_is_no_way_around(tmp_path: Path) -> None:
    model = Holder(f'training"), open("{tmp_path}/ran", "w"), getattr(self,"training', "text").eval()
    program = torch.export.export(model, (X,), strict=False)
    compiled = fxcompress.compile(program, [])
    assert torch.equal(compiled(X), model(X)) and not list(tmp_path.iterdir())


def test_inputs_are_called_by_identifiers() -> None:
    class Any(nn.Module):
        def forward(self, **given):
            return sum(given.values())

    with pytest.raises(InputError, match="which is no identifier of Python; call it by another"):
        fxcompress.compile(Any(), [], example_inputs={'x=print("ran")': X})
    assert torch.equal(fxcompress.compile(Any(), [], example_inputs={"x": X})(x=X), X)


@pytest.mark.parametrize("name", ["torch", "pytree", "fx_pytree", "é"])
@pytest.mark.parametrize("by_keyword", [False, True])
def test_an_input_that_code_cannot_be_written_for_is_told(name: str, by_keyword: bool) -> None:
    scope: dict = {}
    exec(f"def forward(self, {name}):\n    return {name}.relu()", scope)
    model = type("Model", (nn.Module,), {"forward": scope["forward"]})()
    with pytest.raises(InputError, match="give the parameter of forward another name"):
        fxcompress.compile(model, [], example_inputs={name: X} if by_keyword else X)


@pytest.mark.parametrize("key", ['a"), open("ran", "w"), ("', "../x", "", "\ud800", "a" * 300, "class", "名前"])
def test_keys_of_outputs_are_kept_and_name_the_outputs_of_a_file(key: str, tmp_path: Path, monkeypatch) -> None:
    class Keyed(nn.Module):
        def forward(self, x):
            return {key: x.relu(), "other": x}

    monkeypatch.chdir(tmp_path)
    compiled = fxcompress.compile(Keyed(), [passes.Quantize(ignored=["op:relu"]), passes.Calibrate()], data=[X])
    assert list(compiled(X)) == [key, "other"] and not list(tmp_path.iterdir())
    assert compiled.to_onnx("model.onnx").is_file() and compiled.dump("graphs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graphs", "model.onnx"]


def test_what_utf8_does_not_have_is_no_name_in_a_file(tmp_path: Path) -> None:
    compiled = fxcompress.compile(nn.Linear(4, 4), [], example_inputs=X)
    for names in ({"input_names": ["\ud800"]}, {"output_names": ["\udcff"]}):
        with pytest.raises(InputError, match="a name in a file is a text in UTF-8"):
            compiled.to_onnx(tmp_path / "model.onnx", **names)
    compiled.to_onnx(tmp_path / "\udcff.onnx")
    model = to_onnx_model(compiled.lower())
    with pytest.raises(InputError, match="names the file of its weights, in UTF-8"):
        write_onnx(model, tmp_path / "\udcff.onnx", largest_file=10)


def test_names_that_torch_cannot_find_are_named() -> None:
    with pytest.raises(CaptureError, match="torch cannot find 'a.parameters'.*; rename them"):
        check(Holder("a", "parameters", "weight"))


def test_paths_stay_where_they_can_and_differ_where_they_differed() -> None:
    paths = ["layer1.0.weight", "text.weight", "a b.x y", "a_b.x", "a/b.x", "class.def", "text.text", "0", "..x", ""]
    names = SafeNames(paths)
    safe = [names[path] for path in paths]
    assert safe[:2] == ["layer1.0.weight", "text_1.weight"] and len({*safe}) == len(safe)
    for path, one in zip(paths, safe):
        assert translated(one, names.own) == path
        assert all(part.isdecimal() or (part.isidentifier() and not keyword.iskeyword(part)) for part in one.split(".") if one)
    assert identifier("0é b") == "_0__b"


def test_parts_are_written_into_their_folder_whatever_they_are_called(tmp_path: Path) -> None:
    names = file_names(["/etc/x", "../x", "..", "a/b", "a_b", "A_b", "layer.0", "é" * 300])
    assert [*names.values()][:7] == ["_etc_x", "_x", "_", "a_b", "a_b_1", "A_b_2", "layer.0"]

    class Outside(Undecided):
        backbone = property(lambda self: self._modules[f"{tmp_path}/outside"])

    model = Outside.__new__(Outside)
    nn.Module.__init__(model)
    model._modules[f"{tmp_path}/outside"] = nn.Linear(4, 4)
    inside = tmp_path / "inside"
    parts = fxcompress.compile(model, [], example_inputs=X, dump=inside / "while")
    written = [*parts.to_onnx(inside / "files"), *parts.dump(inside / "graphs"), *(inside / "while").rglob("*.svg")]
    assert len(written) > 4 and all(path.resolve().is_relative_to(inside) for path in written)
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


class OwnConstant(nn.Module):
    """A buffer with a name that folded constants get, and values that are folded."""

    def __init__(self, name, parameter):
        super().__init__()
        value = torch.tensor([5.0, 7.0, 9.0])
        setattr(self, name, nn.Parameter(value)) if parameter else self.register_buffer(name, value)
        self.name = name

    def forward(self, x):
        return x * getattr(self, self.name) + torch.arange(3) + torch.arange(3).flip(0) * 2


@pytest.mark.parametrize("parameter", [True, False])
@pytest.mark.parametrize("name", ["constant_0", "constant_1", "constant_2"])
def test_a_constant_that_is_folded_does_not_take_the_place_of_the_users_own(name, parameter):
    model, x = OwnConstant(name, parameter), torch.randn(2, 3)
    compiled = fxcompress.compile(model, [], example_inputs=x)
    assert torch.equal(compiled(x), model(x))
    assert torch.equal(compiled.state_dict()[name], getattr(model, name))
