"""Sets of channels, and the choice of the axis that loses indices where several are merged."""

import torch
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.channels.clusters import Cluster
from fxcompress.channels.elements import Elements
from fxcompress.channels.products import Product, Products
from fxcompress.masks.mask import Mask


def test_a_joined_set_is_pinned_and_carries_where_either_part_did():
    for left_first in (True, False):
        sets = Elements()
        free, pinned, carrying, other = sets.fresh(4)
        sets.pin([pinned], "it is an output")
        sets.carry([carrying])
        sets.join(*(([free], [pinned]) if left_first else ([pinned], [free])))
        assert sets.reason(free) == "it is an output" and not sets.carries([free])
        sets.join(*(([other], [carrying]) if left_first else ([carrying], [other])))
        assert sets.carries([other]) and sets.carries([carrying]) and sets.is_free(other)


def test_a_set_joined_with_itself_stays_one():
    sets = Elements()
    a, b = sets.fresh(2)
    sets.join([a, a, b], [b, a, a])
    assert sets.find(a) == sets.find(b) and sets.is_free(a)


def test_products_are_settled_one_by_one_where_each_has_a_choice():
    """Those with a choice share an axis: what is chosen for the first settles the others."""
    sets = Elements()
    shared, rows, columns = sets.fresh(2), sets.fresh(3), sets.fresh(3)
    first, second = sets.fresh(6), sets.fresh(6)
    products = Products(sets)
    products.pending = [Product(first, (shared, rows), (2, 3), "first"), Product(second, (shared, columns), (2, 3), "second")]
    products.resolve()
    assert not products.pending
    for whole, other in ((first, rows), (second, columns)):
        parts = [one for one in (shared, other) if all(map(sets.is_free, one))]
        assert len(parts) == 1 and sets.carries(parts[0])  # one part of each loses indices, the other stays whole
        assert {sets.find(one) for one in whole} == {sets.find(one) for one in parts[0]}


def test_an_axis_whose_other_part_is_pinned_is_the_one():
    sets = Elements()
    rows, columns, whole = sets.fresh(2), sets.fresh(3), sets.fresh(6)
    sets.pin(columns, "they are outputs")
    products = Products(sets, [Product(whole, (rows, columns), (2, 3), "a view")])
    products.resolve()
    assert sets.carries(rows) and not sets.carries(columns)
    assert [sets.find(one) == sets.find(rows[0]) for one in whole] == [True] * 3 + [False] * 3


def test_a_product_with_a_choice_waits_for_one_without_and_is_settled_then():
    sets = Elements()
    rows, columns, whole = sets.fresh(2), sets.fresh(3), sets.fresh(6)
    left, right, other = sets.fresh(2), sets.fresh(2), sets.fresh(4)
    sets.pin(right, "they are outputs")
    open_one, forced = Product(whole, (rows, columns), (2, 3), "a view"), Product(other, (left, right), (2, 2), "another")
    products = Products(sets, [open_one, forced])
    products.resolve()
    assert sets.carries(left) and sets.carries(rows) != sets.carries(columns)
    assert sum(all(map(sets.is_free, part)) for part in (rows, columns)) == 1


def test_an_element_is_as_wide_as_the_filters_that_go_with_it():
    """Over all layers, on average: a layer behind a flattening has several for each channel of the one in front."""
    one, four = [[0], [1], [2]], [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert Cluster([7, 8, 9], {"first": one}).width() == 1
    assert Cluster([7, 8, 9], {"first": one, "second": four}).width() == 5
    assert Cluster([7, 8, 9], {"second": four, "third": [[0], [1, 2], [3]]}).width() == 5  # 16 of 3, rounded
    assert Cluster([7, 8, 9], {"second": [[], [], []]}).width() == 1
    assert Cluster([7, 8, 9], {"second": four}).step(8) == 2 and Cluster([7, 8, 9], {"first": one}).step(8) == 8


def test_clusters_of_several_sizes_count_by_their_filters():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 2))
    stack = [passes.PruneFilters(amount=0.5, multiple=1)]
    compiled = fxcompress.compile(model, stack, example_inputs=torch.randn(2, 3))
    for _, mask in compiled.named_modules():
        if isinstance(mask, Mask):
            mask.mask.copy_(torch.ones_like(mask.mask))
            if mask.mask.shape[0] == 4:
                mask.mask[1:] = 0
    assert compiled.controller["PruneFilters"].reached() == 3 / 16
