"""`flex_attention`, whose scores and masks functions of the model's give: one file of plain operations, of any length."""

import onnx_ir as ir
import pytest
import torch
from emission import in_onnxruntime, in_openvino
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import fxcompress
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.errors import PartialCaptureWarning


class Flexible(nn.Module):
    """Two query heads share those of keys; scores fall with the distance, as steeply as their head says."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(8, 16)
        self.register_buffer("slopes", torch.tensor([0.5, 0.25]))

    def falling(self, score, batch, head, query, key):
        return score - self.slopes[head] * (query - key)

    def forward(self, x):
        query, key, value = self.project(x).split([8, 4, 4], -1)
        query, key, value = (one.unflatten(-1, (-1, 4)).transpose(1, 2) for one in (query, key, value))
        seen = create_block_mask(lambda b, h, i, j: i >= j, None, None, x.shape[1], x.shape[1], device="cpu")
        return flex_attention(query, key, value, self.falling, seen, enable_gqa=True).transpose(1, 2).flatten(2)


class InTwoSteps(Flexible):
    """What is found of one place is found in again, which is something else of all at once."""

    def falling(self, score, batch, head, query, key):
        return score - self.slopes.repeat(4, 1)[batch][head]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.no_grad()
def test_flexible_attention_is_one_file_of_any_length():
    torch.manual_seed(0)
    model = Flexible().eval()
    compiled = fxcompress.compile(model, [], example_inputs=(torch.randn(4, 6, 8),), dynamic_shapes="auto")
    assert isinstance(compiled, fxcompress.Compiled)
    serialized = ir.to_proto(to_onnx_model(compiled.lower())).SerializeToString()
    for x in torch.randn(4, 6, 8), torch.randn(1, 9, 8):
        torch.testing.assert_close(compiled(x), model(x))
        for run in in_onnxruntime, in_openvino:
            torch.testing.assert_close(torch.from_numpy(run(serialized, [x])[0]), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.no_grad()
def test_what_is_no_function_of_all_scores_stays_outside():
    torch.manual_seed(0)
    with pytest.warns(PartialCaptureWarning):
        compiled = fxcompress.compile(InTwoSteps().eval(), [], example_inputs=(torch.randn(4, 6, 8),))
    assert compiled.parts.keys() == {"project"}
