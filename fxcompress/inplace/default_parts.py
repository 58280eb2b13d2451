"""The parts of a model that are compressed where nobody says which, and no one graph is its forward in training and elsewhere.

A forward that computes a loss takes labels in training alone, and others return more or other things there: auxiliary heads,
boxes that are not decoded yet. What they call is the same in both.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Set

from torch import nn

from fxcompress.capture import called_submodules
from fxcompress.data.inputs import ExampleInputs
from fxcompress.inplace.alike import parts_that_train_alike

_DETECTOR = (
    *("backbone", "neck", "head", "bbox_head", "mask_head", "decode_head", "auxiliary_head", "classifier", "aux_classifier"),
    *("rpn.head", "rpn_head", "roi_heads.box_head", "roi_heads.box_predictor", "roi_heads.mask_head"),
    *("roi_heads.mask_predictor", "roi_heads.keypoint_head", "roi_heads.keypoint_predictor"),
    *("roi_head.bbox_head", "roi_head.mask_head"),
)
"""What detectors and segmenters of torchvision, MMDetection and MMSegmentation call their parts."""


_LOSS_INPUTS = frozenset({"labels", "return_loss"})
"""What a model of Hugging Face's takes where it computes a loss."""


def default_parts(model: nn.Module, example: ExampleInputs) -> list[str]:
    """Paths of the parts of `model` to compress, those that it calls for `example`; none to try the whole model.

    * Hugging Face: the base model (``base_model_prefix``), and each other child, the heads; of a model that has no base model
      and computes a loss (T5, CLIP), its children. Of one that is not called itself,
      as where a head calls the decoder in the base model, what is called in it.
    * torchvision, MMDetection, MMSegmentation: backbone, neck and heads, where `forward` takes targets as well; of others that
      keep MMEngine's contract the children.
    * Where it returns something else in training (Ultralytics' YOLO): the outermost submodules that do not.
    """
    candidates = [*_of_hugging_face(model)] or [*_of_detectors(model)]
    if not candidates:
        return parts_that_train_alike(model, example)
    called = called_submodules(model, example)
    return list(dict.fromkeys(found for path in candidates for found in _outermost(model, path, called)))


def _outermost(model: nn.Module, path: str, called: Set[str]) -> Iterator[str]:
    """`path` where it is called, else the outermost modules below it that are, and have parameters."""
    if path in called:
        yield path
        return
    for name, child in model.get_submodule(path).named_children():
        if any(True for _ in child.parameters()):
            yield from _outermost(model, f"{path}.{name}", called)


def _of_hugging_face(model: nn.Module) -> Iterator[str]:
    base = getattr(model, "base_model_prefix", None)
    if not isinstance(base, str):
        return
    has_base = isinstance(model._modules.get(base), nn.Module)
    if has_base:
        yield base
    if has_base or _LOSS_INPUTS & inspect.signature(model.forward).parameters.keys():
        yield from (name for name, child in model.named_children() if name != base and any(True for _ in child.parameters()))


def _of_detectors(model: nn.Module) -> Iterator[str]:
    """Of models that are given what they are to find: as ``targets`` in torchvision, as ``data_samples`` in OpenMMLab.

    MMEngine's contract, `train_step` and a forward that a ``mode`` tells what to return, is kept by other models as well: of
    them the children.
    """
    taken = inspect.signature(model.forward).parameters.keys()
    by_mode = "mode" in taken and hasattr(model, "train_step")
    if by_mode or {"targets", "data_samples"} & taken:
        paths = {path for path, _ in model.named_modules()}
        named = [path for path in _DETECTOR if path in paths]
        children = (name for name, child in model.named_children() if any(True for _ in child.parameters()))
        yield from named or (children if by_mode else ())
