"""A written file is run in its runtime beside the simulation: what is sound passes, every planted fault is named."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from emission import Call, captured
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress import QuantizationSpec, passes
from fxcompress.conformance import check as checking
from fxcompress.conformance import client
from fxcompress.conformance.client import Child, FileProblem
from fxcompress.conformance.simulation import Simulation
from fxcompress.data.inputs import ExampleInputs
from fxcompress.data.sized import sized_inputs
from fxcompress.emit.files import write_onnx
from fxcompress.emit.translation import TRANSLATIONS
from fxcompress.errors import FileWarning, InputError, VerificationError
from fxcompress.ir.dialect import resolve
from fxcompress.targets import OPENVINO_CPU


class Residual(nn.Module):
    """Blocks that amplify a difference, as their sums are never limited."""

    def __init__(self, depth=8):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)) for _ in range(depth)
        )

    def forward(self, x):
        for block in self.blocks:
            x = x + 2 * block(x)
        return x.mean((2, 3))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = self.second(x)
        return torch.sigmoid(x) + x.square()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Gated()


@pytest.fixture
def compiled(model):
    return fxcompress.compile(model, data=[torch.randn(4, 6)])


def planted(monkeypatch, name, translate):
    """Have the operation called `name` translated wrongly."""
    monkeypatch.setitem(TRANSLATIONS, resolve(name), translate)


def last(compiled):
    return compiled.report.rows[-1]


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_a_sound_file_has_a_row_in_the_report(model, tmp_path, target, recwarn):
    compiled = fxcompress.compile(model, data=[torch.randn(4, 6)], target=target)
    for _ in range(2):
        compiled.to_onnx(tmp_path / "model.onnx", verify="strict")
    (row,) = [row for row in compiled.report.rows if row.name.startswith("model.onnx in ")]
    assert row.decibels > 40
    assert row.bytes == (tmp_path / "model.onnx").stat().st_size
    assert not [w for w in recwarn if w.category is FileWarning]
    assert "model.onnx in" in str(compiled.report)


def test_differences_that_depth_amplifies_are_no_fault(tmp_path):
    torch.manual_seed(0)
    compiled = fxcompress.compile(Residual(), data=[torch.randn(8, 8, 6, 6)])
    compiled.to_onnx(tmp_path / "model.onnx", verify="strict")


def test_a_fault_is_warned_of_with_the_node_and_the_line(compiled, tmp_path, monkeypatch):
    planted(monkeypatch, "sigmoid", lambda emit, x: emit.Tanh(x))
    with pytest.warns(FileWarning, match=r"computes something else in OpenVINO .* that of sigmoid \(.*return torch\.sigmoid"):
        compiled.to_onnx(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").exists()
    assert "computes something else" in last(compiled).notes[0]
    assert last(compiled).decibels < 20


def test_strictly_a_fault_is_an_error_and_the_old_file_stays(compiled, tmp_path, monkeypatch):
    planted(monkeypatch, "sigmoid", lambda emit, x: emit.Tanh(x))
    (tmp_path / "model.onnx").write_bytes(b"old")
    with pytest.raises(VerificationError, match="sigmoid"):
        compiled.to_onnx(tmp_path / "model.onnx", verify="strict")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.onnx", b"old")]


def test_a_fault_of_another_batch_size_is_found(compiled, tmp_path, monkeypatch):
    def first_sample(emit, x):  # right for one sample only, as of a kernel that forgets the others
        return emit.Sigmoid(emit.Add(emit.Mul(x, 0.0), emit.Slice(x, [0], [1], [0])))

    planted(monkeypatch, "sigmoid", first_sample)
    with pytest.warns(FileWarning, match=r"on inputs of \[2, 6\]"):
        compiled.to_onnx(tmp_path / "model.onnx")


def test_a_file_that_does_not_load_is_an_error_and_leaves_nothing(compiled, tmp_path, monkeypatch):
    planted(monkeypatch, "sigmoid", lambda emit, x: emit.NoSuchOperator(x))
    with pytest.raises(VerificationError, match=r"does not load in OpenVINO.* is sigmoid \(") as error:
        compiled.to_onnx(tmp_path / "model.onnx")
    assert "verify=False" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_runs_for_the_example_only_is_an_error(compiled, tmp_path, monkeypatch):
    planted(monkeypatch, "sigmoid", lambda emit, x: emit.Reshape(emit.Sigmoid(x), [2, 8]))
    with pytest.raises(VerificationError, match="does not run in OpenVINO.* is sigmoid"):
        compiled.to_onnx(tmp_path / "model.onnx")


FATAL = """
import os, sys, time
sys.path.insert(0, {folder!r})
sys.path[:0] = sys.argv[2:]
import server
def load(path, names):
    held = open(path, "rb").read()
    if b"Tanh" in held:
        print("free(): invalid next size", file=sys.stderr, flush=True)
        os.abort()
    if b"Softsign" in held:
        time.sleep(3600)
    return honest(path, names)
