"""Compression inside the Trainer of Transformers: every model family trains, and a run goes on with the same bits."""

import pytest
import torch
from frameworks import framework

import fxcompress
from fxcompress import passes
from fxcompress.training import Polynomial

transformers = framework("transformers")
framework("accelerate")

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 64}


class Sentences(torch.utils.data.Dataset):
    """Tokens of several lengths with their sums as labels, which a collator pads."""

    def __init__(self, count=24):
        generator = torch.Generator().manual_seed(3)
        self.rows = [
            torch.randint(1, 64, (int(torch.randint(3, 12, (), generator=generator)),), generator=generator)
            for _ in range(count)
        ]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, position):
        return {"input_ids": self.rows[position], "labels": int(self.rows[position].sum()) % 3}


def padded(rows):
    ids = torch.nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def stack():
    ramp = Polynomial(epochs=3, steps_per_epoch=4)
    return [passes.Sparsify(level=0.5, schedule=ramp), *fxcompress.defaults.training(), passes.Distill()]


def compressed(some_stack=None, kind="BertForSequenceClassification", **settings):
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, num_labels=3)
    model = getattr(transformers, kind)(config)
    data = torch.utils.data.DataLoader(Sentences(), batch_size=6, collate_fn=padded)
    return model, fxcompress.compress(model, some_stack or stack(), data=data, **settings)


def trainer(model, compression, folder, *, add_loss=True, callbacks=(), **arguments):
    settings = {
        "per_device_train_batch_size": 6,
        "num_train_epochs": 3,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "logging_steps": 1,
        "disable_tqdm": True,
        "learning_rate": 1e-2,
    }
    args = transformers.TrainingArguments(str(folder), **(settings | arguments))
    return transformers.Trainer(
        model,
        args,
        train_dataset=Sentences(),
        eval_dataset=Sentences(8),
        data_collator=padded,
        callbacks=[compression.callback("transformers", add_loss=add_loss), *callbacks],
    )


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("stop", [6, 8], ids=["in an epoch", "between epochs"])
def test_a_resumed_run_has_the_same_bits(tmp_path, stop):
    model, compression = compressed()
    trainer(model, compression, tmp_path / "whole", save_strategy="steps", save_steps=stop).train()
    expected, levels = state(model), compression.controller.scheduler.state_dict()
    assert levels["current_epoch"] == 2 and levels["current_step"] == 11

    model, compression = compressed()
    trainer(model, compression, tmp_path / "resumed").train(resume_from_checkpoint=str(tmp_path / f"whole/checkpoint-{stop}"))
    assert compression.controller.scheduler.state_dict() == levels
    assert same(state(model), expected)
