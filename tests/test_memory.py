"""Memory does not grow with compilations, files and training steps: whatever a model held is given back."""

import gc
import weakref

import torch
from torch import nn

import fxcompress
from fxcompress import passes


class Small(nn.Module):
    """With 4 MB of weights, so that one that is kept shows."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(1000, 1000), nn.Linear(1000, 4)

    def forward(self, x):
        return self.narrow(self.wide(x).relu())


def tensors():
    """Bytes of all tensors that are alive."""
    gc.collect()
    found = {}
    for one in gc.get_objects():
        if type(one) in (torch.Tensor, nn.Parameter) and one.device.type == "cpu" and one.layout is torch.strided:
            storage = one.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def pruned_and_quantized():
    return [passes.PruneFilters(amount=0.2), *fxcompress.defaults.training(), passes.Distill()]


def test_nothing_is_kept_of_models_that_were_compiled_trained_and_written(tmp_path):
    """In the second round as much is alive as after the first one, and no compiled model is."""
    data = [torch.randn(2, 1000)]
    alive, models = [], []
    for _ in range(3):
        compiled = fxcompress.compile(Small(), pruned_and_quantized(), data=data)
        controller = compiled.train().controller
        (compiled(data[0]).sum() + controller.loss()).backward()
        compiled.eval()
        compiled.to_onnx(tmp_path / "m.onnx")
        models.append(weakref.ref(compiled))
        del compiled, controller
        alive.append(tensors())
    assert [model() for model in models] == [None] * 3
    assert alive[2] <= alive[1] < alive[0] + 2e6


def test_steps_of_training_keep_nothing():
    data = [torch.randn(2, 1000)]
    compiled = fxcompress.compile(Small(), pruned_and_quantized(), data=data).train()
    controller = compiled.controller
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.01, momentum=0.9)
    alive = []
    for _ in range(4):
        for _ in range(5):
            controller.scheduler.step()
            (compiled(data[0]).sum() * 1e-3 + controller.loss()).backward()
            optimizer.step()
            optimizer.zero_grad()
        alive.append(tensors())
    assert alive[1] == alive[2] == alive[3]


def test_a_compilation_that_fails_keeps_no_model():
    class Wrong(passes.FoldBatchNorm):
        def run(self, graph_module, context):
            raise RuntimeError("wrong")

    model = Small()
    kept = weakref.ref(model)
    try:
        fxcompress.compile(model, [Wrong()], example_inputs=torch.randn(2, 1000))
    except RuntimeError:
        del model
    gc.collect()
    assert kept() is None
