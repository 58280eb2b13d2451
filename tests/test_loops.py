"""Loops over the steps of a sequence: one operation of any number of steps, in torch and in both runtimes."""

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from frameworks import framework
from torch import nn

import fxcompress
from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.ir.scan_ops import SCAN

WIDTH = 4


class Recurrence(nn.Module):
    """Several states, one of them read before it changes; steps that are listed, written in their places and joined."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.decay = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x, scale):
        state = x.new_zeros(x.shape[0], WIDTH)
        slow, before, after, both = state * 0, [], [], torch.zeros_like(x)
        for step in range(x.shape[1]):
            before.append(state)
            slow = slow * self.decay + state * scale
            state = torch.tanh(self.layer(x[:, step]) + state)
            after.append(state.unsqueeze(1))
            both[:, step] = slow + state
        return torch.stack(before, dim=-1), torch.cat(after, 1), both, state, slow * 2


class Cut(nn.Module):
    """Places cut out as slices, the next one beside each, and a cell of torch."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(WIDTH, WIDTH)

    def forward(self, x, scale):
        state, outputs = x[:, 0] * scale, []
        for step in range(x.shape[1] - 1):
            state = self.cell(x[:, step : step + 1].squeeze(1) - x[:, step + 1], state)
            outputs += [state]
        return torch.stack(outputs, 1)


class Later(nn.Module):
    """From the second step on, into a tensor whose first place stays."""

    def forward(self, x, scale):
        result, state = x.clone(), x[:, 0]
        for step in range(1, x.shape[1]):
            state = state * scale + x[:, step]
            result[:, step] = state
        return result


def inputs(samples=3, steps=6):
    return torch.randn(samples, steps, WIDTH), torch.rand(WIDTH)


def captured(model, example):
    return capture(model.eval(), ExampleInputs(example), dynamic_shapes="auto")


def loops_of(graph):
    return graph.find_nodes(op="call_function", target=SCAN)


def in_both(file, given):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    yield session.run(None, dict(zip([one.name for one in session.get_inputs()], given, strict=True)))
    network = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    yield [np.array(value) for value in network(given).values()]


def outputs_of(model, given):
    found = model(*given)
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("kind", [Recurrence, Cut, Later])
def test_a_loop_is_one_operation_of_any_number_of_steps_and_samples(kind, tmp_path):
    torch.manual_seed(0)
    model = kind().eval()
    compiled = fxcompress.compile(model, [], example_inputs=inputs(), dynamic_shapes="auto")
    assert len(loops_of(compiled.graph)) == 1
    file = compiled.to_onnx(tmp_path / "m.onnx", verify="strict")
    for sizes in ((3, 6), (1, 9), (2, 2)):
        given = inputs(*sizes)
        expected = outputs_of(model, given)
        torch.testing.assert_close(outputs_of(compiled, given), expected)
        for found in in_both(file, [one.numpy() for one in given]):
            torch.testing.assert_close([*map(torch.from_numpy, found)], [*expected], atol=1e-5, rtol=1e-4)


def test_it_trains_as_the_loop_does():
    torch.manual_seed(0)
    model = Recurrence()
    compiled = fxcompress.compile(model, [], example_inputs=inputs(), dynamic_shapes="auto").train()
    given = [one.requires_grad_() for one in inputs(2, 5)]
    found = []
    for one in (model, compiled):
        loss = sum(output.square().sum() for output in one(*given))
        found.append(torch.autograd.grad(loss, [*one.parameters(), *given]))
    torch.testing.assert_close(*found)


def test_half_precision_within_a_loop_becomes_single():
    class Casts(nn.Module):
        def forward(self, x):
            state = x[:, 0].half()
            for step in range(x.shape[1]):
                state = (state.float() * 0.5 + x[:, step].float()).half()
            return state

    graph = captured(Casts(), (torch.randn(3, 6, WIDTH).half(),))
    (loop,) = loops_of(graph.graph)
    assert "float16" not in loop.args[-1]


