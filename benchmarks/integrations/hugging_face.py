"""Transformers: the Trainer, with tiny configurations of the model families and synthetic data of their tasks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor

import fxcompress
from benchmarks.integrations.rows import ACCELERATE, Case, two_processes
from fxcompress import passes
from fxcompress.training import Polynomial

_TEXT = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_STEPS, _BATCH = 4, 4


class Rows(torch.utils.data.Dataset):
    """Sequences of several lengths, with the labels of a task."""

    def __init__(self, task: str, count: int = 32):
        generator = torch.Generator().manual_seed(0)
        self.rows = [self._row(task, generator) for _ in range(count)]

    @staticmethod
    def _row(task: str, generator: torch.Generator) -> dict[str, Tensor]:
        if task == "images":
            return {"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": torch.tensor(1)}
        length = int(torch.randint(6, 16, (), generator=generator))
        ids = torch.randint(1, 64, (length,), generator=generator)
        labels = {
            "classes": {"labels": ids[0] % 3},
            "answers": {"start_positions": torch.tensor(1), "end_positions": torch.tensor(3)},
            "tokens": {"labels": ids % 3},
            "next": {"labels": ids},
        }
        return {"input_ids": ids, **labels[task]}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return self.rows[position]


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows padded to the longest of them."""
    batch = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if values[0].dim() == 1:
            padding = -100 if name == "labels" else 0
            batch[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=padding)
        else:
            batch[name] = torch.stack(values)
    if "input_ids" in batch:
        batch["attention_mask"] = (batch["input_ids"] != 0).long()
    return batch


def cases() -> Iterator[Case]:
    """All model families, and one of them with everything that a Trainer can do."""
    for name, (build, task) in FAMILIES.items():
        lines = 2 + (task == RENAMED)
        yield f"{name}: train, evaluate, save, resume, write", lines, partial(_whole_life, build, task)
    for name, (build, task) in DECODERS.items():
        yield (
            f"{name}, with its cache: train, evaluate, save, resume, write",
            2,
            partial(_whole_life, build, task, use_cache=True),
        )
    yield "BERT, bf16", 2, partial(_whole_life, *FAMILIES["BERT, classes"], bf16=True)
    yield "BERT, gradient accumulation", 2, partial(_whole_life, *FAMILIES["BERT, classes"], gradient_accumulation_steps=2)
    yield "BERT, gradient checkpointing", 2, partial(_whole_life, *FAMILIES["BERT, classes"], gradient_checkpointing=True)
    yield (
        "BERT, label smoothing",
        2,
        partial(_whole_life, *FAMILIES["BERT, classes"], label_smoothing_factor=0.1, distill=False),
    )
    yield "BERT, the best model at the end", 2, partial(_whole_life, *FAMILIES["BERT, classes"], load_best_model_at_end=True)
    module = "benchmarks.integrations.two_processes"
    yield "BERT, two processes, torchrun, bf16", 3, partial(two_processes, module)
    yield "BERT, two processes, accelerate launch, bf16", 3, partial(two_processes, module, ACCELERATE)
    yield (
        "Llama, without a cache, bf16, accumulation",
        2,
        partial(_whole_life, *FAMILIES["Llama, next token"], bf16=True, gradient_accumulation_steps=2),
    )


def _bert(kind: Any, config: type = hf.BertConfig, **more: Any) -> Any:
    return kind(config(**_TEXT, num_labels=3, **more))


def _gpt2(**more: Any) -> Any:
    return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64, **more))


def _llama(**more: Any) -> Any:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**_TEXT, num_key_value_heads=1, **more))


FAMILIES: dict[str, tuple[Callable[[], Any], str]] = {
    "BERT, classes": (lambda: _bert(hf.BertForSequenceClassification), "classes"),
    "BERT, answers": (lambda: hf.BertForQuestionAnswering(hf.BertConfig(**_TEXT)), "answers"),
    "BERT, tokens": (lambda: _bert(hf.BertForTokenClassification), "tokens"),
    "BERT, masked words, tied embeddings": (lambda: hf.BertForMaskedLM(hf.BertConfig(**_TEXT)), "next"),
    "RoBERTa, classes": (
        lambda: _bert(hf.RobertaForSequenceClassification, hf.RobertaConfig, pad_token_id=0),
        "classes",
    ),
    "DistilBERT, classes": (
        lambda: hf.DistilBertForSequenceClassification(
            hf.DistilBertConfig(vocab_size=64, dim=32, n_layers=2, n_heads=2, hidden_dim=64, num_labels=3)
        ),
        "classes",
    ),
    "ViT, images": (
        lambda: hf.ViTForImageClassification(
            hf.ViTConfig(
                image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
            )
        ),
        "images",
    ),
    "GPT-2, next token": (partial(_gpt2, use_cache=False), "next"),
    "Llama, next token": (partial(_llama, use_cache=False), "next"),
}

