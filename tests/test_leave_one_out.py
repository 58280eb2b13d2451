"""What the benchmark chooses for a network; measures nothing."""

from benchmarks.leave_one_out import DEFAULT, left_out


def _row(default, other):
    return {name: {"SQNR": value, "same class": 50.0} for name, value in ((DEFAULT, default), ("other", other))}


def test_a_network_has_no_say_in_what_is_chosen_for_it():
    """Only "a" gains from the other option, so much that the mean of all would choose it; "a" is told what the rest choose."""
    scores = {"a": _row(10.0, 30.0), "b": _row(10.0, 9.0), "c": _row(10.0, 9.0)}
    found = {figure.subject: (figure.quantity, figure.value) for figure in left_out({"kind": ["other"]}, scores).figures[::2]}
    assert found == {
        f"a, kind: {DEFAULT}": ("chosen", 10.0),
        "b, kind: other": ("chosen", 9.0),
        "c, kind: other": ("chosen", 9.0),
    }


def test_one_network_alone_is_told_nothing():
    assert not left_out({"kind": ["other"]}, {"a": _row(1.0, 2.0)}).figures
