"""Loops over the parts of a tensor, of which a free size says how many there are."""

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.ir.scan_ops import SCAN

WIDTH = 4


def captured(model, x):
    return capture(model.eval(), ExampleInputs((x,)), dynamic_shapes="auto")


def loops_of(graph):
    return graph.find_nodes(op="call_function", target=SCAN)


class Apart(nn.Module):
    """Tensors that are taken apart in every way, and two of them side by side."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(WIDTH, WIDTH)

    def forward(self, x):
        state, first, third = x[:, 0] * 0, [], []
        for step in x.unbind(1):
            state = self.cell(step, state)
            first.append(state)
        state = state * 0
        for before, after in zip(torch.stack(first, 1).unbind(1), x.split(1, dim=1)):
            state = state * 0.5 + before * after.squeeze(1)
        for number, step in enumerate(x.transpose(0, 1)):
            third.append(step * state + x[:, number])
        return torch.stack(third, 1), state


def test_a_loop_over_parts_is_one_operation_of_any_number_of_steps_and_samples(tmp_path):
    torch.manual_seed(0)
    model = Apart().eval()
    compiled = fxcompress.compile(model, [], example_inputs=torch.randn(3, 6, WIDTH), dynamic_shapes="auto")
    assert len(loops_of(compiled.graph)) == 3
    compiled.to_onnx(tmp_path / "m.onnx", verify="strict")
    for sizes in (3, 6), (1, 9), (2, 2):
        x = torch.randn(*sizes, WIDTH)
        torch.testing.assert_close(compiled(x), model(x))


class Listed(nn.Module):
    """Parts that are put together again as they are, some of samples, as features of pictures are, some of steps."""

    def forward(self, x):
        samples, steps = list(x + 1), [*(x * 2).unbind(1)]
        return torch.cat(samples, 0), torch.stack(steps, 0), torch.cat(x.split(1, 1), 1), torch.stack(x.unbind(1), -1)


def test_parts_that_are_put_together_are_the_tensor():
    model = Listed()
    graph = captured(model, torch.randn(3, 6, WIDTH))
    assert not loops_of(graph.graph) and not graph.meta["capture_notes"]
    for sizes in (2, 9), (1, 1):
        other = torch.randn(*sizes, WIDTH)
        torch.testing.assert_close(graph(other), model(other))


class Numbered(nn.Module):
    """Tables of positions that are made of lists of numbers."""

    def forward(self, x):
        length = x.shape[1]
        back, ahead = torch.tensor(list(range(length))[::-1]), torch.tensor([step for step in range(1, length)], dtype=x.dtype)  # noqa: C416
        known = torch.tensor([0, 1])
        return x * back[:, None] + known.sum(), torch.as_tensor(range(length)) * 2, ahead


def test_numbers_of_steps_in_a_tensor_are_of_any_number_of_steps():
    model = Numbered()
    graph = captured(model, torch.randn(3, 6, WIDTH))
    assert not graph.meta["capture_notes"]
    other = torch.randn(2, 9, WIDTH)
    torch.testing.assert_close(graph(other), model(other))


class Named(nn.Module):
    """As many parts as have a name, beside a loop over others."""

    def forward(self, x):
        left, right = x.unbind(2)
        state = left[:, 0] * right[:, 0]
        for step in range(x.shape[1]):
            state = torch.tanh(state + left[:, step])
        return state


class Chosen(nn.Module):
    """Not all of the parts."""

    def forward(self, x):
        return torch.stack([part for number, part in enumerate(x.unbind(1)) if number < 2], 1)


class Indexed(nn.Module):
    """Parts and how many there are."""

    def forward(self, x):
        parts = x.unbind(1)
        return parts[-1] * len(parts)


class Blocks(nn.Module):
    """Parts, and numbers of steps, in calls that look at each."""

    def forward(self, x):
        return torch.hstack(x.unbind(1)), torch.tensor([2 * step for step in range(x.shape[1])])


class Unlike(nn.Module):
    """Fewer of one than of the other."""

    def forward(self, x):
        return sum(one * other for one, other in zip(x.unbind(1), x[:, 1:].unbind(1)))


@pytest.mark.parametrize("kind", [Named, Chosen, Indexed, Blocks, Unlike])
def test_parts_that_are_used_otherwise_are_those_of_the_example(kind):
    model, x = kind(), torch.randn(3, 6, 2)
    graph = captured(model, x)
    torch.testing.assert_close(graph(x), model(x))
    other = torch.randn(2, 6, 2)
    torch.testing.assert_close(graph(other), model(other))


def test_a_loop_beside_parts_with_names_is_of_any_number_of_steps():
    model = Named()
    graph = captured(model, torch.randn(3, 6, 2))
    other = torch.randn(2, 9, 2)
    torch.testing.assert_close(graph(other), model(other))
