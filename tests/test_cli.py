"""The command line: what it writes, and what it says of each thing that a user may get wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fxcompress import cli
from fxcompress.commands.models import load_model, model_name
from fxcompress.data.images import ArrayFile, ImageFolder
from fxcompress.defaults import Effort, post_training
from fxcompress.emit.translation import TRANSLATIONS
from fxcompress.errors import InputError
from fxcompress.ir.dialect import resolve
from fxcompress.targets import TARGETS

FACTORIES = """
import torch
from torch import nn

def tiny():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
    def forward(self, x, y):
        return self.layer(x) + y

def feed_forward():
    return nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4), nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

def wide(width, depth=1, *, name="wide"):
    return nn.Sequential(nn.Conv2d(3, width, 3), *[nn.Conv2d(width, width, 1) for _ in range(depth)])

class Box:
    build = staticmethod(tiny)

def nothing():
    pass

def broken():
    return 1 / 0

table = {}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder of its own, with a module of factories, images, and an array."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"factories_{tmp_path.name.replace('-', '_')}"  # imported modules outlive a test
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    np.save("data.npy", np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32))
    return name


@pytest.fixture
def photos(here, tmp_path):
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for position, name in enumerate(["cats/a.png", "cats/b.JPG", "dogs/c.png"]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (20 + position, 30, 3), dtype=np.uint8)
        image.fromarray(pixels).save(path, format="png" if name.endswith("png") else "jpeg")
    return "photos"


def complaint(capsys, *argv) -> str:
    """What the command says on standard error, having failed."""
    assert cli.main(list(argv)) == 2
    shown = capsys.readouterr()
    assert not shown.out and "Traceback" not in shown.err
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1, "one paragraph"
    return shown.err


