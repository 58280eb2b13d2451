"""Methods that are trained together: a stopped run goes on with the same bits, and the file computes the trained model."""

import copy

import pytest
import torch
import torch.nn.functional as F
from emission import file_agreement
from levels import compile_once
from torch import nn

import fxcompress
from fxcompress import QuantizationSpec, passes
from fxcompress.training import CompressionStage, Exponential, Polynomial


class Net(nn.Module):
    """A residual block, a depthwise convolution, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Hardswish(), nn.Conv2d(16, 24, 1))
        self.dropout, self.head = nn.Dropout(0.1), nn.Linear(24, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = (x + self.body(x)).relu()
        return self.head(self.dropout(self.deep(x).mean((2, 3))))


def images(seed):
    return torch.randn(12, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


LABELS = torch.arange(12) % 5
BATCHES = [(images(seed), LABELS) for seed in range(3)]


def net():
    torch.manual_seed(0)
    model = Net()
    for x, _ in BATCHES:
        model(x)  # statistics for the batch norms
    return model.eval()


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


RAMP = Polynomial(epochs=2)
MASKS = [passes.PruneFilters(amount=0.4, multiple=4, schedule=RAMP), passes.Sparsify(level=0.5, schedule=RAMP)]
INTEGERS = fxcompress.defaults.training()
FOUR_BITS = passes.Quantize(weights=QuantizationSpec(bits=4, group_size=8))
STACKS = {
    "pruned, sparse, INT8, distilled": [*MASKS, *INTEGERS, passes.Distill(loss="softmax", temperature=4.0)],
    "masks behind staged quantizers": [
        passes.Quantize(),
        passes.Calibrate(),
        passes.TrainQuantizers(weights_start_epoch=1, activations_start_epoch=2),
        passes.Distill(),
        *MASKS,
    ],
    "learned sparsity, INT8": [passes.LearnSparsity(schedule=Exponential(epochs=2)), *INTEGERS],
    "binary body, INT8 ends, pruned": [
        passes.PruneFilters(amount=0.4, multiple=4),
        passes.Binarize(activations_start_epoch=1, weights_start_epoch=2),
        *INTEGERS,
    ],
    "mixed precision, sparse": [
        passes.Sparsify(pattern="2:4"),
        FOUR_BITS,
        passes.ChooseBits(loss=loss),
        passes.Calibrate(),
        passes.TrainQuantizers(),
    ],
    "after training, then trained": [*fxcompress.defaults.post_training(), passes.TrainQuantizers(), passes.Distill()],
}


class Run:
    """A training loop that can be stopped."""

    def __init__(self, stack):
        self.model = compile_once(net, stack, BATCHES)
        self.controller = self.model.controller
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)

    def epoch(self):
        self.controller.scheduler.epoch_step()
        self.model.train()
        for batch in BATCHES:
            self.controller.scheduler.step()
            (loss(self.model, batch) + self.controller.loss()).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.model.eval()


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS.keys())
def test_a_stack_is_trained_stopped_taken_up_and_written(stack):
    whole = Run(stack)
    whole.epoch()
    whole.epoch()
    saved = copy.deepcopy((whole.model.checkpoint(), whole.optimizer.state_dict(), torch.get_rng_state()))
    whole.epoch()
    resumed = Run(stack)
    resumed.epoch()
    resumed.model.load_checkpoint(saved[0])
    resumed.optimizer.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    resumed.epoch()
    states = resumed.model.state_dict(), whole.model.state_dict()
    assert states[0].keys() == states[1].keys() and all(map(torch.equal, *(state.values() for state in states)))

    if "LearnSparsity" not in whole.controller.children:  # whose zeros take longer
        assert whole.controller.compression_stage() is CompressionStage.FULLY_COMPRESSED
    assert str(whole.controller.statistics())
    x = images(seed=9)
    assert torch.equal(copy.deepcopy(whole.model)(x), whole.model(x))
    assert file_agreement(whole.model, x) > 30
