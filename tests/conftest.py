"""Settings shared by all tests."""

import importlib.util
import os

import pytest
import torch
from hypothesis import HealthCheck, settings

# Times say nothing on a shared machine. Continuous integration repeats the same examples; elsewhere they are new each time.
settings.register_profile("local", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

torch.set_num_threads(1)

if importlib.util.find_spec("triton") and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels for GPUs are tested on CPUs, in Triton's interpreter


def pytest_addoption(parser):
    parser.addoption(
        "--bfloat16", choices=("yes", "no"), help="test as on a CPU that multiplies bfloat16, or as on one that does not"
    )


def pytest_configure(config):
    if (chosen := config.getoption("--bfloat16")) is not None:
        from fxcompress.execution import low_precision

        low_precision.multiplies_bfloat16 = lambda: chosen == "yes"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """What a file of tests draws when it is imported is the same whichever files are imported before it."""
    torch.manual_seed(0)
    return (yield)


@pytest.fixture(autouse=True)
def seeded():
    """A test that draws weights without a seed of its own draws the same ones in any order of the tests."""
    torch.manual_seed(0)
