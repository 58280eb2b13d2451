"""The table of networks trained by distillation alone: what training makes good, and when a bar is judged."""

import json

import pytest

from benchmarks import distilled
from benchmarks.scoreboard import MET, MISSED


def leave(folder, stack, seed, agreement):
    path = folder / "net" / f"seed{seed}"
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{stack}.json").write_text(json.dumps({"agreement": agreement, "SQNR": 20.0, "images": 8}))


def won(folder):
    return next(one for one in distilled.section("net", folder).figures if one.quantity == "made good")


@pytest.mark.parametrize(("distance", "verdict"), [(6.0, MET), (4.0, MISSED)])
def test_training_is_judged_by_what_it_makes_good_on_three_seeds(tmp_path, distance, verdict):
    for seed, after in enumerate((90.0, 80.0, 85.0)):
        leave(tmp_path, "int8_after", seed, after)
        leave(tmp_path, "int8", seed, after + distance * (100 - after) / 10)
        assert won(tmp_path).value == pytest.approx(10 * distance)
        assert won(tmp_path).verdict == (verdict if seed == 2 else None)


def test_what_has_nothing_beside_it_is_only_told(tmp_path):
    leave(tmp_path, "w4a8", 0, 70.0)
    assert {one.quantity for one in distilled.section("net", tmp_path).figures} == {"agreement", "SQNR"}
