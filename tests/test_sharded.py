"""FSDP2: two processes, each with a share of every parameter, train what one process trains; then one writes the file."""

import pytest
import torch
from levels import images, network
from torch import distributed, multiprocessing, nn

import fxcompress
from fxcompress import passes
from fxcompress.training import Polynomial
from fxcompress.training.checkpoint import sealed

pytest.importorskip("torch.distributed.fsdp")

STACKS = {
    "masks and ranges": [passes.Sparsify(level=0.5, schedule=Polynomial(epochs=2)), *fxcompress.defaults.training()],
    "filters": [passes.PruneFilters(amount=0.25, multiple=1, schedule=Polynomial(epochs=2)), *fxcompress.defaults.training()],
    "teacher": [*fxcompress.defaults.training(), passes.Distill()],
}


class Halves(nn.Module):
    """Two parts, each of which is sharded."""

    def __init__(self):
        super().__init__()
        layers = network(norm=False)
        self.backbone, self.head = layers[:5], layers[5:]

    def forward(self, x):
        return self.head(self.backbone(x))


def compressed(stack):
    model = Halves()
    return model, fxcompress.compress(model, stack, data=[images(8, seed=1)], submodules=["backbone", "head"])


def train(model, compression, share):
    optimizer = torch.optim.SGD(fxcompress.parameter_groups(model, lr=0.1))
    model.train()
    for step in range(4):
        if step % 2 == 0:
            compression.controller.scheduler.epoch_step()
        compression.controller.scheduler.step()
        loss = model(images(8, seed=step)[share]).square().mean() + compression.controller.loss()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def work(rank, folder):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    mesh = distributed.init_device_mesh("cpu", (2,))
    for name, stack in STACKS.items():
        model, compression = compressed(stack)
        for module in (model.backbone, model.head, model):
            fully_shard(module, mesh=mesh)
        train(model, compression, slice(rank, None, 2))
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        if rank == 0:
            torch.save(state, f"{folder}/{name}.pt")
        distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("name", STACKS)
def test_two_processes_with_a_share_of_the_parameters_train_as_one(name, sharded, tmp_path):
    found = torch.load(sharded / f"{name}.pt", weights_only=True)
    model, compression = compressed(STACKS[name])
    train(model, compression, slice(None))
    expected = model.state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-5, msg=key)
    again, written = compressed(STACKS[name])
    again.load_state_dict(found)
    assert written.to_onnx(tmp_path / "model.onnx", verify="strict").exists()


def test_ranges_without_dimensions_of_earlier_versions_are_loaded():
    stack = [passes.Binarize(scopes=["0"]), *fxcompress.defaults.training()]
    old, new = (fxcompress.compile(network(norm=False), stack, data=[images(8, seed=seed)]) for seed in (1, 2))
    checkpoint = old.checkpoint()
    scalars = [key for key, value in checkpoint["model"].items() if value.shape == (1,) and value.is_floating_point()]
    assert {key.rpartition(".")[2] for key in scalars} == {"input_extent", "input_low", "log_scale"}
    checkpoint["model"] |= {key: checkpoint["model"][key].reshape(()) for key in scalars}
    new.load_checkpoint(sealed(checkpoint))
    assert torch.equal(new(images(3)), old(images(3)))
    new.load_state_dict(checkpoint["model"])
