"""What `import fxcompress` gives, in whichever order things are imported."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fxcompress


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    "before", ["", "import fxcompress.rewrite", "from fxcompress.rewrite import apply", "import fxcompress.compiler"]
)
def test_public_names_are_what_they_are_whatever_was_imported_before(before):
    assert python(f"{before}\nimport fxcompress\nprint(type(fxcompress.rewrite).__name__)") == "function"
    after = "from fxcompress import rewrite\nfrom fxcompress.rewrite import apply\nprint(callable(rewrite), callable(apply))"
    assert python(f"{before}\n{after}") == "True True"


def test_every_public_name_is_there_and_no_other():
    assert set(fxcompress.__all__) <= set(dir(fxcompress))
    assert all(getattr(fxcompress, name) is not None for name in fxcompress.__all__)
    assert {name for names in fxcompress._HOMES.values() for name in names} == set(fxcompress.__all__)
    with pytest.raises(AttributeError, match="no attribute 'compil'"):
        fxcompress.compil  # noqa: B018


def test_rooms_need_no_import_of_their_own_and_the_package_no_torch():
    code = "import sys, fxcompress\nprint('torch' in sys.modules)\n"
    code += "print(fxcompress.passes.Quantize(), fxcompress.errors.InputError)"
    assert python(code).split("\n") == ["False", "Quantize() <class 'fxcompress.errors.InputError'>"]


ROOT = Path(__file__).parent.parent


def test_an_editable_install_is_a_folder_on_the_path_that_type_checkers_read(tmp_path):
    """setuptools writes such a folder where no package has a place of its own; mypy sees no other kind."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-dir"] == {"": "."}
    assert all((ROOT / name.replace(".", "/") / "__init__.py").is_file() for name in settings["packages"])
    script = tmp_path / "script.py"
    script.write_text("import fxcompress\nfrom fxcompress import passes\nfxcompress.compil\npasses.Quantize(per_channel=3)\n")
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nignore_missing_imports = True\n[mypy-torch.*]\nfollow_imports = skip\n")
    options = ["--config-file", str(config), "--cache-dir", str(tmp_path / "cache")]
    run = [sys.executable, "-m", "mypy", *options, str(script)]
    said = subprocess.run(run, capture_output=True, text=True, env={**os.environ, "MYPYPATH": str(ROOT)}, cwd=tmp_path).stdout
    assert 'has no attribute "compil"' in said and 'Argument "per_channel" to "Quantize" has incompatible type' in said
    assert "Found 2 errors in 1 file" in said
