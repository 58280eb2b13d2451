"""Complex numbers and Fourier transforms: the files have pairs of real numbers, as torch.onnx writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from emission import assert_same, in_onnxruntime, in_openvino
from torch import Tensor, nn

import fxcompress

RUNTIMES = (in_onnxruntime, in_openvino)
ROWS = torch.randn(2, 5, 8)
ODD = torch.randn(2, 7)


def pairs(x: Tensor) -> Tensor:
    return torch.view_as_real(x)


FUNCTIONS: dict[str, tuple[Callable[..., Any], Tensor]] = {
    "rfft": (lambda x: torch.fft.rfft(x).abs(), ROWS),
    "rfft_odd": (lambda x: pairs(torch.fft.rfft(x, dim=1)), ODD),
    "rfft_longer": (lambda x: pairs(torch.fft.rfft(x, n=11, norm="ortho")), ROWS),
    "fft": (lambda x: pairs(torch.fft.fft(x, dim=1)), ROWS),
    "ifft": (lambda x: torch.fft.ifft(torch.fft.fft(x) * 2).real, ROWS),
    "irfft": (lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2, norm="ortho"), ROWS),
    "irfft_odd": (lambda x: torch.fft.irfft(torch.fft.rfft(x), n=7), ODD),
    "fft2": (lambda x: torch.fft.fft2(x, norm="ortho").imag, ROWS),
    "rfft2": (lambda x: torch.fft.irfft2(torch.fft.rfft2(x)) + torch.fft.rfft2(x).abs().sum(), ROWS),
    "fftshift": (lambda x: torch.fft.fftshift(torch.fft.fft(x), dim=(1, 2)).angle().cos(), ROWS),
    "mixing_of_tokens": (lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real, ROWS),
    "stft": (lambda x: torch.stft(x[:, 0].repeat(1, 8), 16, 4, window=torch.hann_window(16), return_complex=True).abs(), ROWS),
    "stft_of_one_signal": (lambda x: pairs(torch.stft(x[0, 0].repeat(8), 8, return_complex=True)) + 0 * x.sum(), ROWS),
    "stft_plain": (lambda x: pairs(torch.stft(x.flatten(1), 10, center=False, onesided=False, return_complex=True)), ROWS),
    "products": (lambda x: pairs(torch.polar(x.abs(), x) * torch.complex(x, x + 1)), ROWS),
    "quotients": (lambda x: pairs(torch.complex(x, x + 1) / torch.complex(x + 3, x * 0 + 4)), ROWS),
    "conjugates": (lambda x: (torch.complex(x, x + 1).conj() * 2j + 1).imag, ROWS),
    "moves": (lambda x: pairs(torch.complex(x, -x).reshape(x.shape[0], 8, 5).transpose(1, 2)[:, 1:, ::2].flip(1)), ROWS),
    "joins": (lambda x: pairs(torch.cat([torch.complex(x, -x), torch.complex(x, x)], 1).sum(1)), ROWS),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_complex_numbers(name: str) -> None:
    function, x = FUNCTIONS[name]
    assert_same(function, x, tolerance=1e-4, runtimes=RUNTIMES)


def test_complex_rotary_embeddings() -> None:
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            angles = torch.outer(torch.arange(5.0), torch.rand(2))
            self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))

        def forward(self, x: Tensor) -> Tensor:
            turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * self.turns[None, :, None]
            return torch.view_as_real(turned).flatten(3)

    assert_same(Rotary(), torch.randn(2, 5, 3, 4), runtimes=RUNTIMES)


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("given", [torch.randn(4, 6), torch.randn(4, 6, dtype=torch.complex64)], ids=["real", "complex"])
def test_files_of_complex_numbers_are_compared_as_the_pairs_that_they_hold(tmp_path, target, given):
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x).conj(), x.abs() + 1

    compiled = fxcompress.compile(Spectrum(), [], example_inputs=(given,), target=target)
    compiled.to_onnx(tmp_path / "model.onnx", verify="strict")
