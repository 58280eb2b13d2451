"""Two processes that train together compute what one process does, and hold the same masks and ranges."""

import torch
from levels import Level, images, network
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

import fxcompress
from fxcompress import passes

STACK = [
    passes.PruneFilters(amount=0.25, multiple=1),
    Level(),
    passes.Quantize(),
    passes.Calibrate(),
    passes.TrainQuantizers(),
    passes.Distill(),
]
STEPS, BATCH = 5, 8


def compiled(rank=0):
    """Each process calibrates on images of its own; what counts are those of the first."""
    return fxcompress.compile(network(norm=False), STACK, data=[images(seed=rank) * (1 + rank)])


def train(model, controller, share):
    """The loss of every step on its `share` of the batch; the level changes on the way."""
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), []
    model.train()
    for step in range(STEPS):
        if step == 2:
            controller["Level"].set_level(0.5)
        outputs = model(images(BATCH, seed=step)[share])
        loss = outputs.square().mean() + controller.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = compiled(rank)
    controller = model.controller
    losses = train(DistributedDataParallel(model), controller, slice(rank, None, 2))
    torch.save({"losses": losses, "state": model.state_dict()}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_train_as_one(tmp_path):
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name

    model = compiled()
    losses = train(model, model.controller, slice(None))
    together = [(one + other) / 2 for one, other in zip(first["losses"], second["losses"])]
    torch.testing.assert_close(torch.tensor(together), torch.tensor(losses), rtol=1e-4, atol=1e-6)
    assert first["losses"] != second["losses"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(first["state"][name], value, rtol=1e-3, atol=1e-5)
