"""What the benchmark of default compilation notes of a network, on networks of two layers; needs none of the libraries."""

import json
import os

import pytest
import torch
from torch import nn

from benchmarks import cases, compile_coverage
from benchmarks.cases import Case
from benchmarks.compile_coverage import FLOAT, ONNXRUNTIME, OPENVINO, TRAINED, examine, examine_apart, well


class Unstable(nn.Linear):
    def forward(self, x):
        return super().forward(x) * torch.rand(())


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))


def case(make):
    return Case("torchvision", "small", make, cases.images(8))


def row(**decibels):
    return {"family": "timm CNN", "name": "net", "seconds": 1.0, "decibels": decibels, "problems": []}


def test_a_network_that_compiles_is_well(tmp_path):
    examine(case(network), tmp_path / "row.json")
    found = json.loads((tmp_path / "row.json").read_text())
    assert well(found) and found["seconds"] > 0
    assert found["decibels"].keys() == {FLOAT, OPENVINO, ONNXRUNTIME, TRAINED}


def test_what_goes_wrong_is_noted_stage_by_stage(tmp_path):
    examine(case(lambda: nn.Sequential(nn.Flatten(), Unstable(192, 4))), tmp_path / "row.json")
    found = json.loads((tmp_path / "row.json").read_text())
    assert [problem.partition(" the")[0] for problem in found["problems"]] == ["compile: CaptureError:", "train: CaptureError:"]


@pytest.mark.parametrize("make", [lambda: os._exit(3), lambda: [].pop()])
def test_a_network_may_take_its_process_with_it(make):
    found = examine_apart(case(make), limit=60)
    assert len(found["problems"]) == 1 and found["problems"][0].startswith("make: ended with ") and not well(found)


def test_a_runtime_may_disturb_a_network_as_much_as_all_rounding_does_but_no_more():
    figures = {OPENVINO: 12.0, ONNXRUNTIME: 11.0, TRAINED: 13.0}
    assert well(row(**figures, **{FLOAT: 10.0})) and not well(row(**figures, **{FLOAT: 11.5}))
    assert not well(row(**figures, **{FLOAT: 40.0}))


def test_results_come_back_as_they_were_written(tmp_path):
    rows = [row(**{FLOAT: 30.25, OPENVINO: float("inf"), ONNXRUNTIME: float("-inf"), TRAINED: 25.0})]
    compile_coverage._write(rows, compile_coverage.describe_machine(), tmp_path)
    assert compile_coverage._read(tmp_path / "compile_coverage.json") == rows
    assert "0 of 1 well" in (tmp_path / "compile_coverage.md").read_text()


def test_networks_are_named_once_and_known():
    timm = {f"timm {group}": set(names.split()) for group, names in cases.TIMM.items()}
    for family, names in compile_coverage.NETWORKS.items():
        assert len(set(names.split())) == len(names.split())
        assert family not in timm or timm[family].issuperset(names.split())
