"""`fxcompress graph`: the graph of a model, as text and as pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

import fxcompress
from fxcompress.commands.compile import post_training
from fxcompress.commands.models import example_for, load_model, model_name
from fxcompress.commands.output import print_json
from fxcompress.errors import InputError
from fxcompress.report.progress import shown


def run(arguments: argparse.Namespace, console: Console) -> None:
    folder = Path(arguments.out or f"{model_name(arguments.model)}-graphs")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot write into {folder}: it is a file; choose a folder with --out")
    with shown(Console(stderr=True, quiet=console.quiet), "loading the model") as show:
        model = load_model(arguments.model, trust=arguments.trust)
        example = example_for(model, arguments.input_shape)
        if example is None:
            raise InputError("the model does not say what it takes; add --input-shape, such as 1,3,224,224")
        show("capturing", 0, None)
        compiled = fxcompress.compile(
            model,
            post_training(arguments.ignore) if arguments.passes else [],
            example_inputs=example,
            data=[example],
            target=arguments.target or "openvino",
            submodules=arguments.submodule or None,
            progress=show,
        )
        show("drawing", 0, None)
        written = compiled.dump(folder)
    if arguments.json:
        print_json({**compiled.report.plain(), "files": [str(path) for path in written]})
        return
    console.print(compiled.report.table())
    pictures = [path for path in written if path.suffix == ".svg"]
    remark = ["passes saw no data: the decibels are those of the example inputs"] if arguments.passes else []
    lines = [
        *remark,
        f"wrote {len(written)} files (text, DOT, GraphML, SVG); open in a browser:",
        *(f"  {path}" for path in pictures),
    ]
    console.print("\n".join(lines), soft_wrap=True, highlight=False)
