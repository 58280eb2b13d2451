"""The laboratory's logic: its data, runs, resumption and table. Trains nothing worth the name, needs no data set."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import fxcompress
from benchmarks.laboratory import __main__ as laboratory
from benchmarks.laboratory import experiment, fashion, ledger, measuring, methods, networks, report, training
from benchmarks.laboratory.fashion import Fashion
from benchmarks.laboratory.ledger import Ledger, Row
from benchmarks.scoreboard import MET, MISSED
from fxcompress.errors import InputError

SETTINGS = {"images": 64, "epochs at most": None}


def idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def row(method="INT8", seed=0, accuracy=92.0, openvino_accuracy=92.0):
    return Row("residual", method, seed, 3, 64, accuracy, openvino_accuracy, 8.0, 0.01, 10**6, 10**5, 10**4, "a.onnx")


@pytest.fixture
def data():
    torch.manual_seed(0)
    images, labels = torch.randn(96, 1, 8, 8), torch.randint(10, (96,))
    return Fashion(images[:64], labels[:64], images[64:], labels[64:])


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(fashion, "BATCH", 16)
    monkeypatch.setattr(measuring, "BATCH", 16)
    monkeypatch.setitem(networks.NETWORKS, "residual", lambda: networks.residual(width=4, blocks=1))


def test_reads_idx_files(tmp_path):
    for part, count in (("train", 5), ("t10k", 3)):
        idx(tmp_path / f"{part}-images-idx3-ubyte.gz", np.full((count, 28, 28), 255))
        idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(count))
    found = fashion.load(tmp_path)
    assert found.train_images.shape == (5, 1, 28, 28) and found.test_images.shape == (3, 1, 28, 28)
    assert found.train_labels.tolist() == [0, 1, 2, 3, 4]
    assert found.train_images.unique().item() == pytest.approx((1 - fashion.MEAN) / fashion.DEVIATION)


def test_missing_data_says_how_to_get_it(tmp_path):
    with pytest.raises(SystemExit, match="apt install dataset-fashion-mnist"):
        fashion.load(tmp_path)
    idx(tmp_path / "train-images-idx3-ubyte.gz", np.arange(3))
    with pytest.raises(SystemExit, match="no idx file of bytes in 3 dimensions"):
        fashion.load(tmp_path)


def test_an_epoch_has_every_image_once_in_an_order_of_its_seed(data):
    labelled = replace(data, train_labels=torch.arange(64))
    orders = [torch.cat([labels for _, labels in labelled.epoch(seed)]).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(64))


def test_learning_rate_rises_and_falls_to_nothing():
    recipe = training.Recipe(epochs=1)
    shares = [recipe.share(step, 100) for step in range(100)]
    assert max(shares) == shares[9] == 1 and shares[0] == 0.1
    assert shares[10:] == sorted(shares[10:], reverse=True) and shares[-1] < 0.001


def test_weight_decay_is_for_weights_alone(data):
    model = networks.build("residual", 0).eval()
    compiled = fxcompress.compile(model, methods.quantized(), data=data.calibration())
    groups = training.optimizer_of(compiled, training.Recipe(1), model.state_dict()).param_groups
    assert [group["weight_decay"] for group in groups] == [0.01, 0, 0]
    assert all(parameter.dim() > 1 for parameter in groups[0]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(compiled.parameters()))


class Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on_with_the_same_bits(data, tmp_path):
    def trained(checkpoint, until=None):
        def progress(description, done, total):
            if done == until:
                raise Interrupted

        model = networks.build("residual", 0).eval()
        stack = [*methods.quantized(), fxcompress.passes.Sparsify(level=0.5, schedule=fxcompress.training.Polynomial(epochs=2))]
        compiled = fxcompress.compile(model, stack, data=data.calibration())
        recipe = training.Recipe(epochs=3)
        optimizer = training.optimizer_of(compiled, recipe, model.state_dict())
        training.fine_tune(compiled, optimizer, recipe, data, 7, checkpoint, progress)
        return compiled.state_dict()

    whole = trained(tmp_path / "whole.pt")
    with pytest.raises(Interrupted):
        trained(tmp_path / "parts.pt", until=6)  # in the second epoch of four steps
    resumed = trained(tmp_path / "parts.pt")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_float_model_comes_first_and_other_seeds_after_the_first():
    some = methods.find_methods(["w4a8", "int8-symmetric-per-tensor"])
    found = [str(run) for run in experiment.runs(["residual"], some, seeds=2)]
    assert found == [
        "residual, FP32, seed 0",
        "residual, W4A8, seed 0",
        "residual, INT8 symmetric, per tensor, seed 0",
        "residual, FP32, seed 1",
        "residual, W4A8, seed 1",
    ]


def test_no_epochs_are_added():
    found = experiment.runs(["residual"], methods.METHODS, seeds=1, epochs=3)
    assert {run.method.recipe.epochs for run in found} == {3}
    assert len({run.stem for run in found}) == len(methods.METHODS)


def test_methods_run_on_the_networks_that_they_are_for():
    found = experiment.runs(["mobile", "residual"], methods.find_methods(["binary-xnor-int8-ends"]), seeds=1)
    assert [str(run) for run in found] == [
        "mobile, FP32, seed 0",
        "residual, FP32, seed 0",
        "residual, binary (XNOR), INT8 ends, seed 0",
    ]


def test_unknown_methods_are_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="no method 'int9'.*int8"):
        methods.find_methods(["int9"])


def test_ledger_keeps_rows_and_refuses_those_of_other_settings(tmp_path):
    path = tmp_path / "rows.json"
    book = Ledger(path, SETTINGS)
    book.add(row(accuracy=90.0))
    book.add(row("W4A8"))
    book.add(row(accuracy=91.0))
    again = Ledger(path, SETTINGS)
    assert [one.accuracy for one in again.rows] == [91.0, 92.0]
    assert again.find("residual, W4A8, seed 0") == row("W4A8") and again.find("residual, W4A8, seed 1") is None
    with pytest.raises(SystemExit, match="--fresh"):
        Ledger(path, {**SETTINGS, "images": 10})
    assert Ledger(path, {**SETTINGS, "images": 10}, fresh=True).rows == []


def test_a_run_is_trained_once(data, tmp_path, monkeypatch):
    book = Ledger(tmp_path / "rows.json", SETTINGS)
    lab = experiment.Experiment(data, tmp_path, book)
    for run in experiment.runs(["residual"], methods.find_methods(["filters-sparse-int8-distilled"]), seeds=1, epochs=1):
        lab.finish(run)
    floating, stacked = lab.rows("residual")
    assert (floating.weight_bits, stacked.weight_bits) == (32, 8)
    assert stacked.multiply_adds < floating.multiply_adds and stacked.file_bytes < floating.file_bytes
    assert (tmp_path / stacked.file).stat().st_size == stacked.file_bytes > stacked.packed_bytes
    monkeypatch.setattr(experiment, "fine_tune", None)
    assert lab.finish(run) == stacked
    lab.forget()
    assert lab.rows("residual") == [] and not list(tmp_path.rglob("*.pt"))


def test_binary_weights_count_one_bit(data, tmp_path):
    (method,) = methods.find_methods(["binary-xnor-int8-ends"])
    model = networks.build("residual", 0).eval()
    compiled = fxcompress.compile(model, method.stack(methods.Situation(model, data, 1)), data=data.calibration())
    assert 1 < measuring.weight_bits(compiled) < 4
    run, onnx = measuring.emit(compiled, method, tmp_path / "binary")
    assert sorted(path.suffix for path in measuring.parts(run)) == [".bin", ".xml"]
    figures = measuring.figures(compiled, data, run, onnx)
    assert figures["file_bytes"] == sum(path.stat().st_size for path in measuring.parts(run))


def test_drops_are_against_the_float_model_of_the_same_seed(tmp_path):
    rows = [row("FP32", 0, 92.0), row("FP32", 1, 90.0), row("INT8", 0, 91.95), row("INT8", 1, 89.8, 89.9), row("W4A8", 0, 91.8)]
    estimate = report.drops("INT8", rows)
    assert [estimate.low, estimate.value, estimate.high] == pytest.approx([0.05, 0.125, 0.2])
    timings = {"FP32": np.full((1, 3), 2e-4), "INT8": np.full((1, 3), 1e-4)}
    section = report.section("residual", rows, timings, "method")
    figures = {(figure.subject, figure.quantity): figure for figure in section.figures}
    assert figures["INT8", "drop"].verdict == "within noise"
    assert figures["W4A8", "drop"].verdict == MET and figures["W4A8", "drop"].low is None
    assert figures["INT8", "file off by"].verdict == MISSED
    assert figures["INT8", "speed-up"].value == pytest.approx(2)
    assert section.notes[:2] == ["3 epochs of 64 images, seeds 0, 1: FP32; INT8.", "3 epochs of 64 images, seed 0: W4A8."]
    assert "sparse 50%, INT8; " in section.notes[2] and "W4A8" not in section.notes[2]
    written = report.plots("residual", rows, timings, tmp_path)
    assert ["<svg" in path.read_text() for path in written] == [True] * 3


def test_rows_without_their_float_model_are_left_out(tmp_path):
    book = ledger.Ledger(tmp_path / "rows.json", SETTINGS)
    lab = experiment.Experiment(None, tmp_path, book)
    book.add(row("INT8", 0))
    assert lab.rows("residual") == []
    book.add(row("FP32", 0))
    assert len(lab.rows("residual")) == 2


def test_quick_runs_write_elsewhere():
    quick, full = laboratory._parse(["--quick"]), laboratory._parse([])
    assert quick.output != full.output and quick.folder != full.folder
    assert (quick.epochs, quick.seeds) == (2, 1) and (full.epochs, full.seeds) == (None, 3)
    assert json.dumps(sorted(method.slug for method in full.only)).count("int8") > 5
    with pytest.raises(SystemExit):
        laboratory._parse(["--only", "int9"])
