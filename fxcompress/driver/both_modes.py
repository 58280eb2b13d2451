"""A graph module that computes two graphs: the one of inference, and the same in training."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx

from fxcompress.data.convention import PARAMETERS
from fxcompress.driver.clamps import hand_over
from fxcompress.driver.granted import Granted
from fxcompress.driver.live_norms import with_live_norms
from fxcompress.ir import modes, output_layout


class BothModes(fx.GraphModule):
    """A graph module whose graph is in inference mode, and which computes it in training where it is in training.

    There is one `forward`, which looks at `training` when it is called: whoever holds on to it holds both modes.
    """

    _graph: fx.Graph
    _graph_in_training: fx.Graph | None = None
    _granted: Granted

    def as_known(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call of the model as its graph takes it, and as other graphs of the model do."""
        args, kwargs = self._granted.as_known(self.meta.get(PARAMETERS), args, kwargs)
        return args, {name: value for name, value in kwargs.items() if name in self._granted.names}

    @property
    def graph(self) -> fx.Graph:
        """The graph in inference mode.

        torch.export runs the graph of a graph module, not its forward: while it does, this is that of the module's mode.
        """
        in_training = self._graph_in_training
        return in_training if in_training is not None and self.training and torch.compiler.is_exporting() else self._graph

    @graph.setter
    def graph(self, graph: fx.Graph) -> None:
        fx.GraphModule.graph.fset(self, graph)  # type: ignore[attr-defined]

    def recompile(self) -> Any:
        """As of any graph module, for both graphs."""
        own = self._graph
        twin = self._graph_in_training = modes.training_twin(own, functools.partial(hand_over, self))
        if twin is not None:
            try:
                self._graph = with_live_norms(twin)
                super().recompile()
            finally:
                self._graph = own
        training = type(self).forward
        python_code = super().recompile()
        inference = type(self).forward
        training = inference if twin is None else training

        contiguous = output_layout.contiguous_outputs(self._graph)
        granted = self._granted = Granted(self._graph)

        @functools.wraps(inference)
        def forward(self: BothModes, *args: Any, **kwargs: Any) -> Any:
            args, kwargs = granted.as_known(getattr(self, "meta", {}).get(PARAMETERS), args, kwargs)
            granted.check(args, kwargs)
            return output_layout.laid_out((training if self.training else inference)(self, *args, **kwargs), contiguous)

        type(self).forward = forward
        return python_code
