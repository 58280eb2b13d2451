"""Masks in stacks: in front of quantizers, whatever the order of the passes, and removed with them where a file is written."""

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import recipes

import fxcompress
from fxcompress import passes
from fxcompress.channels import analyze
from fxcompress.channels.clusters import clusters
from fxcompress.channels.masking import element_masks, pin_what_is_not_masked
from fxcompress.channels.removal import Removal
from fxcompress.masks import Mask, insert_mask
from fxcompress.quantization.quantized import quantizer_calls, serves_weight
from fxcompress.verify import sqnr


def exactly(graph_module, x):
    """The outputs in double precision, in which no other order of a sum moves a value to another integer."""
    with torch.no_grad():
        return copy.deepcopy(graph_module).double()(x.double())


@settings(max_examples=10)
@given(recipe=recipes(regrouping=True), data=st.data())
def test_removed_from_a_quantized_graph_is_what_was_masked(recipe, data):
    x = recipe.inputs(3)
    graph_module = fxcompress.compile(recipe.build(), [passes.Quantize(), passes.Calibrate()], data=[x])
    channels = analyze(graph_module)
    chosen = {
        one
        for cluster in clusters(channels)
        for one in data.draw(st.lists(st.sampled_from(cluster.elements), unique=True, max_size=len(cluster.elements) - 1))
    }
    for constant, mask in element_masks(channels, chosen).items():
        insert_mask(graph_module, constant, Mask(mask), "test")
    graph_module.recompile()
    masked = exactly(graph_module, x)
    Removal(analyze(graph_module, pin_what_is_not_masked)).apply("test")
    graph_module.graph.lint()
    graph_module.recompile()
    assert sqnr(masked, exactly(graph_module, x)) >= 150
    for call, quantizer in quantizer_calls(graph_module).items():
        if serves_weight(call) and quantizer.scale.dim():
            assert len(quantizer.scale) == call.meta["val"].shape[quantizer.spec.channel_axis]
