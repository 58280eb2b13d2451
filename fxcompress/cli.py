"""The command line: ``fxcompress demo | compile | graph | config | inspect``."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Sequence

from fxcompress import __version__
from fxcompress.commands.arguments import names_of, numbers_of, path_of, positive_of, shape_of, size_of
from fxcompress.errors import FxCompressError

TARGETS = ("onnxruntime", "openvino")
EFFORTS = ("normal", "high")

EXAMPLES = """\
examples:
  fxcompress demo
  fxcompress compile my_package.models:resnet --data photos/ --output resnet.onnx
  fxcompress compile model.pt2 --trust --data calibration.npy
  fxcompress graph my_package.models:resnet --input-shape 1,3,224,224
  fxcompress inspect resnet.onnx
"""
COMPILE_EXAMPLES = """\
examples:
  fxcompress compile my_package.models:resnet --data photos/
      my_package/models.py, here or installed, has a function resnet() that
      returns the model with its weights. The images are cut to the middle,
      resized to what the model takes (224x224 unless it says otherwise) and
      normalised as ImageNet is.
  fxcompress compile my_package.models:grey --data photos/ \\
      --input-shape 1,1,64,64 --mean 0.5 --std 0.5
  fxcompress compile model.pt2 --trust --data calibration.npy
      model.pt2 is what torch.export.save wrote; the array has one row a
      sample, prepared as the model takes it.
  fxcompress compile my_package.models:bert --data sentences.npz
      numpy.savez("sentences.npz", input_ids=..., attention_mask=...) named
      the arrays after the inputs, a row a sample.
  fxcompress compile "timm:create_model('resnet18', pretrained=True)" \\
      --data photos/
      calls the function with these arguments, which are plain values.
  fxcompress compile my_package.models:resnet --data photos/ \\
      --ignore layer4 op:linear
      leaves the module layer4 and all linear layers in float.
"""
GRAPH_EXAMPLES = """\
examples:
  fxcompress graph my_package.models:resnet --input-shape 1,3,224,224
  fxcompress graph my_package.models:bert --passes \\
      --input-shape 1,128:int64 --input-shape 1,128:int64
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. 0: done; 2: something to correct, told in one paragraph; 130: interrupted."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # torch's own, of its own use
    if "OMP_WAIT_POLICY" not in os.environ:  # torch is not imported yet: its threads keep no core busy with waiting for long
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    arguments = parser().parse_args(argv)
    from rich.console import Console

    try:
        silent = arguments.quiet or arguments.json
        importlib.import_module(f"fxcompress.commands.{arguments.command}").run(arguments, Console(markup=False, quiet=silent))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has read enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except FxCompressError as error:
        _complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _complain("interrupted; no file was left half-written")
        return 130
    return 0


def _complain(message: str) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    console.print(message, style="red", markup=False, highlight=False, soft_wrap=not console.is_terminal)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``arguments.command`` is the module in `fxcompress.commands` that runs one."""
    description = "Compress PyTorch models: from a model to a quantized ONNX file that OpenVINO and onnxruntime run."
    root = _Parser(prog="fxcompress", description=description, epilog=EXAMPLES)
    root.add_argument("--version", action="version", version=_version())
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_demo(commands)
    _add_compile(commands)
    _add_graph(commands)
    _add_config(commands)
    command = commands.add_parser("inspect", help="count what an ONNX file holds", description="Count what an ONNX file holds.")
    command.add_argument("file", help="an ONNX file, of any origin")
    root.set_defaults(quiet=False, json=False)
    for command in (commands.choices[name] for name in ("demo", "compile", "graph", "inspect")):
        how = command.add_mutually_exclusive_group()
        how.add_argument("--quiet", action="store_true", help="print nothing but errors")
        how.add_argument("--json", action="store_true", help="print what was done as JSON, and nothing else")
    return root


def _version() -> str:
    try:
        return f"fxcompress {__version__}, torch {importlib.metadata.version('torch')}"
    except importlib.metadata.PackageNotFoundError:
        return f"fxcompress {__version__}, without torch"


class _Parser(argparse.ArgumentParser):
    """Keeps the line breaks of the examples."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)


def _add_demo(commands) -> None:
    about = "train, compile and compare a small network, in under a minute"
    described = (
        "Train a small residual network on the handwritten digits inside scikit-learn, compile it to INT8, "
        "and compare both in OpenVINO on images held out from training and calibration."
    )
    command = commands.add_parser("demo", help=about, description=described)
    command.add_argument("--out", default="fxcompress-demo", metavar="DIR", help="folder for the files (%(default)s)")
    command.add_argument(
        "--epochs", type=positive_of, default=6, metavar="N", help="passes over the training images (%(default)s)"
    )


