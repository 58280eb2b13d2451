"""Two processes that train together compute what one process does, and hold the same masks and ranges."""

import torch
from levels import Level, images, network
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

import fxcompress
from fxcompress import passes
from fxcompress.training import CompressionStage

STACKS = {
    "masks, integers, teacher": [
        passes.PruneFilters(amount=0.25, multiple=1),
        Level(),
        passes.Quantize(),
        passes.Calibrate(),
        passes.TrainQuantizers(),
        passes.Distill(),
    ],
    "in stages": [
        passes.Binarize(scopes=["0"], activations_start_epoch=1, weights_start_epoch=2),
        passes.Quantize(),
        passes.Calibrate(),
        passes.TrainQuantizers(activations_start_epoch=1, weights_start_epoch=2),
    ],
}
STEPS, STEPS_PER_EPOCH, BATCH = 5, 2, 8


def compiled(stack, rank=0):
    """Each process calibrates on images of its own; what counts are those of the first."""
    return fxcompress.compile(network(norm=False), stack, data=[images(seed=rank) * (1 + rank)])


def train(model, controller, share):
    """The loss of every step on its `share` of the batch; the level changes on the way, and what starts in stages starts."""
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), []
    model.train()
    for step in range(STEPS):
        if step % STEPS_PER_EPOCH == 0:
            controller.scheduler.epoch_step()
        if step == 2 and "Level" in controller.children:
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
    found = {}
    for name, stack in STACKS.items():
        model = compiled(stack, rank)
        controller = model.controller
        losses = train(DistributedDataParallel(model), controller, slice(rank, None, 2))
        found[name] = {"losses": losses, "state": model.state_dict()}
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_train_as_one(tmp_path):
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, stack in STACKS.items():
        first, second = (rank[name] for rank in ranks)
        for key, value in first["state"].items():
            assert torch.equal(value, second["state"][key]), key

        model = compiled(stack)
        losses = train(model, model.controller, slice(None))
        together = [(one + other) / 2 for one, other in zip(first["losses"], second["losses"])]
        torch.testing.assert_close(torch.tensor(together), torch.tensor(losses), rtol=1e-4, atol=1e-6)
        assert first["losses"] != second["losses"]
        for key, value in model.state_dict().items():
            torch.testing.assert_close(first["state"][key], value, rtol=1e-3, atol=1e-5)
        assert model.controller.compression_stage() is CompressionStage.FULLY_COMPRESSED