def refusal(capsys, *argv) -> str:
    """What argparse says of arguments that it does not accept."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(argv))
    assert stop.value.code == 2
    return capsys.readouterr().err


def export(path: str, *shape: int) -> str:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    torch.export.save(torch.export.export(model.eval(), (torch.randn(shape),)), path)
    return path


def test_a_factory_and_an_array_give_a_quantized_file(here, capsys, tmp_path):
    assert cli.main(["compile", f"{here}:tiny", "--data", "data.npy", "--dump", "graphs", "--samples", "4"]) == 0
    shown = capsys.readouterr().out
    assert "samples=4" in shown and "calibrated on 4 samples of data.npy" in shown and "wrote tiny.onnx" in shown
    model = onnx.load("tiny.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in model.graph.node}
    assert len(list((tmp_path / "graphs").glob("*.svg"))) == 1 + len(post_training())


def test_help_needs_no_torch():
    """It is read in a moment: torch takes seconds to import."""
    run = "try: cli.main(['compile', '--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    code = f"import sys\nfrom fxcompress import cli\n{run}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.endswith("False\n") and "--json" in said


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_threads_do_not_spin_for_long_unless_asked_to(given, expected):
    """Before torch is imported, which looks once."""
    code = "import os, sys; from fxcompress.cli import main; sys.argv = ['fxcompress', '--version']\n"
    code += "try: main()\nfinally: print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    plain = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", code], env=plain | given, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"{expected} False"


def test_the_targets_of_the_command_line_are_all_there_are():
    assert sorted(cli.TARGETS) == sorted(TARGETS)
    assert get_args(Effort) == cli.EFFORTS


@pytest.mark.parametrize("command", ["compile", "graph", "inspect"])
def test_quiet_prints_nothing_and_json_nothing_else(command, here, capfd):
    assert cli.main(["compile", f"{here}:tiny", "--data", "data.npy", "--output", "m.onnx", "--quiet"]) == 0
    assert capfd.readouterr() == ("", "") and Path("m.onnx").is_file()
    given = {
        "compile": ["compile", f"{here}:tiny", "--data", "data.npy"],
        "graph": ["graph", f"{here}:tiny", "--input-shape", "1,3,8,8", "--passes"],
        "inspect": ["inspect", "m.onnx"],
    }[command]
    assert cli.main([*given, "--json"]) == 0
    shown = capfd.readouterr()
    told = json.loads(shown.out, parse_constant=lambda constant: pytest.fail(constant))
    assert not shown.err
    if command == "inspect":
        assert told["operators"]["QuantizeLinear"] == told["quantizes"] > 0
    else:
        assert told["rows"][0]["name"] == "Capture" and told["files"] and "notes" in told
    assert cli.main([*given, "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert "not allowed with argument" in refusal(capfd, *given, "--quiet", "--json")


def test_quiet_keeps_errors(here, capsys):
    assert "there is no file" in complaint(capsys, "compile", f"{here}:tiny", "--data", "nowhere", "--quiet")


@pytest.mark.parametrize("named", [True, False])
def test_arrays_by_the_names_of_inputs_or_in_their_order(named, here, capsys):
    rows = [np.random.default_rng(i).standard_normal((6, 3)) for i in range(2)]  # float64, as numpy makes them
    np.savez("two.npz", **dict(zip("yx", rows))) if named else np.savez("two.npz", *rows)
    assert cli.main(["compile", f"{here}:Two", "--data", "two.npz", "--samples", "4"]) == 0
    assert "4 samples of two.npz: " in capsys.readouterr().out
    held = onnx.load("Two.onnx").graph
    assert {value.name for value in held.input} == {"x", "y"}


def test_an_exported_program_takes_an_archive(here, capsys):
    class Two(nn.Module):
        def forward(self, x, y):
            return x @ y

    torch.export.save(torch.export.export(Two(), (torch.randn(2, 3, 4), torch.randn(2, 4, 3))), "two.pt2")
    np.savez("two.npz", np.ones((4, 3, 4), np.float32), np.ones((4, 4, 3), np.float32))
    assert cli.main(["compile", "two.pt2", "--trust", "--data", "two.npz"]) == 0


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "has no samples"),
        ({"x": np.ones(())}, "has no samples in x"),
        ({"x": np.ones((0, 3))}, "has no samples in x"),
        ({"x": np.ones((2, 3)), "y": np.ones((3, 3))}, "different numbers of samples: 2 of x, 3 of y"),
        ({"x": np.array(["a", "b"])}, "x in bad.npz holds <U1"),
        ({"x": np.array([{}, {}], dtype=object)}, "is no archive of arrays"),
        ({"z": np.ones((2, 3), np.float32)}, "z"),
    ],
)
def test_bad_archives(arrays, said, here, capsys):
    np.savez("bad.npz", **arrays)
    assert said in complaint(capsys, "compile", f"{here}:Two", "--data", "bad.npz")


def test_what_is_no_archive(here, capsys):
    Path("bad.npz").write_bytes(b"PK\x03\x04 and no more")
    assert "is no archive of arrays" in complaint(capsys, "compile", f"{here}:Two", "--data", "bad.npz")
    Path("bad.npz").write_text("text")
    assert "is no archive of arrays" in complaint(capsys, "compile", f"{here}:Two", "--data", "bad.npz")


def test_a_factory_is_given_its_arguments(here, capsys):
    model = load_model(f"{here}:wide(5, depth=2, name='a, (b)')")
    assert [one.out_channels for one in model] == [5, 5, 5]
    assert cli.main(["graph", f"{here}:wide(4, name='x')", "--input-shape", "1,3,8,8", "--quiet"]) == 0
    assert Path("wide-graphs").is_dir()
    assert model_name("timm:create_model('hf_hub:timm/resnet18.a1', pretrained=True)") == "hf_hub_timm_resnet18.a1"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("wide", "missing a required argument: 'width'"),
        ("wide(1, widht=2)", "unexpected keyword argument 'widht'"),
        ("wide(1, 2, 3)", "too many positional arguments"),
        ("wide(", "cannot be read"),
        ("wide(open('x'))", "cannot be read"),
        ("wide(__import__('os').system('touch pwned'))", "cannot be read"),
        ("wide(1)(2)", "cannot be read"),
        ("wide(1) or wide(2)", "cannot be read"),
        ("wide(*[1])", "cannot be read"),
        ("wide(**{'width': 1})", "cannot be read"),
        (f"wide({'(' * 500}1{')' * 500})", "cannot be read"),
    ],
)
def test_arguments_are_plain_values_that_the_factory_takes(call, said, here, capsys):
    assert said in complaint(capsys, "graph", f"{here}:{call}", "--input-shape", "1,3,8,8")
    assert not Path("pwned").exists()


@pytest.mark.parametrize("option", ["--samples", "--batch-size", "--opset", "--input-shape", "--size"])
def test_absurd_sizes_are_refused(option, here, capsys):
    for size in ("9" * 30, "9" * 5000, "1" + "0" * 12):
        argv = ["compile", f"{here}:tiny", "--data", "data.npy", option, size]
        if option == "--samples":  # as many as there are
            continue
        try:
            assert cli.main(argv) == 2
        except SystemExit as stop:
            assert stop.code == 2
        assert "Traceback" not in capsys.readouterr().err


def test_sensitivity_is_written(here, capsys):
    options = ["compile", f"{here}:tiny", "--data", "data.npy", "--sensitivity"]
    assert cli.main([*options, "table.md"]) == 0
    assert "most is lost at" in capsys.readouterr().out
    assert cli.main([*options, "plot.svg"]) == 0
    assert "| layer" in Path("table.md").read_text() and Path("plot.svg").read_text().startswith("<?xml")
    capsys.readouterr()
    assert "plot.png: its name must end in .md or .svg" in complaint(capsys, *options, "plot.png")


def test_an_exported_program_and_images(photos, capsys):
    assert cli.main(["compile", export("model.pt2", 1, 3, 8, 8), "--trust", "--data", photos, "--output", "out.onnx"]) == 0
    shown = capsys.readouterr().out
    assert "3 images in photos, RGB 8x8, mean 0.485, 0.456, 0.406" in shown and "wrote out.onnx" in shown


def test_weights_alone_from_a_configuration_and_ignored_scopes(here, capsys):
    Path("weights.yaml").write_text("passes: [defaults.weights_only]\n", encoding="utf-8")
    Path("folds.yaml").write_text("passes: [FoldBatchNorm]\n", encoding="utf-8")
    command = ["compile", f"{here}:Box.build", "--data", "random", "--input-shape", "1,3,8,8", "--ignore", "0", "--config"]
    assert cli.main([*command, "weights.yaml"]) == 0
    assert "CompressWeights(" in capsys.readouterr().out
    assert not any(t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4 for t in onnx.load("build.onnx").graph.initializer)
    assert "nothing is quantized, so there is nothing to ignore: leave out 0" in complaint(capsys, *command, "folds.yaml")


def test_weights_alone_with_data_and_without(here, capsys):
    command = ["compile", f"{here}:Box.build", "--input-shape", "1,3,8,8", "--weights-only"]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "StoreIntegers" in shown and "without calibration data" in shown
    assert cli.main([*command, "--data", "random"]) == 0
    assert "calibrated on 300 samples of noise" in capsys.readouterr().out
    assert "--effort is of the default passes, and --weights-only asks for others" in complaint(
        capsys, *command, "--effort", "high"
    )
    assert "--weights-only does not go with --sensitivity" in complaint(capsys, *command, "--sensitivity", "a.md")


def test_noise_and_ignored_scopes(here, capsys):
    options = ["--data", "random", "--samples", "3", "--input-shape", "1,3,8,8", "--ignore", "0", "--target", "onnxruntime"]
    assert cli.main(["compile", f"{here}:Box.build", *options]) == 0
    assert "noise: good to measure speed, not accuracy" in capsys.readouterr().out
    assert not any(t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4 for t in onnx.load("build.onnx").graph.initializer)


def test_submodules_give_a_folder_of_files(here, capsys, tmp_path):
    assert cli.main(["compile", f"{here}:tiny", "--data", "data.npy", "--submodule", "0", "4"]) == 0
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == {"0.onnx", "4.onnx"}


def test_the_graph_is_drawn(here, capsys, tmp_path):
    assert cli.main(["graph", f"{here}:tiny", "--input-shape", "1,3,8,8"]) == 0
    assert {path.name for path in (tmp_path / "tiny-graphs").iterdir()} == {
        f"00-Capture.{suffix}" for suffix in ("txt", "dot", "graphml", "svg")
    }
    assert cli.main(["graph", f"{here}:tiny", "--input-shape", "1,3,8,8", "--passes", "--out", "deep/er"]) == 0
    assert "quantizer" in next((tmp_path / "deep" / "er").glob("*Quantize.txt")).read_text()
    assert "decibels are those of the example inputs" in capsys.readouterr().out


def test_the_graph_after_passes_that_look_at_data(here, tmp_path):
    assert cli.main(["graph", f"{here}:feed_forward", "--input-shape", "1,6:int64", "--passes", "--out", "passes"]) == 0
    drawn = {path.stem.partition("-")[2] for path in (tmp_path / "passes").glob("*.svg")}
    assert drawn == {"Capture", *(one.name for one in post_training())}


def test_a_graph_of_several_inputs(here):
    assert cli.main(["graph", f"{here}:Two", "--input-shape", "2,3", "--input-shape", "2,3", "--out", "two"]) == 0


def test_inspect_counts(here, capsys):
    cli.main(["compile", f"{here}:tiny", "--data", "data.npy"])
    capsys.readouterr()
    assert cli.main(["inspect", "tiny.onnx"]) == 0
    shown = capsys.readouterr().out
    assert "QuantizeLinear" in shown and "fxcompress.target = openvino" in shown
    assert "in OpenVINO read integers" in shown


def test_the_file_has_the_batch_size_and_names_that_are_asked_for(here, capsys):
    options = ["--batch-size", "3", "--input-names", "x", "--output-names", "y", "--opset", "21"]
    assert cli.main(["compile", f"{here}:tiny", "--data", "data.npy", *options]) == 0
    model = onnx.load("tiny.onnx")
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["x", "y"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert model.opset_import[0].version == 21


def test_help_has_examples(capsys):
    for argv in (["--help"], ["compile", "--help"], ["graph", "--help"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(argv)
        assert stop.value.code == 0
        assert "examples:\n  fxcompress" in capsys.readouterr().out


WRONG_MODELS = {
    "{module}:tinny": "has no 'tinny'; did you mean 'tiny'",
    "{module}:Box.bild": "has no 'bild'; did you mean 'build'",
    "{module}x:tiny": "there is no module '{module}x', here or installed; did you mean '{module}'",
    "{module}.sub:tiny": "there is no module '{module}.sub'",
    "tinm:tiny": "there is no module 'tinm', here or installed; the current folder has {module}; write package",
    "{module}": "does not name a model; write package.module:function",
    "{module}:": "does not name a model",
    "folder/{module}.py:tiny": "name it as a module: folder.{module}:function",
    ".{module}:tiny": "is no module; write package.module:function",
    "a..b:tiny": "is no module",
    "{module}:nothing": "returned NoneType, not a torch.nn.Module",
    "{module}:table": "is a dict, not a function",
    "{module}:tiny(print())": "cannot be read: one of them is computed; write plain values",
    "weights.pth": "such files hold weights, pickled modules or TorchScript; write package.module:function",
    "missing.pt2": "there is no file missing.pt2",
    "data.pt2": "data.pt2 is not an exported program",
}


@pytest.mark.parametrize("model", WRONG_MODELS)
def test_a_wrong_model_is_explained(model, here, capsys, tmp_path):
    (tmp_path / "data.pt2").write_bytes(b"not a program")
    said = complaint(capsys, "compile", model.format(module=here), "--data", "data.npy", "--output", "out.onnx")
    assert WRONG_MODELS[model].format(module=here) in said
    assert not (tmp_path / "out.onnx").exists()


WRONG_OPTIONS = {
    "": "INT8 needs calibration data",
    "--data nowhere": "there is no file or folder nowhere",
    "--data empty": "no images in the folder empty: it is empty",
    "--data texts": "(.bmp, .jpeg, .jpg, .png, .webp); give the folder that they are in, or the samples as an array",
    "--data torn": "cannot read the image torn/torn.png",
    "--data text.npy": "text.npy is not a numpy array",
    "--data wide.npy --input-shape 1,3,8,8": "wide.npy has the shape [2, 4, 8, 8], but the model takes [samples, 3, 8, 8]",
    "--data bytes.npy": "holds uint8, but the model takes float32",
    "--data none.npy": "none.npy is empty",
    "--data nan.npy": "nan",
    "--data random": "noise needs a shape: add --input-shape",
    "--data data.npy --output nowhere/out.onnx": "the folder nowhere does not exist",
    "--data data.npy --output empty": "cannot write empty: it is a folder",
    "--data data.npy --output out.xml": "this writes ONNX: name out.onnx",
    "--data data.npy --output out.BIN": "this writes ONNX: name out.onnx",
    "--data data.npy --ignore layr": "scope 'layr' matches nothing",
    "--data data.npy --submodule layr": "layr",
    "--data photos --input-shape 1,5,8,8": "[batch, 1 or 3, height, width], not [batch, 5, 8, 8]",
    "--data photos --mean 0.5,0.5": "mean has 2 values, but the model takes 3 channels",
    "--data photos --mean 127.5": "mean 127.5 is for pixels from 0 to 255; divide it by 255",
    "--data photos --std 0": "std must be positive",
    "--data data.npy --mean 0.5": "--mean prepare images, and --data is no folder of them; leave that out",
    "--data random --size 8 --std 0.5": "--size and --std prepare images",
    "--data data.npy --dump data.npy": "cannot make the folder data.npy",
}


@pytest.mark.parametrize("options", WRONG_OPTIONS)
def test_a_wrong_option_is_explained(options, here, photos, capsys, tmp_path):
    for folder, file, content in (("texts", "a.txt", b"text"), ("torn", "torn.png", b"\x89PNG"), ("empty", None, b"")):
        (tmp_path / folder).mkdir()
        if file:
            (tmp_path / folder / file).write_bytes(content)
    (tmp_path / "text.npy").write_text("1 2 3")
    np.save("wide.npy", np.zeros((2, 4, 8, 8), np.float32))
    np.save("bytes.npy", np.zeros((2, 3, 8, 8), np.uint8))
    np.save("none.npy", np.zeros((0, 3, 8, 8), np.float32))
    np.save("nan.npy", np.full((2, 3, 8, 8), np.nan, np.float32))
    before = {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts}
    assert WRONG_OPTIONS[options] in complaint(capsys, "compile", f"{here}:tiny", *options.split())
    assert {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts} == before, "nothing half-written"


REFUSED = {
    "compile m:f --input-shape 1,3,999999,999999": "has more elements than fit into memory",
    "compile m:f --input-shape 99999999999999999999999": "has more elements than fit into memory",
    "compile m:f --size 9999999,9999999": "has more elements than fit into memory",
    "compile m:f --input-shape 1,x,3": "'1,x,3' is not a shape; write it as 1,3,224,224",
    "compile m:f --input-shape 1,3:int99": "'int99' is not a type",
    "compile m:f --input-shape 1,3:qint8": "'qint8' is not a type of inputs; write float16, ",
    "compile m:f --input-shape 1,3:float8_e5m2": "is not a type of inputs",
    "compile m:f --mean nan": "is not a list of numbers",
    "compile m:f --std inf": "is not a list of numbers",
    "compile m:f --samples 0": "'0' is not a whole number above 0",
    "compile m:f --size 1,2,3": "is not a size; write 224",
    "compile m:f --mean a,b": "is not a list of numbers",
    "compile m:f --target opnvino": "invalid choice: 'opnvino'",
    **{
        f"compile m:f {option}=": "a path is not empty"
        for option in ("--output", "--data", "--config", "--dump", "--sensitivity")
    },
    "compress m:f": "invalid choice: 'compress'",
    "": "the following arguments are required: COMMAND",
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_misspelled_line_is_refused(line, capsys):
    assert REFUSED[line] in refusal(capsys, *line.split())


def test_an_exported_program_keeps_its_shape(photos, capsys):
    program = export("model.pt2", 1, 3, 8, 8)
    assert "leave out --size" in complaint(capsys, "compile", program, "--trust", "--data", photos, "--size", "16")
    assert "leave out --input-shape" in complaint(capsys, "graph", program, "--trust", "--input-shape", "1,3,16,16")


def test_a_model_of_two_inputs_is_given_an_archive(here, capsys):
    said = complaint(capsys, "compile", f"{here}:Two", "--data", "data.npy", "--input-shape", "1,3", "--input-shape", "1,3")
    assert "holds one input" in said and "numpy.savez(" in said


def test_a_graph_needs_a_shape_and_a_folder(here, capsys):
    assert "add --input-shape" in complaint(capsys, "graph", f"{here}:tiny")
    assert "it is a file" in complaint(capsys, "graph", f"{here}:tiny", "--input-shape", "1,3,8,8", "--out", "data.npy")


def test_inspect_says_what_is_no_model(here, capsys):
    assert "there is no such file" in complaint(capsys, "inspect", "missing.onnx")
    assert "not an ONNX model" in complaint(capsys, "inspect", "data.npy")


def test_the_users_own_failures_keep_their_traceback(here, tmp_path):
    with pytest.raises(ZeroDivisionError):
        cli.main(["compile", f"{here}:broken", "--data", "data.npy"])
    (tmp_path / f"importing_{here}.py").write_text("import nothing_of_the_kind")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_the_kind"):
        load_model(f"importing_{here}:model")


def test_an_interrupt_leaves_no_traceback_and_no_file(here, capsys, monkeypatch, tmp_path):
    def interrupt(target, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fxcompress.commands.compile.load_model", interrupt)
    assert cli.main(["compile", f"{here}:tiny", "--data", "data.npy"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.onnx*"))


# Calibration data


def test_images_are_fitted_normalised_and_spread(photos):
    data = ImageFolder(photos, (3, 8, 12), samples=2, batch_size=2)
    assert [path.name for path in data.paths] == ["a.png", "b.JPG"] and len(data) == 1
    assert [path.name for path in ImageFolder(photos, (3, 8, 8), samples=1).paths] == ["a.png"]
    (batch,) = data
    assert batch.shape == (2, 3, 8, 12) and batch.dtype == torch.float32
    assert torch.equal(batch, next(iter(data))), "it can be read again"


def test_a_plain_image_becomes_its_normalised_colour(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (10, 20), (255, 0, 51)).save(tmp_path / "plain.png")
    (pixels,) = ImageFolder(tmp_path, (3, 4, 4), mean=(0.5,), std=(0.5,))
    assert torch.allclose(pixels[0].amin((1, 2)), torch.tensor([1.0, -1.0, -0.6]))
    assert torch.allclose(pixels[0].amax((1, 2)), torch.tensor([1.0, -1.0, -0.6]))
    (grey,) = ImageFolder(tmp_path, (1, 4, 4))
    assert grey.shape == (1, 1, 4, 4) and 0 < float(grey.mean()) < 1


def test_the_middle_of_an_image_is_kept(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((40, 80), np.uint8)
    pixels[:, 20:60] = 255  # the middle square is white
    image.fromarray(pixels).save(tmp_path / "wide.png")
    (batch,) = ImageFolder(tmp_path, (1, 10, 10))
    assert float(batch.min()) == 1.0


def test_samples_are_spread_over_a_sorted_folder(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for number in range(10):
        image.new("L", (4, 4)).save(tmp_path / f"{number}.png")
    assert [path.stem for path in ImageFolder(tmp_path, (1, 4, 4), samples=4).paths] == ["0", "2", "5", "7"]


def test_an_array_is_read_in_batches(tmp_path):
    array = np.arange(30, dtype=np.float64).reshape(10, 3)
    np.save(tmp_path / "x.npy", array)
    data = ArrayFile(tmp_path / "x.npy", (3,), samples=7, batch_size=3)
    assert [len(batch) for batch in data] == [3, 3, 1] and len(data) == 3 and data.samples == 7
    assert torch.equal(torch.cat(list(data)), torch.from_numpy(array[:7]).float())
    np.savez(tmp_path / "x.npz", a=array)
    with pytest.raises(InputError, match="archive of several arrays"):
        ArrayFile(tmp_path / "x.npz")


def test_a_file_that_differs_is_a_note_and_strictly_an_error(here, capsys, monkeypatch):
    monkeypatch.setitem(TRANSLATIONS, resolve("relu"), lambda emit, x: emit.Neg(x))
    monkeypatch.setattr("fxcompress.commands.compile.post_training", lambda *_: [])
    options = ["compile", f"{here}:tiny", "--data", "data.npy", "--output", "out.onnx"]
    assert cli.main(options) == 0
    assert "computes something else" in " ".join(capsys.readouterr().out.split())
    Path("out.onnx").unlink()
    assert "computes something else" in complaint(capsys, *options, "--verify", "strict")
    assert not Path("out.onnx").exists()
    assert cli.main([*options, "--verify", "no"]) == 0
    assert "computes something else" not in capsys.readouterr().out


def test_an_exported_program_is_read_only_on_trust(here, capsys):
    said = complaint(capsys, "compile", export("model.pt2", 1, 3, 8, 8), "--data", "data.npy")
    assert "can run any code" in said and "add --trust" in said


def test_names_are_no_markup(here, capsys):
    options = ["--data", "data.npy", "--dump", "[/d]", "--output", "[bold].onnx", "--ignore", "0"]
    assert cli.main(["compile", f"{here}:tiny", *options]) == 0
    shown = capsys.readouterr().out
    assert "is in [/d]" in shown and "wrote [bold].onnx" in shown and Path("[bold].onnx").is_file()
    assert cli.main(["graph", f"{here}:tiny", "--input-shape", "1,3,8,8", "--out", "[/d]"]) == 0
    assert "[/d]/00-Capture.svg" in capsys.readouterr().out


def test_the_package_runs_as_a_module():
    told = subprocess.run([sys.executable, "-m", "fxcompress", "--help"], capture_output=True, text=True, check=True)
    assert "fxcompress inspect resnet.onnx" in told.stdout
