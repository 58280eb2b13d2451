"""What the benchmark of the heads of transformers makes of a row; needs no transformers."""

import torch

from benchmarks import family, heads
from benchmarks.head_options import OPTIONS


def row(**changed):
    whole = {"notes": [], "simulation": "inf", "OpenVINO": 130.0, "onnxruntime": 131.0}
    small = {"notes": [], "simulation": 12.0, "OpenVINO": 12.5, "onnxruntime": 40.0}
    return {"name": "Head", "kind": "text", "float": whole, "int8": small} | changed


def test_a_head_is_well_where_both_files_compute_what_they_are_to():
    assert family.well(row())
    assert not family.well(row(float={"notes": [], "OpenVINO": 59.0, "onnxruntime": 130.0}))
    assert not family.well(row(int8=row()["int8"] | {"OpenVINO": 11.0}))
    assert not family.well(row(int8=row()["int8"] | {"notes": ["the length is fixed to 16"]}))
    assert not family.well(row(int8=row()["int8"] | {"unexplained": ["OpenVINO"]}))
    assert not family.well(row(float={"parts": 3, "reason": "a loop"}))
    assert not family.well(row(problem="float: killed"))


def test_the_table_says_what_is_wrong():
    page = family.table([row(), row(name="Other", float={"parts": 3, "reason": "a | b"})], "a day")
    assert "a day. 1 of 2 well." in page
    assert "| Head | text | 130.0 | 131.0 | 12.0 | 12.5 | 40.0 |  |" in page
    assert "| ✗ Other | text |" in page and "in 3 parts: a \\| b |" in page


def test_calls_have_the_samples_and_lengths_that_are_asked_for():
    for kind in heads.INPUTS:
        for samples, length in family.SIZES:
            given = heads.INPUTS[kind](samples, length)
            assert all(value.shape[0] == samples for value in given.values())
    names = [name for some in heads.PLAIN.values() for name in some.split()]
    assert set(OPTIONS) <= {*names, *heads.CACHED.split()} and set(heads.CACHED.split()) <= set(names)


def test_equal_scores_among_which_a_head_chooses_are_told():
    for scores, equal in ((torch.zeros(2, 5), True), (torch.arange(5.0), False)):
        with family.Ties() as ties:
            scores.topk(3)
        assert ties.met is equal
    whole = row()["float"] | {"OpenVINO": -0.7, "ties": True}
    assert "| chooses among scores that are equal, each runtime others |" in family.table([row(float=whole)], "a day")


def test_matrices_that_start_as_zeros_are_awakened():
    model = torch.nn.Linear(3, 4)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    heads.awaken(model)
    assert len(model.weight.unique()) == 12 and not model.bias.any()


def test_outputs_that_are_the_same_for_all_samples_prove_nothing():
    assert family.tells_samples_apart([torch.zeros(4, 2), torch.arange(4.0)])
    assert not family.tells_samples_apart([torch.zeros(4, 2), torch.ones(4, 3), torch.tensor(2.0)])
    assert family.tells_samples_apart([torch.zeros(1, 8)])
    assert not family.tells_samples_apart([1 + 1e-6 * torch.arange(4.0)])


def test_files_are_tried_at_the_sizes_that_they_have():
    assert family._sizes([]) == list(family.SIZES)
    assert family._sizes(["input_ids: the length is fixed to 16"]) == [(1, 16), (3, 16)]
    assert family._sizes(["the batch size is fixed to that of the example inputs"]) == [family.DATA[0]]
