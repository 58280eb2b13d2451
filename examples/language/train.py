"""Fine-tune a text classifier of Hugging Face, compressed while it trains, and write it for OpenVINO.

    python examples/language/train.py --model FOLDER --train train.csv --valid valid.csv --stack int8 --output out/int8

The CSV files have the columns `text` and `label`, a number from 0. FOLDER is what `save_pretrained` writes, or a name on the
hub. Fine-tune in float first (``--stack float``), and give what that leaves, ``out/float/model``, as the model of the others.
Run the command again after an interruption: it goes on from the last checkpoint.
"""

import argparse
import json
from pathlib import Path

import openvino
import torch
import transformers
from sentences import Sentences

import fxcompress
from fxcompress import QuantizationSpec, passes
from fxcompress.training import Polynomial


def stacks(steps_per_epoch):
    """The passes of each stack; what grows does so over the first epoch."""
    ramp = Polynomial(epochs=1, steps_per_epoch=steps_per_epoch)
    int8 = fxcompress.defaults.training()
    grids = passes.Quantize(weights=QuantizationSpec(bits=4, signed=True), exact_sums=True)
    return {
        "float": [],
        "control": [],
        "after": fxcompress.defaults.post_training(),
        "int8": int8,
        "w4a8": [passes.CanonicalizeActivations(), grids, passes.Calibrate(), passes.TrainQuantizers()],
        "sparse": [passes.Sparsify(level=0.5, schedule=ramp), *int8, passes.Distill()],
        "pruned": [passes.PruneFilters(amount=0.3, schedule=ramp), *int8, passes.Distill()],
        "distilled": [*int8, passes.Distill()],
    }


def accuracy_in_openvino(file, loader):
    """Percent of the sentences that the file puts into the right class, in real single precision."""
    network = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    right = total = 0
    for batch in loader:
        logits = network({name: batch[name].numpy() for name in ("input_ids", "attention_mask")})["logits"]
        right += int((logits.argmax(1) == batch["labels"].numpy()).sum())
        total += len(logits)
    return 100 * right / total


def main():
    options = parse()
    transformers.set_seed(options.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    train = Sentences(options.train, tokenizer, options.tokens, options.limit)
    valid = Sentences(options.valid, tokenizer, options.tokens, options.valid_limit, train.classes)
    collate = transformers.DataCollatorWithPadding(tokenizer)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=train.classes)

    steps = -(-len(train) // options.batch)
    some = torch.utils.data.Subset(train, range(min(300, len(train))))
    calibration = list(torch.utils.data.DataLoader(some, options.batch, collate_fn=collate))
    compression = fxcompress.compress(model, stacks(steps)[options.stack], data=calibration)

    arguments = transformers.TrainingArguments(
        str(options.output / "checkpoints"),
        num_train_epochs=0 if options.stack == "after" else options.epochs,
        per_device_train_batch_size=options.batch,
        train_sampling_strategy="group_by_length",
        warmup_steps=steps // 10,
        save_steps=options.save_steps,
        save_total_limit=1,
        logging_steps=25,
        report_to=[],
        use_cpu=True,
        bf16=options.bf16,
        seed=options.seed,
    )
    groups = fxcompress.parameter_groups(model, lr=options.lr, weight_decay=0.01)
    trainer = transformers.Trainer(
        model,
        arguments,
        train_dataset=train,
        data_collator=collate,
        callbacks=[compression.callback("transformers")],
        optimizers=(torch.optim.AdamW(groups), None),
    )
    if arguments.num_train_epochs:
        begun = any((options.output / "checkpoints").glob("checkpoint-*"))
        trainer.train(resume_from_checkpoint=begun or None)
    if options.stack == "float":
        model.save_pretrained(options.output / "model")
        tokenizer.save_pretrained(options.output / "model")

    file = compression.to_onnx(options.output / "model.onnx")
    accuracy = accuracy_in_openvino(file, torch.utils.data.DataLoader(valid, options.batch, collate_fn=collate))
    print(compression.report)
    trained = {"epochs": int(arguments.num_train_epochs), "trained_on": len(train)}
    found = {"stack": options.stack, "score": accuracy, "bytes": file.stat().st_size, **trained}
    (options.output / "result.json").write_text(json.dumps(found))
    print(f"{options.stack}: {accuracy:.2f}% of {len(valid)} sentences in OpenVINO, {file.stat().st_size / 1e6:.1f} MB: {file}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--stack", choices=stacks(1), default="int8")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--tokens", type=int, default=64, help="sentences are cut to so many")
    parser.add_argument("--limit", type=int, help="of the sentences to train on, for a first try")
    parser.add_argument("--valid-limit", type=int, help="of those to measure on")
    parser.add_argument("--save-steps", type=int, default=50)
    parser.add_argument("--bf16", action="store_true", help="train in mixed precision")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
