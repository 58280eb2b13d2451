"""Callbacks for other people's trainers: each tells the schedules of compression where training is, and adds its loss.

In: a controller and the model that is trained. Out: a callback of the framework that was asked for, which alone is imported.

Imports: data, masks, training.
"""

from fxcompress.integrations.frameworks import FRAMEWORKS, make_callback

__all__ = ["FRAMEWORKS", "make_callback"]
