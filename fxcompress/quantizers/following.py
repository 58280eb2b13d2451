"""Ranges of nothing but zeros, which follow what is seen in training, so that a layer that starts at zero can leave it.

Any fixed range is a guess about weights that are not there yet: too wide, and what the first steps make of zeros is rounded
away; too narrow, and it saturates. So a range of nothing is that of the values which are rounded: it widens to them at once and
shrinks towards them slowly, an exponential average as of Jacob et al., arXiv 1712.05877, section 3.1.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fxcompress.quantizers.ops import along
from fxcompress.quantizers.spec import QuantizationSpec

SHRINKING = 0.01
"""How much of the way to narrower values a range goes with each batch."""


class FollowedRange(nn.Module):
    """Where a range was set from nothing, and what was seen there since.

    Attributes:
        unfitted: the places that follow, bool of the scale's shape.
        low, high: the range there: zeros until something else is seen.
        any: whether there is such a place.
    """

    unfitted: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.any = False
        for name in ("low", "high"):
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("unfitted", torch.zeros(shape, dtype=torch.bool))

    @torch.no_grad()
    def start(self, unfitted: Tensor) -> None:
        """Follow where `unfitted` says so."""
        self.unfitted.copy_(unfitted)
        self.low.zero_()
        self.high.zero_()
        self.any = bool(unfitted.any())

    @torch.no_grad()
    def follow(self, x: Tensor, spec: QuantizationSpec) -> Tensor:
        """See the values of `x`; where there is a range now that was set from nothing."""
        bounds = self.low, self.high
        for bound, seen, wider in zip(bounds, extremes(x, self.low.shape, spec), (torch.minimum, torch.maximum)):
            if dist.is_available() and dist.is_initialized():  # each process sees other samples, and all have one range
                dist.all_reduce(seen, dist.ReduceOp.MIN if bound is self.low else dist.ReduceOp.MAX)
            seen = seen.to(bound.dtype)
            bound.copy_(torch.where(self.unfitted, wider(seen, torch.lerp(bound, seen, SHRINKING)), bound))
        return self.unfitted & (self.high - self.low > torch.finfo(torch.float32).tiny)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        """Load; a state from before quantizers had this has nothing of it, and nothing follows."""
        if not any(name.startswith(prefix) for name in state):
            nothing = FollowedRange(tuple(self.low.shape)).state_dict(prefix=prefix)
            state.update(nothing)
        super()._load_from_state_dict(state, prefix, *others)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.any)

    def set_extra_state(self, state: Tensor) -> None:
        self.any = bool(state)


def extremes(x: Tensor, shape: torch.Size, spec: QuantizationSpec) -> tuple[Tensor, Tensor]:
    """The lowest value of `x` and 0, and the highest, for each scale of a quantizer: of the shape of the scale."""
    if not x.numel():
        return torch.zeros(shape, device=x.device), torch.zeros(shape, device=x.device)
    count = torch.Size(shape).numel()
    numbers = torch.arange(count, device=x.device).view(shape)
    place = along(numbers, spec.scale_axis, spec.group_size or 0, x.shape).expand(x.shape).reshape(-1)
    bounds = [
        torch.zeros(count, device=x.device).scatter_reduce_(0, place, x.reshape(-1).float(), how) for how in ("amin", "amax")
    ]
    return bounds[0].view(shape), bounds[1].view(shape)