def _add_compile(commands) -> None:
    about = "compile a model to an INT8 ONNX file"
    described = "Quantize a model to INT8 after training, and write it as an ONNX file."
    command = commands.add_parser("compile", help=about, description=described, epilog=COMPILE_EXAMPLES)
    _add_model(command)
    command.add_argument(
        "--data",
        type=path_of,
        metavar="FOLDER|FILE.npy|FILE.npz",
        help="calibration data: a folder of images, an array of samples, arrays by the names of several inputs, "
        "or the word 'random' to try the speed only",
    )
    command.add_argument(
        "--weights-only",
        action="store_true",
        help="weights alone in 4 bits, for models that generate; --data may be left out, and chooses the integers",
    )
    command.add_argument(
        "--effort",
        choices=EFFORTS,
        help="'high' trains weights and ranges on the data, without labels: minutes rather than seconds (normal)",
    )
    command.add_argument("--samples", type=positive_of, metavar="N", help="calibrate on at most N (300)")
    command.add_argument("--size", type=size_of, metavar="N|H,W", help="size of the images that the model takes")
    command.add_argument("--mean", type=numbers_of, metavar="R,G,B", help="mean of the pixels, in 0..1 (ImageNet's)")
    command.add_argument("--std", type=numbers_of, metavar="R,G,B", help="their standard deviation, in 0..1 (ImageNet's)")
    command.add_argument(
        "--config", type=path_of, metavar="FILE", help="passes from a configuration, in place of the default ones"
    )
    _add_allow_imports(command)
    command.add_argument(
        "--output", type=path_of, metavar="FILE", help="the ONNX file to write (the function's name, with .onnx)"
    )
    command.add_argument("--batch-size", type=positive_of, metavar="N", help="of the file's inputs (free)")
    command.add_argument("--input-names", type=names_of, metavar="A,B", help="names of the file's inputs (those of forward)")
    command.add_argument("--output-names", type=names_of, metavar="A,B", help="names of the file's outputs (output)")
    command.add_argument("--opset", type=positive_of, metavar="N", help="of the ONNX operators (the lowest that will do)")
    command.add_argument(
        "--dump", type=path_of, metavar="DIR", help="write the graph after every pass: text, DOT, GraphML, SVG"
    )
    command.add_argument(
        "--verify",
        choices=("yes", "strict", "no"),
        default="yes",
        help="run the file in the target's runtime beside the compiled model; a difference is a note in the report, "
        "with strict an error (default: yes)",
    )
    command.add_argument(
        "--sensitivity",
        type=path_of,
        metavar="FILE.md|FILE.svg",
        help="measure how many decibels each quantized place costs by itself, and write a table or a bar chart",
    )


def _add_graph(commands) -> None:
    about = "dump and draw the graph of a model"
    described = "Write the captured graph of a model as text, DOT, GraphML and a picture."
    command = commands.add_parser("graph", help=about, description=described, epilog=GRAPH_EXAMPLES)
    _add_model(command)
    command.add_argument("--out", metavar="DIR", help="folder for the files (the function's name, with -graphs)")
    command.add_argument("--passes", action="store_true", help="compile as well, and draw the graph after every pass")


def _add_config(commands) -> None:
    about = "check a configuration, show its passes, or print the JSON Schema of configurations"
    command = commands.add_parser("config", help=about, description=f"{about[0].upper()}{about[1:]}.")
    actions = command.add_subparsers(dest="what", required=True, metavar="schema|check|show", parser_class=_Parser)
    actions.add_parser("schema", help="print the JSON Schema, by which editors complete and check files")
    for name, told in (
        ("check", "say whether FILE can be used, and what of it is ignored"),
        ("show", "print its passes as Python"),
    ):
        action = actions.add_parser(name, help=told, description=f"{told[0].upper()}{told[1:]}.")
        action.add_argument("file", metavar="FILE", help="YAML, JSON (NNCF's as well) or TOML")
        _add_allow_imports(action)


def _add_allow_imports(command: argparse.ArgumentParser) -> None:
    told = "also take passes that FILE names as my_package:MyPass, which runs that module's code"
    command.add_argument("--allow-imports", action="store_true", help=told)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "model",
        metavar="MODEL",
        help="package.module:function, with arguments in brackets if it takes some, or a .pt2 file of torch.export.save",
    )
    command.add_argument("--trust", action="store_true", help="read a .pt2 file, which can run code, from a source you trust")
    command.add_argument(
        "--input-shape",
        type=shape_of,
        action="append",
        metavar="1,3,224,224",
        help="shape of the model's input, the batch first; again for each further input, with :int64 for integers",
    )
    command.add_argument(
        "--ignore",
        nargs="+",
        action="extend",
        default=[],
        metavar="SCOPE",
        help="stay in float: a module path, a glob of them, a node's name, or an operation as op:linear",
    )
    command.add_argument(
        "--submodule",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="compile only these submodules; without it the whole model, or the largest submodules that can be traced",
    )
    command.add_argument("--target", choices=TARGETS, help="the runtime (openvino)")


if __name__ == "__main__":
    sys.exit(main())
