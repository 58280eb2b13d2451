"""Calibration on two processes, a share of the data each, chooses what one process chooses with all of them."""

import torch
from loops import classifier, images
from torch import distributed, multiprocessing

import fxcompress
from fxcompress import passes

STACK = [
    passes.PruneFilters(amount=0.34, multiple=1),
    passes.Sparsify(level=0.5),
    passes.Quantize(),
    passes.Calibrate(samples=20),
    passes.TrainQuantizers(),
]


def batches():
    x = torch.stack([image * (1 + position) for position, (image, _) in enumerate(images(22))])
    return list(x.split(4))  # six of them, the last of two images


def state(data):
    model = classifier()
    fxcompress.compress(model, STACK, data=data)
    return dict(model.state_dict())


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    share = batches()[rank::2] if rank == 0 else batches()[rank::2][:-1]  # of other lengths too
    torch.save(state(fxcompress.AllRanks(share)), f"{folder}/{rank}.pt")
    torch.save(state(fxcompress.AllRanks(iter(share))), f"{folder}/read-once-{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_choose_what_one_chooses_with_all_the_data(tmp_path):
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    expected = state(batches()[:5])
    for file in sorted(tmp_path.glob("*.pt")):
        found = torch.load(file, weights_only=True)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), (file, name)


def test_the_data_of_one_process_are_its_own():
    data = batches()
    assert [one is other for one, other in zip(fxcompress.AllRanks(data), data, strict=True)] == [True] * 6
