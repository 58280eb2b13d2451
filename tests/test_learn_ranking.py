"""A ranking of filters over layers that is learned by trying."""

import math
import random
import statistics

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.channels.selection import LearnedRanking
from fxcompress.errors import InputError
from fxcompress.ir.cost import cost
from fxcompress.training import learn_ranking
from fxcompress.training.learned_ranking import _random

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def pruned(ranking="global", **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 4, 1)).eval()
    options = {"multiple": 1, "amount": 0.4, **options}
    return fxcompress.compile(model, [passes.PruneFilters(ranking=ranking, **options)], example_inputs=X)


def kept(compiled, layer):
    return int(compiled.get_submodule(f"_{layer}_weight_mask").mask.flatten(1).any(1).sum())


def test_the_ranking_that_scores_best_is_found_and_can_be_compiled_with():
    model = pruned()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = learn_ranking(model, lambda trial: kept(trial, 0), generations=40, population=8, sampled=4, mutated=0.5)
    assert len(result.scores) == 40 and result.scores[0] == kept(model, 0)
    assert result.score == max(result.scores) > result.scores[0] + 3
    again = pruned(ranking=result.ranking)
    assert kept(again, 0) == result.score and kept(again, 0) + kept(again, 2) == kept(model, 0) + kept(model, 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_rankings_are_compared_at_the_target_in_multiply_adds():
    shares = []

    def score(trial):
        shares.append(trial.controller["PruneFilters"].reached())
        return -shares[-1]

    result = learn_ranking(pruned(amount=None, flops=0.5), score, generations=6, population=3)
    assert all(0.5 <= share < 0.6 for share in shares) and len(set(shares)) > 1
    assert result.score == -min(shares)


def test_the_same_seed_tries_the_same_and_no_two_generations_are_alike():
    tried = []

    def score(trial):
        tried[-1].append(str(trial.controller["PruneFilters"].selection.ranking))
        return len(tried[-1])

    for seed in (1, 1, 2):
        tried.append([])
        learn_ranking(pruned(), score, generations=12, population=4, seed=seed)
    assert tried[0] == tried[1] != tried[2]
    assert len(set(tried[0])) == 12


def test_a_ranking_scales_and_shifts_the_importances():
    torch.manual_seed(0)
    first = pruned(ranking=LearnedRanking({"_0": (1.0, 100.0)}))
    assert kept(first, 0) == 16 and kept(first, 2) == 24 - round(0.4 * 40)
    other = pruned(ranking=LearnedRanking({"_0": (0.0, -1.0)}))
    assert kept(other, 0) == 1  # all of them come first, and one must stay
    assert cost(other).parameters == cost(first).parameters  # nothing is removed yet


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generations": 0}, "generations of 1 or more"),
        ({"population": 0}, "population of 1 or more"),
        ({"sampled": 0}, "sampled of 1 or more"),
        ({"mutated": 0.0}, "mutated above 0"),
        ({"sigma": float("inf")}, "sigma above 0"),
        ({"controller": "PruneFilter"}, "did you mean 'PruneFilters'"),
        ({"generations": 1, "tune_and_score": lambda trial: float("nan")}, "returned NaN"),
        ({"generations": 1, "tune_and_score": lambda trial: None}, "returned None; let it return a number"),
    ],
)
def test_unusable_options(options, message):
    given = {"tune_and_score": lambda trial: 0.0, **options}
    with pytest.raises(InputError, match=message):
        learn_ranking(pruned(), **given)


def test_unusable_rankings():
    with pytest.raises(InputError, match="does not compare the filters of different clusters"):
        learn_ranking(pruned(ranking="uniform"), lambda trial: 0.0)
    with pytest.raises(InputError, match=r"cluster '_1' that there is not \(did you mean '_"):
        pruned(ranking=LearnedRanking({"_1": (1.0, 0.0)}))
    with pytest.raises(InputError, match="or that is a LearnedRanking"):
        pruned(ranking={"_0": (1.0, 0.0)})


def test_what_is_tried_at_random_lies_around_what_is_there():
    """A factor about 1, on the scale of its logarithm, and a summand about 0, as far apart as is asked."""
    chance = random.Random(0)
    factors, summands = zip(*(_random(chance, 0.5, 3.0) for _ in range(4000)))
    for found, deviation in ((list(map(math.log, factors)), 0.5), (summands, 3.0)):
        assert statistics.fmean(found) == pytest.approx(0, abs=deviation / 10)
        assert statistics.stdev(found) == pytest.approx(deviation, rel=0.1)
