"""The Trainer on two processes, a share of the data each: ``torchrun --nproc_per_node 2 -m`` this module."""

from __future__ import annotations

import tempfile

import torch
from torch import distributed

import fxcompress
from benchmarks.integrations import hugging_face as families


def main() -> None:
    torch.set_num_threads(1)
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    rank, build = distributed.get_rank(), families.FAMILIES["BERT, classes"][0]
    torch.manual_seed(0)
    model = build()
    share = families.batches("classes")[rank::2]
    compression = fxcompress.compress(model, families.stack(True), data=fxcompress.AllRanks(share))
    with tempfile.TemporaryDirectory() as folder:
        settings = {"save_strategy": "no", "ddp_backend": "gloo", "bf16": True}
        families.trainer(model, compression, "classes", folder, **settings).train()
        held = {name: value for name, value in model.state_dict().items() if value.is_floating_point() or "mask" in name}
        both: list[dict[str, torch.Tensor] | None] = [None, None]
        distributed.all_gather_object(both, held)
        first, second = both
        assert first is not None and second is not None
        same = all(torch.equal(first[name], second[name]) for name in first)
        if rank == 0:
            compression.to_onnx(f"{folder}/files")
            print(f"RESULT same weights, ranges and masks on both: {same}; written by the first", flush=True)
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