class Dropped(nn.Module):
    """What is another in training, which the graph keeps where the steps are written out."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        state = x[:, 0] * 0
        for step in range(x.shape[1]):
            state = self.drop(state + x[:, step])
        return state


class Numbered(nn.Module):
    def forward(self, x):
        state = x[:, 0] * 0
        for step in range(x.shape[1]):
            state = state * 0.5 + x[:, step] * step
        return state


class Delayed(nn.Module):
    """What is read is of two steps before."""

    def forward(self, x):
        last = older = x[:, 0] * 0
        for step in range(x.shape[1]):
            last, older = x[:, step] + older, last
        return last


class Growing(nn.Module):
    def forward(self, x):
        state = x[:, :1]
        for step in range(x.shape[1]):
            state = torch.cat([state, x[:, step : step + 1]], 1)
        return state


class Left(nn.Module):
    def forward(self, x):
        state = x[:, 0] * 0
        for step in range(x.shape[1]):
            state = state + x[:, step]
            if step == 2:
                break
        return state


class Counted(nn.Module):
    """Nothing in the graph tells that the list is as long as the sequence."""

    def forward(self, x):
        return x * len([step for step in range(x.shape[1]) if step % 2])


class Nested(nn.Module):
    """A loop in a loop, which OpenVINO does not take."""

    def forward(self, x):
        total, rows = x[:, 0] * 0, []
        for step in range(x.shape[1]):
            state = x[:, step] * 0
            for other in range(x.shape[1]):
                state = state * 0.5 + x[:, other] * x[:, step]
            total = total + state
            rows.append(total)
        return torch.stack(rows, 1)


@pytest.mark.parametrize("kind", [Dropped, Nested, Numbered, Delayed, Growing, Left, Counted])
def test_a_loop_that_does_more_has_the_steps_of_the_example(kind):
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(3, 6, WIDTH)
    graph = captured(model, (x,))
    assert not loops_of(graph.graph)
    torch.testing.assert_close(graph(x), model(x))
    other = torch.randn(2, 6, WIDTH)
    torch.testing.assert_close(graph(other), model(other))


class Padded(nn.Module):
    """A loop that cannot be one operation, over one size of several that are free."""

    def forward(self, x):
        rows = [x[:, :, step] * (step + 1) for step in reversed(range(x.shape[2]))]
        return torch.cat([x, rows[4].unsqueeze(2)], 2)


def test_a_size_beside_that_of_a_loop_stays_free():
    model, x = Padded(), torch.randn(2, 3, 6, 8)
    graph = captured(model, (x,))
    other = torch.randn(3, 3, 6, 11)
    torch.testing.assert_close(graph(other), model(other))
    assert any(note.startswith("a loop cannot be of any number of steps") for note in graph.meta["capture_notes"])


def test_ranges_of_numbers_are_what_they_were():
    class Ranges(nn.Module):
        def forward(self, x):
            assert isinstance(range(3), range) and range(2) == range(2) and not isinstance(3, range)
            return x.sum(1) + sum(range(4))

    x = torch.randn(3, 6, WIDTH)
    torch.testing.assert_close(captured(Ranges(), (x,))(x), x.sum(1) + 6)


def test_a_small_mamba_is_one_file_of_any_length(tmp_path):
    transformers = framework("transformers")
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4, use_cache=False)
    model = transformers.MambaForCausalLM(config).eval()
    data = [{"input_ids": torch.randint(32, (4, length))} for length in (12, 16)]
    compiled = fxcompress.compile(model, data=data)
    assert len(loops_of(compiled.graph)) == 1
    file = compiled.to_onnx(tmp_path / "m.onnx", verify="strict")
    for sizes in ((1, 20), (3, 7)):
        ids = torch.randint(32, sizes)
        expected = compiled(input_ids=ids).logits
        for found in in_both(file, [ids.numpy()]):
            torch.testing.assert_close(torch.from_numpy(found[0]), expected, atol=1e-3, rtol=1e-2)