honest = server.LOADERS["openvino"]
server.LOADERS["openvino"] = load
server.serve(server.Connection(int(sys.argv[1])))
"""


@pytest.fixture
def fragile(tmp_path_factory, monkeypatch):
    """A runtime that dies of Tanh and sleeps over Softsign."""
    script = tmp_path_factory.mktemp("child") / "fatal.py"
    script.write_text(FATAL.format(folder=str(client.SERVER.parent)))
    child = Child(script)
    monkeypatch.setattr(checking, "CHILD", child)
    yield child
    child.stop()


def test_a_file_that_kills_its_runtime_is_an_error(compiled, tmp_path, monkeypatch, fragile):
    planted(monkeypatch, "sigmoid", lambda emit, x: emit.Tanh(x))
    with pytest.raises(VerificationError, match=r"is sigmoid \(.*SIGABRT: free\(\): invalid next size"):
        compiled.to_onnx(tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr(checking, "CHILD", fragile)
    compiled.to_onnx(tmp_path / "model.onnx", verify="strict")  # the next one has a child again


def test_a_file_that_hangs_its_runtime_is_an_error(compiled, tmp_path, monkeypatch, fragile):
    monkeypatch.setattr(checking, "_START_SECONDS", 3.0)
    planted(monkeypatch, "sigmoid", lambda emit, x: emit.Softsign(x))
    with pytest.raises(VerificationError, match="did not come to an end within . seconds"):
        compiled.to_onnx(tmp_path / "model.onnx")


def test_without_verification_nothing_is_run(compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "CHILD", None)
    planted(monkeypatch, "sigmoid", lambda emit, x: emit.Tanh(x))
    rows = len(compiled.report.rows)
    compiled.to_onnx(tmp_path / "model.onnx", verify=False)
    assert len(compiled.report.rows) == rows


def test_a_runtime_that_is_not_installed_is_a_note(model, tmp_path):
    target = replace(OPENVINO_CPU, name="accelerator", runtime="no_such_runtime")
    compiled = fxcompress.compile(model, data=[torch.randn(4, 6)], target=target)
    compiled.to_onnx(tmp_path / "model.onnx")
    assert "not verified" in last(compiled).notes[0]


def test_verify_is_one_of_three(compiled, tmp_path):
    with pytest.raises(InputError, match="'strict'"):
        compiled.to_onnx(tmp_path / "model.onnx", verify="strictly")


def test_weights_in_a_file_of_their_own_are_found(compiled, tmp_path, monkeypatch):
    monkeypatch.setattr("fxcompress.compiled.write_onnx", partial(write_onnx, largest_file=0))
    for _ in range(2):
        compiled.to_onnx(tmp_path / "model.onnx", verify="strict")
    assert last(compiled).bytes == sum(file.stat().st_size for file in tmp_path.iterdir())


def test_openvino_files_with_binary_convolutions(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
    stack = [passes.Binarize(), passes.Quantize(), passes.Calibrate()]
    compiled = fxcompress.compile(network, stack, data=[torch.randn(4, 3, 12, 12)])
    compiled.to_openvino(tmp_path / "model.xml", verify="strict")
    assert last(compiled).name.startswith("model.xml in OpenVINO")
    compiled.to_openvino(tmp_path / "model.xml", batch_size=3, verify="strict")


class Several(nn.Module):
    """Inputs of several types, one in a dict, and outputs of several types."""

    def __init__(self):
        super().__init__()
        self.table, self.linear = nn.Embedding(10, 6), nn.Linear(6, 6)

    def forward(self, ids, extra):
        x = self.linear(self.table(ids)) + extra["a-b c/ü"].unsqueeze(1)
        return {"scores:0": x, "best": x.argmax(-1), "large": x > 0, "same": extra["a-b c/ü"]}


def test_several_inputs_and_outputs_of_several_types(tmp_path):
    torch.manual_seed(0)
    example = torch.randint(0, 10, (3, 5)), {"a-b c/ü": torch.randn(3, 6)}
    compiled = fxcompress.compile(Several(), data=[example])
    compiled.to_onnx(tmp_path / "a model ü.onnx", verify="strict")
    compiled.to_openvino(tmp_path / "a model ü.xml", verify="strict")


def test_a_model_that_trains_is_written_on_the_way(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Conv2d(8, 8, 3))
    compiled = fxcompress.compile(network, fxcompress.defaults.training(), data=[torch.randn(4, 3, 8, 8)]).train()
    compiled.to_onnx(tmp_path / "model.onnx", verify="strict")
    assert compiled.training


def test_parts_are_verified_each(tmp_path):
    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Gated()

        def forward(self, x):
            return self.body(x) if x.sum().item() > -1e9 else x

    compiled = fxcompress.compile(Untraceable(), data=[torch.randn(4, 6)])
    compiled.to_onnx(tmp_path, verify="strict")
    assert any(row.name.startswith("body: body.onnx in") for row in compiled.report.rows)


def test_every_free_size_is_another_one_once():
    example = ExampleInputs((torch.arange(12.0).reshape(2, 6), torch.arange(2), torch.ones(3)))
    same, others = sized_inputs([["n", "length"], ["n"], [3]], example)
    found = [same, *(way for _, alternatives in others for ways in alternatives for way in ways)]
    shapes = [[tuple(tensor.shape) for tensor in inputs] for inputs in found]
    assert shapes == [
        [(2, 6), (2,), (3,)],
        *([(n, 6), (n,), (3,)] for n in (1, 3, 4)),
        *([(2, length), (2,), (3,)] for length in (7, 12)),
    ]
    assert found[2][1].tolist() == [0, 1, 0]


def test_a_size_that_is_fixed_in_the_file_is_kept():
    (one,), others = sized_inputs([[4, 6]], ExampleInputs((torch.randn(2, 6),)))
    assert one.shape == (4, 6) and not list(others)


def test_sizes_that_are_sums_stay_so_and_equal_ones_change_together():
    """As of a step of a decoder: three tokens behind five, a mask over both, keys and values of the five."""
    example = ExampleInputs((torch.ones(1, 3), torch.ones(1, 8), torch.ones(1, 5), torch.ones(1, 5)))
    _, others = sized_inputs([[1, "tokens"], [1, "total"], [1, "keys"], [1, "values"]], example)
    tokens, total, keys, values = ([[x.shape[1] for x in way] for way in ways] for _, (ways, _) in others)
    assert tokens == [[4, 9, 5, 5], [4, 8, 5, 5]]
    assert total == [[3, 9, 5, 5]]
    assert keys == [[3, 9, 6, 5], [3, 8, 6, 5], [3, 9, 6, 6]]
    assert values == [[3, 9, 5, 6], [3, 8, 5, 6], [3, 9, 6, 6]]


@given(st.integers(0, 10**6), st.sampled_from([8, 4]))
@settings(max_examples=15, deadline=None)
def test_rounding_explains_a_step_and_no_more(seed, bits):
    """The same integers but for a step here and there are explained, values that are a fifth too large are not."""
    torch.manual_seed(seed)
    stack = [passes.Quantize(activations=QuantizationSpec(bits=bits, symmetric=False)), passes.Calibrate()]
    network = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    lowered = fxcompress.compile(network, stack, data=[torch.randn(20, 16)]).lower()
    simulation = Simulation(lowered, [torch.randn(20, 16)])
    low = simulation.compare([simulation.exact[0] * (1 + 1e-6)])
    assert not low[0].faulty
    assert not simulation.compare(Simulation(lowered, [simulation.inputs[0] + 1e-3]).exact)[0].faulty
    assert simulation.compare([simulation.exact[0] * (1.2 if bits == 8 else 2)])[0].faulty
    assert simulation.compare([simulation.exact[0].roll(1, 0)])[0].faulty


def test_numbers_that_are_not_finite_must_be_the_same():
    class Endless(nn.Module):
        def forward(self, x):
            return x.masked_fill(x < 0, float("-inf"))

    compiled = fxcompress.compile(Endless(), [], example_inputs=torch.tensor([[1.0, -1.0]]))
    simulation = Simulation(compiled.lower(), [torch.tensor([[1.0, -1.0]])])
    assert not simulation.compare(simulation.exact)[0].faulty
    assert simulation.compare([torch.tensor([[1.0, -1e30]])])[0].faulty
    assert simulation.compare([torch.tensor([[float("nan"), float("-inf")]])])[0].faulty


def test_the_child_serves_all_files_of_a_process_and_says_what_was_wrong():
    child = Child()
    assert child.ask("version", "onnxruntime", seconds=60)
    first = child._process
    with pytest.raises(FileProblem, match="ModuleNotFoundError"):
        child.ask("version", "no_such_runtime", seconds=60)
    with pytest.raises(FileProblem, match="FileNotFound|NoSuchFile|File doesn't exist"):
        child.ask("load", "onnxruntime", str(Path("/nowhere.onnx")), ["x"], seconds=60)
    with pytest.raises(FileProblem):
        child.ask("run", [np.zeros(1)], seconds=60)
    assert child._process is first
    child.stop()
    assert first.poll() is not None


SLOW = """
import sys, time
sys.path.insert(0, {folder!r})
sys.path[:0] = sys.argv[2:]
import server
def version(self, runtime):
    time.sleep({seconds})
    return runtime
