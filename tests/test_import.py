"""What `import fxcompress` gives, in whichever order things are imported."""

import subprocess
import sys

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
