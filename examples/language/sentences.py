"""Sentences with the numbers of their classes, as a CSV file holds them, and what is wrong with a file that does not."""

import csv

import torch


class Sentences(torch.utils.data.Dataset):
    """The rows of a CSV file with the columns `text` and `label`.

    Args:
        classes: how many there are; None for as many as the labels say.

    Raises:
        SystemExit: the file has no rows or other columns, or a row no text, or a label that is the number of no class.
    """

    def __init__(self, path, tokenizer, tokens, limit=None, classes=None):
        if not path.is_file():
            raise SystemExit(f"{path} is no file")
        with open(path, newline="", encoding="utf-8-sig") as file:  # Excel writes a mark in front
            reader = csv.DictReader(file)
            rows, columns = list(reader)[:limit], reader.fieldnames or []
        if missing := {"text", "label"} - set(columns):
            raise SystemExit(
                f"{path} has no column {' and '.join(sorted(missing))}, but {', '.join(columns) or 'nothing'}: rename it"
            )
        if not rows:
            raise SystemExit(f"{path} has no rows below its first line, which names the columns")
        self.labels = [_label(row, f"row {number} of {path}", classes) for number, row in enumerate(rows, 1)]
        self.classes = classes or max(self.labels) + 1
        if self.classes < 2:
            raise SystemExit(f"{path} has label 0 alone: there is nothing to tell apart")
        self.encoded = [tokenizer(row["text"], truncation=True, max_length=tokens) for row in rows]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, position):
        encoded = self.encoded[position]
        return {name: encoded[name] for name in ("input_ids", "attention_mask")} | {"labels": self.labels[position]}


def _label(row, where, classes):
    text, label = row["text"], (row["label"] or "").strip()
    if not text:
        raise SystemExit(f"{where} has no text")
    if not (label.isascii() and label.isdigit()):
        raise SystemExit(f"{where} has label {label!r}: write a whole number from 0 for each class")
    if classes is not None and int(label) >= classes:
        raise SystemExit(f"{where} has label {label}, and what is trained on has 0 to {classes - 1}")
    return int(label)
