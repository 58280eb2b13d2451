"""The documentation is true: its code runs, prints what the pages say, and its tables agree with the classes."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from frameworks import framework

from docs import draw_rooms
from fxcompress import passes
from fxcompress.cli import parser
from fxcompress.driver.interface import Pass

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = "# not run"
NEEDED = {"integrations.md": ("transformers", "accelerate", "lightning")}
"""What pages need that may be missing."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: the line of its first character, its language, its text, and where it ends."""

    line: int
    language: str
    text: str
    end: int


def _blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(text.count("\n", 0, m.start(2)) + 1, m[1], m[2], m.end()) for m in FENCE.finditer(text)]


def _expected(page: Path) -> list[tuple[Block, str | None]]:
    """Each python block that is run, with what it should print: the text block right behind it."""
    text, blocks = page.read_text(encoding="utf-8"), _blocks(page)
    found = []
    for block, after in zip(blocks, [*blocks[1:], None]):
        if block.language == "python" and not block.text.startswith(NOT_RUN):
            adjacent = after and after.language == "text" and not text[block.end : after.end].partition("```text")[0].strip()
            found.append((block, after.text if after and adjacent else None))
    return found


@pytest.mark.parametrize("page", [p for p in PAGES if _expected(p)], ids=lambda page: page.name)
def test_the_code_of_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    for name in NEEDED.get(page.name, ()):
        framework(name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    source = Path("example.py")  # what messages call it; on disk, because they quote its lines
    lines: list[str] = []
    for block, expected in _expected(page):
        lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
        source.write_text("\n".join(lines) + "\n")
        code = compile("\n" * (block.line - 1) + block.text, str(source), "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        if expected is not None:
            got = re.sub(r"example\.py:\d+", "example.py:N", printed.getvalue())
            want = re.sub(r"example\.py:\d+", "example.py:N", expected)
            same = doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
            assert same, f"{page.name}, line {block.line}, prints\n{got}\nand not\n{want}"


def test_there_is_code_to_run():
    assert {"README.md", "authoring.md", "patterns.md"} <= {page.name for page in PAGES if _expected(page)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_spelled_right(page):
    """Every line of a console block that calls the program parses."""
    for block in _blocks(page):
        for line in block.text.splitlines() if block.language == "sh" else ():
            words = shlex.split(line.partition("&& fxcompress ")[2] or line.partition("fxcompress ")[2], comments=True)
            if "fxcompress " in line and words:
                parser().parse_args(words)


def test_the_table_of_passes_is_that_of_the_classes():
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", (ROOT / "docs" / "passes.md").read_text(encoding="utf-8"), re.MULTILINE)
    table = {name: [cell.strip() for cell in cells.split("|")][1:] for name, cells in rows}
    assert table == {name: _declared(getattr(passes, name)) for name in passes.__all__}


def _declared(one: type[Pass]) -> list[str]:
    facts = [", ".join(f"`{fact}`" for fact in sorted(f)) for f in (one.needs, one.gives, one.breaks)]
    return [one.effect.value, *facts]


@pytest.mark.parametrize("name", ["custom_pass.py", "draw_readme.py"])
def test_an_example_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    *_, file = capsys.readouterr().out.split()
    assert (tmp_path / file).stat().st_size


def test_the_example_with_torchvision_runs(tmp_path):
    """In a process of its own: importing a torchvision that does not fit the torch leaves that torch in disorder."""
    script = ROOT / "examples" / "quantize_resnet.py"
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    if done.returncode and "torchvision" in done.stderr:
        pytest.skip("torchvision is not installed, or not for this torch")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "resnet18.onnx").stat().st_size > 11_000_000


def test_the_picture_of_the_rooms_shows_the_imports_as_they_are():
    assert draw_rooms.FILE.read_text() == draw_rooms.render(), "run python -m docs.draw_rooms"
