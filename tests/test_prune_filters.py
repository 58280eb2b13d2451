"""Filters masked and removed: the smaller model is the masked one, on random networks and on each kind of coupling."""

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import recipes
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.capture import capture
from fxcompress.channels import analyze
from fxcompress.channels.clusters import CRITERIA, clusters
from fxcompress.channels.masking import mask_elements, pin_what_is_not_masked
from fxcompress.channels.removal import Removal
from fxcompress.cost import cost
from fxcompress.errors import InputError, ScopeError
from fxcompress.inputs import ExampleInputs
from fxcompress.masks import Mask
from fxcompress.verify import sqnr


def run_onnx(compiled, tmp_path, x):
    session = onnxruntime.InferenceSession(compiled.to_onnx(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def filters(graph_module):
    """How many filters each layer has."""
    return {layer.node.name: len(layer.filters) for layer in analyze(graph_module).layers}


@settings(max_examples=25)
@given(recipe=recipes(regrouping=True), data=st.data())
def test_what_is_removed_is_what_was_masked(recipe, data):
    """Any choice of channels: the same outputs at any batch, and exactly these filters fewer."""
    graph_module = capture(recipe.build(), ExampleInputs((recipe.inputs(2),)))
    channels = analyze(graph_module)
    before = filters(graph_module), cost(graph_module)
    found = clusters(channels)
    chosen = {
        one
        for cluster in found
        for one in data.draw(st.lists(st.sampled_from(cluster.elements), unique=True, max_size=len(cluster.elements) - 1))
    }
    mask_elements(channels, chosen, "test")
    graph_module.recompile()
    x = recipe.inputs(3)
    masked = graph_module(x)
    gone = {layer.node.name: sum(channels.elements.find(one) in chosen for one in layer.filters) for layer in channels.layers}
    Removal(analyze(graph_module, pin_what_is_not_masked)).apply("test")
    graph_module.graph.lint()
    graph_module.recompile()
    assert sqnr(masked, graph_module(x)) >= 100
    assert filters(graph_module) == {name: count - gone[name] for name, count in before[0].items()}
    assert (cost(graph_module).parameters < before[1].parameters) == bool(chosen)
    for node in graph_module.graph.nodes:
        if isinstance(node.meta.get("val"), torch.Tensor) and node.op == "call_function":
            assert isinstance(node.meta["val"].shape[0], torch.SymInt) or not node.all_input_nodes, node