DECODERS: dict[str, tuple[Callable[[], Any], str]] = {"GPT-2": (_gpt2, "next"), "Llama": (_llama, "next")}
"""As they are configured by themselves, with their cache on; `Trainer` keeps it so where it is told to."""


RENAMED = "images"
"""The task of ViT, which Transformers 5.24 saves under other names than `Trainer` looks for to resume, compressed or not.

It is told to save the names that the model has, in one line more.
"""


def _whole_life(build: Callable[[], Any], task: str, distill: bool = True, **arguments: Any) -> str:
    """Train with masks, ranges and a teacher; evaluate, save, load, write; then resume, and compare with what did not stop."""
    with tempfile.TemporaryDirectory() as folder:
        model, compression = _compressed(build, task, distill)
        one = trainer(model, compression, task, f"{folder}/whole", **arguments)
        one.train()
        loss = one.evaluate()["eval_loss"]
        expected = {name: value.clone() for name, value in model.state_dict().items()}
        files = compression.to_onnx(f"{folder}/files")

        resumed, again = _compressed(build, task, distill)
        stop = sorted(Path(f"{folder}/whole").glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))[0]
        trainer(resumed, again, task, f"{folder}/resumed", **arguments).train(resume_from_checkpoint=str(stop))
        bits = all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())

        model.save_pretrained(f"{folder}/saved")
        torch.save(compression.checkpoint(), f"{folder}/saved/compression.pt")
        loaded = type(model).from_pretrained(f"{folder}/saved")
        kept = fxcompress.compress(loaded, stack(distill), data=batches(task))
        kept.load_checkpoint(torch.load(f"{folder}/saved/compression.pt", weights_only=True))
        batch = batches(task)[0]
        one.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        with torch.no_grad():
            model.eval(), loaded.eval()
            same = torch.equal(loaded(**batch)[1], model(**batch)[1])
    if not (bits and same):
        raise AssertionError(f"resumed with the same bits: {bits}; loaded with the same outputs: {same}")
    parts = ", ".join(compression.compiled.parts)
    return f"parts {parts}; loss {loss:.3f}; resumed with the same bits; saved and loaded; {len(files)} files"


def stack(distill: bool) -> list[Any]:
    """Masks that grow from step to step, learned ranges, and a teacher."""
    ramp = Polynomial(epochs=2, steps_per_epoch=_STEPS)
    compressing = [passes.Sparsify(level=0.5, schedule=ramp), *fxcompress.defaults.training()]
    return [*compressing, passes.Distill()] if distill else compressing


def batches(task: str) -> list[dict[str, Tensor]]:
    """The data of `task`, in batches."""
    rows = Rows(task)
    return [collate([rows[i] for i in range(start, start + _BATCH)]) for start in range(0, len(rows), _BATCH)]


def _compressed(build: Callable[[], Any], task: str, distill: bool) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = build()
    if task == RENAMED:
        model.save_pretrained = partial(model.save_pretrained, save_original_format=False)
    return model, fxcompress.compress(model, stack(distill), data=batches(task))


def trainer(model: Any, compression: Any, task: str, folder: str, **arguments: Any) -> Any:
    """A Trainer of `model` with the callback of `compression`."""
    settings = {
        "per_device_train_batch_size": _BATCH,
        "num_train_epochs": 2,
        "save_strategy": "steps",
        "save_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 1e-3,
    }
    return hf.Trainer(
        model,
        hf.TrainingArguments(folder, **settings | arguments),
        train_dataset=Rows(task),
        eval_dataset=Rows(task, 8),
        data_collator=collate,
        callbacks=[compression.callback("transformers")],
    )
