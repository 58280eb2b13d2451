"""`fxcompress config`: the schema of configurations, and a look at a file."""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from fxcompress import Config
from fxcompress.config.schema import schema


def run(arguments: argparse.Namespace, console: Console) -> None:
    if arguments.what == "schema":
        print(json.dumps(schema(), indent=2))
        return
    config = Config.load(arguments.file, allow_imports=arguments.allow_imports)
    if arguments.what == "show":
        print(config.python())
    else:
        console.print(f"{arguments.file}: {len(config.passes)} passes for {config.target}", soft_wrap=True, highlight=False)
    for note in config.notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)