server.Server.version = version
server.serve(server.Connection(int(sys.argv[1])))
"""


def test_what_is_asked_after_an_interrupt_gets_its_own_answer(tmp_path, monkeypatch):
    script = tmp_path / "slow.py"
    script.write_text(SLOW.format(folder=str(client.SERVER.parent), seconds=0.2))
    child = Child(script)

    def interrupted(seconds):
        raise KeyboardInterrupt

    child.start()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(child._pipe, "poll", interrupted)
        child.ask("version", "first", seconds=60)
    assert child.ask("version", "second", seconds=60) == "second"
    child.stop()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no such signal here")
def test_the_child_ends_with_a_process_that_is_killed(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(SLOW.format(folder=str(client.SERVER.parent), seconds=3600))
    asks = (
        "import sys; from pathlib import Path; from fxcompress.conformance.client import Child;"
        "child = Child(Path(sys.argv[1])); child.start(); print(child._process.pid, flush=True);"
        "child.ask('version', 'x', seconds=3600)"
    )
    with subprocess.Popen([sys.executable, "-c", asks, str(script)], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        time.sleep(0.5)  # so that it is asked
        parent.kill()
    ended = time.monotonic() + 30
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < ended
        time.sleep(0.1)


@pytest.mark.parametrize("zero", [lambda y: y - y, lambda y: 2 * y - (y + y), lambda y: y - y.mean(-1, keepdim=True)])
def test_an_output_that_is_zero_by_construction_may_be_off_by_the_rounding_of_what_cancels(zero):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 1)

        def forward(self, x):
            return zero(self.conv(x))

    x = torch.randn(2, 3, 4, 1)
    lowered = fxcompress.compile(Net().eval(), [], example_inputs=(x,)).lower()
    simulation = Simulation(lowered, [x])
    exact = simulation.exact[0]
    (near,) = simulation.compare([exact + 1e-7])
    (far,) = simulation.compare([exact + 1e-2])
    assert not near.faulty
    assert far.faulty


def test_what_cancels_within_one_operation_may_be_off_by_what_it_read():
    graph_module = captured(Call(lambda x: (5 * x).log_softmax(1)), torch.ones(2, 1))
    (agreement,) = Simulation(graph_module, [torch.ones(2, 1)]).compare([torch.full((2, 1), 4e-7)])
    assert not agreement.faulty
    (agreement,) = Simulation(graph_module, [torch.ones(2, 1)]).compare([torch.full((2, 1), 4e-4)])
    assert agreement.faulty


@pytest.mark.parametrize("function", [nn.functional.softplus, lambda x: nn.functional.logsigmoid(-x)])
def test_the_last_bits_of_a_logarithm_of_what_one_is_added_to_are_explained(function):
    x = torch.full((2, 1), -37.5)
    simulation = Simulation(captured(Call(function), x), [x])
    assert not simulation.compare([torch.full((2, 1), 4e-6)])[0].faulty
    assert simulation.compare([torch.full((2, 1), 4e-3)])[0].faulty


@pytest.mark.parametrize("place", range(24))
def test_either_side_of_a_discontinuity_is_explained_where_a_value_is_at_it(place):
    x = torch.linspace(-1.05, 1.25, 24)[None]
    x[0, place] = 1e-8
    simulation = Simulation(captured(Call(lambda x: (x * 3).ceil()), x), [x])
    (exact,) = simulation.exact
    below, far = exact.clone(), exact.clone()
    below[0, place] -= 1
    far[0, place - 1] += 3
    assert not simulation.compare([below])[0].faulty
    assert simulation.compare([far])[0].faulty


def test_counts_stay_whole_numbers():
    """Parts as long as what is counted in floats, as of the tokens that experts get, are so whatever else is rounded."""

    def cut(x):
        best = x.argmax(1, keepdim=True)
        counts = torch.zeros_like(x).scatter(1, best, 1.0).long().sum(0).tolist()
        return [part.exp() for part in (3 * x)[best.flatten().argsort()].split(counts)][1]

    x = torch.eye(3).repeat(4, 1) - 0.1
    simulation = Simulation(captured(Call(cut), x), [x])
    (exact,) = simulation.exact
    assert not simulation.compare([exact * (1 + 1e-5)])[0].faulty
    assert simulation.compare([exact * (1 + 1e-2)])[0].faulty


def test_what_is_less_than_any_number_that_counts_is_zero():
    """A convolution of padding alone gives 0, to which the file adds the smallest normal number."""
    graph_module = captured(Call(lambda x: x * 0), torch.ones(2, 3))
    simulation = Simulation(graph_module, [torch.ones(2, 3)])
    assert not simulation.compare([torch.full((2, 3), 1e-38)])[0].faulty
    assert simulation.compare([torch.full((2, 3), 1e-20)])[0].faulty


@pytest.mark.parametrize("layer", [nn.Linear(1, 3), nn.Conv2d(1, 3, 1)])
def test_a_bias_kept_in_steps_of_its_integer_sum_is_explained_and_one_that_is_more_off_is_not(layer):
    x = (torch.randint(0, 2, (40, 1)).float()).reshape(-1, 1, *[1] * (layer.weight.dim() - 2))
    stack = [passes.Quantize(activations=QuantizationSpec(bits=4, symmetric=False)), passes.Calibrate()]
    compiled = fxcompress.compile(layer, stack, data=[x])
    scales = [held for name, held in compiled.named_buffers() if name.endswith("scale")]
    of_x, of_weight = sorted(scales, key=torch.Tensor.numel)
    step = of_x * of_weight
    simulation = Simulation(compiled.lower(), [x])
    (exact,), places = simulation.exact, [-1, *[1] * (x.dim() - 2)]
    for share, faulty in ((0.5, False), (-0.5, False), (20, True)):
        (found,) = simulation.compare([exact + share * step.reshape(places)])
        assert found.faulty is faulty


@pytest.mark.parametrize(("target", "runtime"), [("openvino", "OpenVINO"), ("onnxruntime", "onnxruntime")])
def test_a_file_is_run_in_the_runtime_that_it_is_for(tmp_path, target, runtime):
    compiled = fxcompress.compile(nn.Linear(3, 2), data=[(torch.randn(4, 3),)], target=target)
    compiled.to_onnx(tmp_path / "model.onnx", verify="strict")
    assert compiled.report.rows[-1].name.startswith(f"model.onnx in {runtime} ")
