"""Channels masked and removed in random networks of every operation on axes: the smaller model is the masked one."""

from hypothesis import given, settings
from hypothesis import strategies as st
from shape_networks import ROUNDING, agree, networks

from fxcompress.capture import capture
from fxcompress.channels import analyze
from fxcompress.channels.clusters import clusters
from fxcompress.channels.counting import count_all, count_channels
from fxcompress.channels.masking import element_masks, pin_what_is_not_masked
from fxcompress.channels.removal import Removal
from fxcompress.channels.selection import Selection
from fxcompress.data.inputs import ExampleInputs
from fxcompress.masks.mask import Mask, insert_mask


@settings(max_examples=25)
@given(network=networks(), amount=st.floats(0.1, 0.9), summed=st.booleans())
def test_what_is_removed_is_what_was_masked(network, amount, summed):
    """Any operations, any share of the filters: the same outputs, and those that depended on the input still do."""
    graph_module = capture(network.model, ExampleInputs((network.inputs(2),)))
    if summed:
        count_channels(graph_module, analyze(graph_module), "test")
    channels = analyze(graph_module)
    found = clusters(channels)
    chosen = Selection("l2", "uniform", 1).choose(channels, found, amount)
    x = network.inputs(3).double()
    whole = graph_module.double()(x)
    for constant, mask in element_masks(channels, {one for c in found for one in c.elements}, chosen).items():
        insert_mask(graph_module, constant, Mask(mask), "test")
    graph_module.double().recompile()
    masked = graph_module(x)
    graph_module.float()
    varied = ((whole - whole[:1]).abs() > ROUNDING).any(0)
    assert bool((masked != masked[:1]).any(0)[varied].all())
    Removal(analyze(graph_module, pin_what_is_not_masked)).apply("test")
    count_all(graph_module)
    graph_module.graph.lint()
    graph_module.double().recompile()
    assert agree(masked, graph_module(x), 120)  # what removal computes of computed weights is held in float32
