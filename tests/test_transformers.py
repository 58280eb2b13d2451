"""Compression inside the Trainer of Transformers: every model family trains, and a run goes on with the same bits."""

import warnings

import onnxruntime
import pytest
import torch
from frameworks import framework

import fxcompress
from fxcompress import passes
from fxcompress.errors import TrainingError
from fxcompress.execution.agreement import sqnr
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


DECODERS = {
    "GPT-2": lambda **more: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0, **more
        )
    ),
    "Llama": lambda **more: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, num_key_value_heads=1, max_position_embeddings=16, **more)
    ),
}


def tokens(rows):
    batch = padded(rows)
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def compressed(some_stack=None, kind="BertForSequenceClassification", **settings):
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, num_labels=3)
    model = getattr(transformers, kind)(config)
    data = torch.utils.data.DataLoader(Sentences(), batch_size=6, collate_fn=padded)
    return model, fxcompress.compress(model, some_stack or stack(), data=data, **settings)


def trainer(model, compression, folder, *, add_loss=True, callbacks=(), collate=padded, **arguments):
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
        data_collator=collate,
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


def losses(some_trainer):
    some_trainer.train()
    return [entry["loss"] for entry in some_trainer.state.log_history if "loss" in entry]


def test_the_loss_of_compression_is_added_logged_and_left_out_where_that_is_said(tmp_path):
    model, compression = compressed([*fxcompress.defaults.training(), passes.Distill(scale=50.0)])
    torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
    start = state(model)
    short = {"max_steps": 1, "learning_rate": 0.0}
    (without,) = losses(trainer(model, compression, tmp_path, add_loss=False, **short))
    assert same(state(model), start)
    whole = trainer(model, compression, tmp_path, **short)
    (added,) = losses(whole)
    term = float(compression.controller.loss().detach())
    assert term > 0 and added == pytest.approx(without + term, rel=1e-3)
    twice = short | {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3}
    (plain,) = losses(trainer(model, compression, tmp_path, add_loss=False, **twice))
    (added,) = losses(trainer(model, compression, tmp_path, **twice))
    assert added - plain == pytest.approx(term, rel=0.3)  # the mean of two passes, not their sum
    assert not model._forward_hooks  # nothing is left on the model after training
    with pytest.raises(TrainingError, match="add_loss=False"):
        trainer(model, compression, tmp_path, label_smoothing_factor=0.1, **short).train()


def test_mixed_precision_accumulation_checkpointing_evaluation_and_the_best_model(tmp_path):
    model, compression = compressed(fxcompress.defaults.training())
    own = trainer(
        model,
        compression,
        tmp_path / "run",
        bf16=True,
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
        label_smoothing_factor=0.1,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
    )
    before = state(model)
    with pytest.warns(UserWarning, match="gradient_checkpointing saves no memory"):
        own.train()
    after = state(model)
    assert all(value.isfinite().all() for value in after.values() if value.is_floating_point())
    moved = [name for name in after if not torch.equal(after[name], before[name])]
    assert any("quantizer" in name for name in moved) and any(name.endswith("query.weight") for name in moved)
    metrics = [entry["eval_loss"] for entry in own.state.log_history if "eval_loss" in entry]
    assert len(metrics) == 3
    batch = padded(list(Sentences(5)))
    expected = own.accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval()(**batch).logits

    model.save_pretrained(tmp_path / "saved")
    torch.save(compression.checkpoint(), tmp_path / "saved/compression.pt")
    other = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    data = torch.utils.data.DataLoader(Sentences(), batch_size=6, collate_fn=padded)
    resumed = fxcompress.compress(other, fxcompress.defaults.training(), data=data)
    resumed.load_checkpoint(torch.load(tmp_path / "saved/compression.pt", weights_only=True))
    assert torch.equal(other.eval()(**batch).logits, expected)
    assert len(resumed.to_onnx(tmp_path / "files")) == 2


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_trains_with_its_cache_on_and_comes_back_with_it(tmp_path, kind):
    torch.manual_seed(0)
    model = DECODERS[kind]()
    data = torch.utils.data.DataLoader(Sentences(), batch_size=6, collate_fn=tokens)
    compression = fxcompress.compress(model, fxcompress.defaults.training(), data=data)
    short = {"collate": tokens, "max_steps": 2, "eval_strategy": "steps", "eval_steps": 1}
    own = trainer(model, compression, tmp_path / "run", use_cache=True, **short)
    before = state(model)
    own.train()
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items() if "quantizer" in name)
    batch = tokens(list(Sentences(5)))
    expected = model.eval()(**batch)
    cache = next(value for value in expected.values() if hasattr(value, "get_seq_length"))
    assert cache.get_seq_length() == batch["input_ids"].shape[1]

    model.save_pretrained(tmp_path / "saved")
    other = type(model).from_pretrained(tmp_path / "saved")
    again = fxcompress.compress(other, fxcompress.defaults.training(), data=data)
    again.load_checkpoint(compression.checkpoint())
    assert torch.equal(other.eval()(**batch).logits, expected.logits)


def test_a_cache_that_the_trainer_turns_off_behind_compression_is_told(tmp_path):
    config = transformers.BertConfig(**SIZES, num_labels=3)
    encoder = transformers.BertForSequenceClassification(config)  # configured with a cache as well, and has none
    for model, collate, expected in (
        (DECODERS["GPT-2"](), tokens, 1),
        (DECODERS["GPT-2"](use_cache=False), tokens, 0),
        (encoder, padded, 0),
    ):
        data = torch.utils.data.DataLoader(Sentences(), batch_size=6, collate_fn=collate)
        compression = fxcompress.compress(model, [passes.Quantize(), passes.Calibrate()], data=data)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            trainer(model, compression, tmp_path, collate=collate, max_steps=1).train()
        messages = [str(one.message) for one in told if "use_cache" in str(one.message)]
        assert len(messages) == expected
        assert all("TrainingArguments(use_cache=True)" in one and "before it is compressed" in one for one in messages)


SHIFTED = {"d_model": 16, "vocab_size": 64, "decoder_start_token_id": 2, "pad_token_id": 0}
OF_TWO_SEQUENCES = {
    "T5": ("T5ForConditionalGeneration", {"d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}),
    "BART": (
        "BartForConditionalGeneration",
        {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("attention_heads", 2))}
        | {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "forced_eos_token_id": 2},
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OF_TWO_SEQUENCES)
def test_the_file_of_a_decoder_that_reads_its_labels_takes_what_it_makes_of_them(name, tmp_path):
    kind, sizes = OF_TWO_SEQUENCES[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, f"{kind.partition('For')[0]}Config")(**SHIFTED, **sizes)).eval()
    source, wanted = torch.randint(3, 64, (4, 9)), torch.randint(3, 64, (4, 6))
    data = [{"input_ids": source, "attention_mask": torch.ones_like(source), "labels": wanted}]
    compression = fxcompress.compress(model, fxcompress.defaults.training(), data=data)
    session = onnxruntime.InferenceSession(compression.to_onnx(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask", "decoder_input_ids"]
    given = {"input_ids": source, "attention_mask": torch.ones_like(source)}
    shifted = torch.cat([torch.full((4, 1), 2), wanted[:, :-1]], 1)
    (found,) = session.run(["logits"], {name: one.numpy() for name, one in (given | {"decoder_input_ids": shifted}).items()})
    with torch.no_grad():
        logits = model(**given, labels=wanted).logits
    assert sqnr(logits, torch.from_numpy(found)) > 40
