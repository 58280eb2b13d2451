"""The reference is that of the docstrings, and the tutorial runs."""

import json
import sys
from pathlib import Path

import pytest

from docs import write_api

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="signatures print otherwise in other versions of Python")
def test_the_reference_is_current():
    assert write_api.PAGE.read_text() == write_api.page(), "run python -m docs.write_api"


def test_the_reference_has_every_public_name_with_its_description():
    page = write_api.page()
    for module in write_api.MODULES:
        assert f"\n## {module}\n" in page
    for name in ("compile", "Quantize", "Polynomial", "ImageFolder", "ScheduleWarning"):
        assert f"\n### {name}\n" in page
    assert " at 0x" not in page and "<function" not in page


def test_the_tutorial_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((DOCS / "tutorial.ipynb").read_text())["cells"]
    names: dict[str, object] = {"__name__": "tutorial"}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "outputs are not kept"
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    told = capsys.readouterr().out
    assert names["accuracy"](names["compiled"]) > 0.9 and names["accuracy"](names["trained"]) > 0.9
    assert (tmp_path / "tutorial_smaller.onnx").stat().st_size < (tmp_path / "tutorial.onnx").stat().st_size
    assert "filters" in told
