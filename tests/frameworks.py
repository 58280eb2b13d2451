"""Frameworks that may be missing, for tests that are skipped without them."""

import importlib.util

import pytest

from benchmarks.models import import_torchvision


def framework(name):
    """The module of the framework `name`; skips the tests of the module that asks where it is not installed."""
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()  # some builds are not imported otherwise, and others import it
    return pytest.importorskip(name)
