"""Post-processing of detectors: any number of boxes, traced, and non-maximum suppression in both runtimes."""

import sys
import types

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress.capture.suppression import suppression_of_any_number
from fxcompress.ir.suppression_ops import suppress


def overlap(a, b):
    both = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
    return both / max((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - both, 1e-12)


def greedy(boxes, scores, threshold):
    """As it is defined, box by box."""
    kept = []
    for one in np.argsort(-scores, kind="stable"):
        if all(overlap(boxes[one], boxes[other]) <= threshold for other in kept):
            kept.append(int(one))
    return kept


def boxes_of(corners):
    corners = torch.tensor(corners, dtype=torch.float32).view(-1, 4)
    return torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:] + 1], 1)


CORNERS = st.lists(st.tuples(*[st.integers(0, 12)] * 4), max_size=12)


@given(CORNERS, st.integers(0, 5), st.sampled_from([0.0, 0.3, 0.5, 0.7]))
@settings(max_examples=60, deadline=None)
def test_it_keeps_what_the_definition_keeps(corners, seed, threshold):
    boxes = boxes_of(corners)
    scores = torch.randint(4, (len(boxes),), generator=torch.Generator().manual_seed(seed)).float()
    assert suppress(boxes, scores, threshold).tolist() == greedy(boxes.double().numpy(), scores.numpy(), threshold)


class Suppression(nn.Module):
    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, boxes, scores):
        kept = suppress(boxes, scores, self.threshold)
        return boxes[kept], scores[kept]


def in_both(file, *inputs):
    """What onnxruntime and OpenVINO compute."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    given = dict(zip(names, (one.numpy() for one in inputs), strict=True))
    yield session.run(None, given)
    network = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    yield [np.array(value) for value in network(given).values()]


@pytest.mark.parametrize("threshold", [0.0, 0.35, 0.5, 1.0])
def test_files_keep_the_same_boxes(tmp_path, threshold):
    torch.manual_seed(0)

    def draw(count):
        corners = torch.rand(count, 2) * 20
        return torch.cat([corners, corners + 1 + torch.rand(count, 2) * 9], 1), torch.rand(count)

    compiled = fxcompress.compile(Suppression(threshold), [], example_inputs=draw(7))
    file = compiled.to_onnx(tmp_path / "kept.onnx", verify="strict")
    for count in (1, 2, 30):
        given = draw(count)
        expected = compiled(*given)
        for found in in_both(file, *given):
            assert all(np.array_equal(one.numpy(), other) for one, other in zip(expected, found, strict=True))


def test_an_overlap_that_is_just_allowed_is_allowed_in_files(tmp_path):
    boxes = torch.tensor([[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 1.0], [4.0, 0.0, 6.0, 1.0], [4.0, 0.0, 5.02, 1.0]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    compiled = fxcompress.compile(Suppression(0.5), [], example_inputs=(boxes, scores))
    assert compiled(boxes, scores)[1].tolist() == pytest.approx([0.9, 0.8, 0.7])
    file = compiled.to_onnx(tmp_path / "kept.onnx", verify="strict")
    assert [len(found[1]) for found in in_both(file, boxes, scores)] == [3, 3]


@pytest.fixture
def vision(monkeypatch):
    """What torchvision has of this, in modules of its names, by whose side a third one holds a function of theirs."""
    package = types.ModuleType("torchvision")
    boxes, utils = types.ModuleType("torchvision.ops.boxes"), types.ModuleType("torchvision.models.detection._utils")

    def nms(boxes, scores, iou_threshold):
        kept = greedy(boxes.double().numpy(), scores.numpy(), iou_threshold)
        return torch.tensor(kept, dtype=torch.int64)

    def batched_nms(boxes, scores, idxs, iou_threshold):
        if boxes.numel() > 4000:
            raise AssertionError("not here")
        if boxes.numel() == 0:
            return torch.empty(0, dtype=torch.int64)
        return boxes_module.nms(boxes + (idxs.to(boxes) * (boxes.max() + 1))[:, None], scores, iou_threshold)

    boxes_module = boxes
    boxes.nms, boxes.batched_nms = nms, batched_nms
    utils._topk_min = lambda input, orig_kval, axis: min(orig_kval, input.size(axis))
    third = types.ModuleType("third")
    third.batched_nms = batched_nms
    for module in (package, boxes, utils, third):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return types.SimpleNamespace(boxes=boxes, utils=utils, third=third)


def test_functions_are_theirs_again_afterwards(vision):
    before = [vision.boxes.nms, vision.boxes.batched_nms, vision.utils._topk_min, vision.third.batched_nms]
    with pytest.raises(ZeroDivisionError), suppression_of_any_number():
        assert vision.third.batched_nms is vision.boxes.batched_nms is not before[1]
        raise ZeroDivisionError
    assert before == [vision.boxes.nms, vision.boxes.batched_nms, vision.utils._topk_min, vision.third.batched_nms]


class Detector(nn.Module):
    """Boxes and scores from a head, the best of those above a threshold, suppressed class by class."""

    def __init__(self, vision, threshold):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(8, 6, 3, 2, 1)
        self.vision, self.threshold = [vision], threshold

    def forward(self, images, targets=None):
        vision = self.vision[0]
        found = self.head(self.backbone(torch.stack(images))).flatten(2).transpose(1, 2)
        detections = []
        for of_image in found:
            corners = of_image[:, :2].sigmoid() * 20
            boxes = torch.cat([corners, corners + 2 + of_image[:, 2:4].sigmoid() * 9], 1)
            chosen = []
            for label in (1, 2):
                score = of_image[:, 3 + label].sigmoid()
                above = score > self.threshold
                score, box = score[above], boxes[above]
                score, best = score.topk(vision.utils._topk_min(score, 10, 0))
                chosen.append((box[best], score, torch.full_like(score, label, dtype=torch.int64)))
            box, score, label = (torch.cat(parts) for parts in zip(*chosen))
            kept = vision.boxes.batched_nms(box, score, label, 0.4)[:8]
            detections.append({"boxes": box[kept], "scores": score[kept], "labels": label[kept]})
        return detections


def test_the_file_of_a_detector_has_its_post_processing(vision, tmp_path):
    torch.manual_seed(0)
    model = Detector(vision, 0.5).eval()
    scenes = [([torch.randn(3, 16, 24)],) for _ in range(4)]
    compression = fxcompress.compress(model, data=scenes)
    file = compression.to_onnx(tmp_path / "detector.onnx", verify="strict")
    counts = set()
    for scale in (1.0, 1.0, 3.0, 0.2):
        image = torch.randn(3, 16, 24) * scale
        with torch.no_grad():
            (expected,) = model([image])
        counts.add(len(expected["labels"]))
        for found in in_both(file, image):
            assert np.array_equal(found[2], expected["labels"])
            np.testing.assert_allclose(found[0], expected["boxes"], atol=1e-4)
            np.testing.assert_allclose(found[1], expected["scores"], atol=1e-5)
    assert len(counts) > 1


def test_a_file_may_find_nothing(vision, tmp_path):
    torch.manual_seed(0)
    model = Detector(vision, 0.9).eval()
    compression = fxcompress.compress(model, [], data=[([torch.randn(3, 16, 24)],)])
    file = compression.to_onnx(tmp_path / "detector.onnx", verify="strict")
    for found in in_both(file, torch.randn(3, 16, 24)):
        assert [one.shape for one in found] == [(0, 4), (0,), (0,)]
