"""Other people's training pipelines, run with compression: what works, with which versions, and how many lines it takes."""

import importlib.util

from benchmarks.models import import_torchvision

if importlib.util.find_spec("torchvision") is not None:
    import_torchvision()  # some builds are not imported otherwise, and most frameworks import it
