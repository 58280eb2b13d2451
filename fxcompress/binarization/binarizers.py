"""The modules that binarizer nodes call: weights and activations of two values in float, bit-equal to what is lowered."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxcompress.errors import CalibrationError
from fxcompress.ir.bypass import bypass
from fxcompress.ir.estimators import with_gradients_of
from fxcompress.ir.state import outside, widen_scalars
from fxcompress.masks.mask import select_indices


def binarize_activation(x: Tensor, scale: Tensor, threshold: Tensor) -> Tensor:
    """``scale`` where ``x > scale * threshold``, else 0.

    Gradients, with g that of the output and [.] one where true, else zero:
    x gets ``g [0 <= x <= scale]``; scale the sum of ``g ([x <= scale] (out - x) / scale + [x > scale])``; threshold, for each
    channel, the sum of ``-g [0 < x < scale]``. They are those of NNCF 2.5, nncf/torch/binarization/binarize_functions.py.
    """
    with torch.no_grad():
        output, within = _step(x, scale, threshold), x <= scale
        of_scale, inside = torch.where(within, (output - x) / scale, 1.0), (x > 0) & (x < scale)
    estimate = torch.where((x >= 0) & within, x, 0.0) + of_scale * scale - torch.where(inside, threshold, 0.0)
    return with_gradients_of(output, estimate.to(x.dtype))


def _step(x: Tensor, scale: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(x > scale * threshold, scale, 0.0).to(x.dtype)


class Binarizer(nn.Module):
    """Gives its input two values where it is enabled, and returns it unchanged where it is not.

    Attributes:
        enabled: a bool; it is in the `state_dict`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True

    def get_extra_state(self) -> Tensor:
        """`enabled`, for `state_dict`."""
        return torch.tensor([self.enabled])

    def set_extra_state(self, state: Tensor) -> None:
        (self.enabled,) = state.tolist()

    def problem_with(self, state: Mapping[str, Tensor]) -> str | None:
        """What is wrong with `state`, its own by name; None where it can be loaded."""
        return outside(state, "_extra_state", 0, 1, whole=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.binarized(x) if self.enabled else bypass(self, x)

    def binarized(self, x: Tensor) -> Tensor:
        """`x` with two values."""
        raise NotImplementedError

    @property
    def whole_axes(self) -> tuple[int, ...]:
        """The axes that can lose no index."""
        return ()

    def narrowed(self, kept: Mapping[int, Tensor]) -> Binarizer:
        """The binarizer of tensors of which only the indices `kept` of axes are left, by axis."""
        return self

    def extra_repr(self) -> str:
        return "" if self.enabled else "off"


class WeightBinarizer(Binarizer):
    """Weights become ``sign(w) * scale``; their gradients pass unchanged (arXiv 1308.3432).

    The scale is the mean absolute value: of each output filter in `XnorBinarizer`, of the whole weight in
    `DoReFaBinarizer`. It counts as a constant for the gradient. A weight of exactly zero, as masks leave it, stays zero and
    is not in the mean: what is left is as if those that are masked had never been there.
    """

    per_filter = True

    def bytes_in_file(self, count: int) -> int:
        """Bytes that `count` weights take in an ONNX file."""
        return count

    def binarized(self, x: Tensor) -> Tensor:
        scale = self.scale(x)
        return with_gradients_of(x.sign() * (scale.view(-1, 1, 1, 1) if self.per_filter else scale), x)

    @torch.no_grad()
    def scale(self, weight: Tensor) -> Tensor:
        """What the signs are multiplied by: shape [filters], or [] for one of the whole weight."""
        dims = (1, 2, 3) if self.per_filter else (0, 1, 2, 3)
        return weight.abs().sum(dims) / (weight != 0).sum(dims).clamp_min(1)

    @torch.no_grad()
    def signs(self, weight: Tensor) -> Tensor:
        """-1 and 1, and 0 where `weight` is: int8 of its shape."""
        return weight.sign().to(torch.int8)


class XnorBinarizer(WeightBinarizer):
    """One scale an output filter: Rastegari et al., "XNOR-Net", arXiv 1603.05279, section 3.1."""


class DoReFaBinarizer(WeightBinarizer):
    """One scale for the whole weight: Zhou et al., "DoReFa-Net", arXiv 1606.06160, section 2.3."""

    per_filter = False


_LARGEST_LOG = 80.0
"""Of a scale whose exponential a float holds, either way."""


class ActivationBinarizer(Binarizer):
    """Activations become `scale` where they are above ``scale * threshold``, 0 elsewhere.

    Args:
        channels: the size of the second of four dimensions.

    Attributes:
        log_scale: a parameter of shape [1]; the scale is its exponential.
        threshold_logit: a parameter of shape [1, channels, 1, 1]; the thresholds, shares of the scale, are its sigmoid.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1))  # FSDP takes no parameter without dimensions
        self.threshold_logit = nn.Parameter(torch.zeros(1, channels, 1, 1))

    @property
    def scale(self) -> Tensor:
        """Shape []."""
        return self.log_scale.exp().reshape(())

    @property
    def threshold(self) -> Tensor:
        """What an input must be above, shape [1, channels, 1, 1]."""
        return self.scale * self.threshold_logit.sigmoid()

    def problem_with(self, state: Mapping[str, Tensor]) -> str | None:
        return super().problem_with(state) or outside(state, "log_scale", -_LARGEST_LOG, _LARGEST_LOG)

    def binarized(self, x: Tensor) -> Tensor:
        return binarize_activation(x, self.scale, self.threshold_logit.sigmoid())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        widen_scalars(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def narrowed(self, kept: Mapping[int, Tensor]) -> ActivationBinarizer:
        if 1 not in kept:
            return self
        twin = copy.deepcopy(self)
        logit = select_indices(self.threshold_logit.detach(), {1: kept[1]})
        twin.threshold_logit = nn.Parameter(logit, self.threshold_logit.requires_grad)
        return twin

    @torch.no_grad()
    def set_scale(self, scale: float) -> None:
        """Start from `scale`.

        Raises:
            CalibrationError: it is not a positive number.
        """
        if not (scale > 0 and math.isfinite(scale)):
            raise CalibrationError(f"the scale is {scale:g}")
        self.log_scale.fill_(math.log(scale))


CLOSE = 1e-4
"""How little, relatively, a scale must still change to be found."""


def nearest_scale(x: Tensor) -> float:
    """The scale that an activation starts from: with the threshold at half of it, 0 and the scale are near to `x`.

    It is the mean of what is nearer to it than to zero, as the least squared error asks for (Lloyd, "Least squares
    quantization in PCM", IEEE Transactions on Information Theory 28(2), 1982); 0 where no value is positive.
    """
    values = x[~(x <= 0)]  # with what is no number, which shows in the mean
    scale = 0.0
    while values.numel():
        mean = float(values.mean(dtype=torch.float64))
        if not mean > scale * (1 + CLOSE):
            return mean
        scale, values = mean, values[values > mean / 2]
    return scale


WEIGHT_BINARIZERS: dict[str, type[WeightBinarizer]] = {"xnor": XnorBinarizer, "dorefa": DoReFaBinarizer}
"""The ways to binarize weights, by the names that `Binarize` takes."""
