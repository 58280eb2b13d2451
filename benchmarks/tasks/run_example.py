"""Run the script that the first argument names as it is, where torchvision's operators may not be built for this torch."""

import os
import runpy
import sys
from importlib.util import find_spec

from benchmarks.models import import_torchvision

if __name__ == "__main__":
    if find_spec("torchvision"):
        import_torchvision()  # others import it, and do not know how to
    sys.argv = sys.argv[1:]
    sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))  # as python itself does
    runpy.run_path(sys.argv[0], run_name="__main__")
