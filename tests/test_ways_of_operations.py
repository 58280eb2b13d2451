"""Ways that operations are written in which only some of their arguments take: the file computes what torch does."""

import pytest
import torch
from emission import assert_same
from torch.nn import functional as F

aten = torch.ops.aten

IMAGE, ROWS, SIGNAL = torch.randn(2, 4, 6, 5), torch.randn(2, 6), torch.randn(2, 40)

WAYS = {
    "an ELU of three numbers": (lambda x: aten.elu(x, 1.3, 1.1, 2.0), IMAGE),
    "an ELU of two": (lambda x: aten.elu(x, 1.3, 1.1), IMAGE),
    "slopes that are computed": (lambda x: F.prelu(x, x[0, :, 0, 0] * 0 + 0.3), IMAGE),
    "slopes of rows": (lambda x: F.prelu(x, torch.linspace(0.1, 0.6, 6)), ROWS),
    "a number of samples": (lambda x: x * torch.scalar_tensor(x.shape[0]), ROWS),
    "numbers of samples": (lambda x: x + torch.arange(x.shape[0])[:, None], ROWS),
    "numbers of samples from the second": (lambda x: x + torch.arange(1, x.shape[0] + 1)[:, None], ROWS),
    "every other number": (lambda x: x + torch.arange(0, 2 * x.shape[0], 2)[:, None], ROWS),
    "numbers for each sample": (lambda x: torch.cat([x, x.new_full((x.shape[0], 2), 3.0), torch.ones(x.shape[0], 1)], 1), ROWS),
    "a normalized transform over samples": (lambda x: torch.view_as_real(torch.fft.fft(x, dim=0, norm="ortho")), ROWS),
    "a shared transform over samples": (lambda x: torch.view_as_real(torch.fft.fft(x, dim=0, norm="forward")), ROWS),
    "a transform of a row": (lambda x: torch.view_as_real(torch.fft.fft(x.sum(0))), ROWS),
    "there and back": (lambda x: torch.fft.irfft(torch.fft.rfft(x, norm="ortho"), norm="ortho", n=6), ROWS),
    "a convolution that keeps an even kernel's size": (lambda x: F.conv2d(x, torch.ones(3, 4, 2, 4), padding="same"), IMAGE),
    "one that keeps a dilated one's": (lambda x: F.conv2d(x, torch.ones(3, 4, 3, 2), padding="same", dilation=(1, 3)), IMAGE),
    "flags that are padded": (lambda x: F.pad(x > 0, (1, 2), value=True).float(), IMAGE),
    "a padding that mirrors": (lambda x: F.pad(x, (1, 2, 3, 1), mode="reflect"), IMAGE),
    "one that repeats the edge": (lambda x: F.pad(x, (1, 2, 3, 1), mode="replicate"), IMAGE),
    "a weight norm of what is computed": (lambda x: aten._weight_norm(x[0] * 0 + 2, torch.ones(4, 1, 1)) + x, IMAGE),
    "one of all numbers": (lambda x: aten._weight_norm(x[0] * 0 + 2, torch.ones(1, 1, 1), -1) + x, IMAGE),
    "the largest": (lambda x: torch.linalg.vector_norm(x, float("inf"), dim=(1, 2)), IMAGE),
    "the smallest": (lambda x: torch.linalg.vector_norm(x, float("-inf"), dim=(1, 2), keepdim=True), IMAGE),
    "how many are not zero": (lambda x: torch.linalg.vector_norm(x.relu(), 0, dim=1), IMAGE),
    "the size of one number": (lambda x: x + torch.linalg.vector_norm(x.sum()), IMAGE),
    "a quotient that is rounded down": (lambda x: torch.div(x, 0.3, rounding_mode="floor"), IMAGE),
    "one that is cut off": (lambda x: torch.div(x, 0.3, rounding_mode="trunc"), IMAGE),
    "bounds that are tensors": (lambda x: torch.clamp(x, x.mean(0), x.mean(0) + 0.5), IMAGE),
    "a lower one alone": (lambda x: torch.clamp(x, min=x.mean(0)), IMAGE),
    "weighted bags": (
        lambda x: F.embedding_bag(
            torch.arange(12).view(2, 6)[: x.shape[0] * 0 + 2], torch.linspace(0, 1, 60).view(12, 5), mode="sum",
            per_sample_weights=x[:1].expand(2, 6),
        ),
        ROWS,
    ),
    **{
        f"frames of a signal, {mode}": (
            lambda x, mode=mode: torch.view_as_real(
                torch.stft(x, 8, 3, window=torch.hann_window(8), center=True, pad_mode=mode, return_complex=True)
            ),
            SIGNAL,
        )
        for mode in ("reflect", "constant", "replicate")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_what_an_operation_does_with_rare_arguments_is_written(name):
    function, x = WAYS[name]
    assert_same(function, x)
