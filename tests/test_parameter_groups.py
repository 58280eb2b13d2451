"""What compression trains is not decayed, and recipes of other people find what they look for."""

import pytest
import torch
from loops import classifier, images, loader
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import InputError


def compressed(**settings):
    model = classifier()
    stack = [passes.LearnSparsity(level=0.5), *fxcompress.defaults.training()]
    return model, fxcompress.compress(model, stack, data=loader(), **settings)


def names(model, groups):
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{known[id(parameter)] for parameter in group["params"]} for group in groups]


def test_ranges_and_masks_have_a_group_without_decay():
    model, _ = compressed()
    groups = fxcompress.parameter_groups(model, lr=0.1, weight_decay=0.05, multiplier=0.5)
    weights, ranges = names(model, groups)
    assert weights == {"body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias", "head.weight", "head.bias"}
    assert weights | ranges == {name for name, _ in model.named_parameters()}
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.1, 0.05), (0.05, 0.0)]
    torch.optim.AdamW(groups)


def test_with_no_gradient_decay_leaves_ranges_where_they_are():
    model, _ = compressed()
    optimizer = torch.optim.SGD(fxcompress.parameter_groups(model, lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert "head.weight" in moved and not any("quantizer" in name or "mask" in name for name in moved)


def test_the_groups_of_a_recipe_are_split_and_what_it_does_not_know_comes_behind():
    model, _ = compressed()
    recipe = [
        {"params": [model.head.weight, *model.head_weight_quantizer.parameters()], "lr": 1.0, "weight_decay": 0.3},
        {"params": [model.head.bias], "weight_decay": 0.0},
    ]
    groups = fxcompress.parameter_groups(model, recipe, lr=0.1)
    found = names(model, groups)
    assert found[0] == {"head.weight"} and found[1] == {"head_weight_quantizer.input_extent"}
    assert [group["lr"] for group in groups] == [1.0, 1.0, 0.1, 0.1]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0, 0.0, 0.0]
    assert "body_0_weight_quantizer.input_extent" in found[3] and "body.0.weight" not in found[3]


def test_parameters_keep_the_names_that_an_optimizer_knows_them_by():
    model, _ = compressed()
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    given = [parameter for name, parameter in model.named_parameters() if "body_0" not in name]
    recipe = [{"params": given, "param_names": [known[id(parameter)] for parameter in given]}]
    groups = fxcompress.parameter_groups(model, recipe, lr=0.1)
    assert {name for group in groups for name in group["param_names"]} == set(known.values())
    for group in torch.optim.AdamW(groups).param_groups:
        assert group["param_names"] == [known[id(parameter)] for parameter in group["params"]]


@pytest.mark.parametrize("options", [{"multiplier": 2.0}, {"multiplier": -1.0, "lr": 0.1}])
def test_what_cannot_be_multiplied_is_told(options):
    model, _ = compressed()
    with pytest.raises(InputError, match="multipl"):
        fxcompress.parameter_groups(model, **options)


def test_recipes_that_look_at_classes_find_the_norms():
    """As torchvision's `split_normalization_params` and the Trainer of Transformers look for them."""
    model, _ = compressed()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.weight is model.body[1].weight for norm in norms] == [True]
    x = torch.stack([image for image, _ in images(4)])
    model.train()(x).sum().backward()
    assert norms[0].weight.grad is not None
