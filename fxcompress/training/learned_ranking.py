"""Learning how the filters of different layers compare, by evolution.

Chin et al., "Towards Efficient Model Compression via Learned Global Ranking", arXiv 1904.12368, algorithm 1; the evolution
is the regularized one of Real et al., arXiv 1802.01548, in which the oldest of a population dies.
"""

from __future__ import annotations

import copy
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from fxcompress.channels.clusters import CRITERIA, importance
from fxcompress.channels.selection import LearnedRanking, cluster_names
from fxcompress.errors import InputError
from fxcompress.options import check_arguments
from fxcompress.training.filters import FilterController
from fxcompress.training.models import Trainable
from fxcompress.training.quality import quality

Coefficients = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class RankingResult:
    """What `learn_ranking` found.

    Attributes:
        ranking: the best one, for ``PruneFilters(ranking=...)``.
        score: its score.
        scores: of every ranking that was tried, in order; that of the plain global ranking is the first.
    """

    ranking: LearnedRanking
    score: float
    scores: tuple[float, ...]


@check_arguments()
def learn_ranking(
    model: Trainable,
    tune_and_score: Callable[[Any], float],
    *,
    controller: str = "PruneFilters",
    generations: Annotated[int, Ge(1)] = 400,
    population: Annotated[int, Ge(1)] = 64,
    sampled: Annotated[int, Ge(1)] = 16,
    mutated: Annotated[float, Gt(0), Le(1)] = 0.1,
    sigma: Annotated[float, Gt(0)] = 1.0,
    seed: int = 0,
    progress: Callable[[str, int, int | None], None] = lambda description, done, total: None,
) -> RankingResult:
    """The ranking of filters over all clusters by which a pruned model scores best.

    A ranking is a scale and a shift for the importances of each cluster. The first `population` of them are the plain one
    and random ones, ``exp(N(0, sigma))`` and ``N(0, standard deviation of the importances)``; then each generation changes
    some of the best of a few, less and less, and the oldest of the population makes room for it.

    Args:
        model: compiled with ``PruneFilters(ranking="global")``; its target is the level that all are compared at. It is left
            as it is.
        tune_and_score: is given a copy of `model` with its filters masked, trains it for some 200 steps and returns its
            quality, larger is better, on data of your own.
        controller: the name of the pass's controller.
        generations: rankings that are tried, the first `population` included.
        population: rankings that are kept.
        sampled: of them, among which the best becomes the parent.
        mutated: the share of the clusters whose coefficients change.
        sigma: of the logarithm of the scales.
        seed: of the choices made here.
        progress: called as ``progress(description, done, total)``.

    Raises:
        InputError: an option is out of its range, the pass ranks each cluster by itself, or a score is not a number.
    """
    spreads = _spreads(_controller(model, controller))
    chance = random.Random(seed)
    alive: deque[tuple[float, Coefficients]] = deque(maxlen=population)  # the oldest falls out
    scores: list[float] = []
    best: tuple[float, Coefficients] = (-math.inf, {})
    for generation in range(generations):
        progress("learning a ranking", generation, generations)
        if generation == 0:
            tried: Coefficients = dict.fromkeys(spreads, (1.0, 0.0))
        elif generation < population:
            tried = {name: _random(chance, sigma, spread) for name, spread in spreads.items()}
        else:
            parent = max(chance.sample(list(alive), min(sampled, len(alive))), key=lambda one: one[0])[1]
            tried = _mutated(chance, parent, spreads, mutated, sigma, 1 - generation / (1.25 * generations))
        scores.append(_score(model, controller, tried, tune_and_score))
        alive.append((scores[-1], tried))
        best = max(best, alive[-1], key=lambda one: one[0])
    return RankingResult(LearnedRanking(best[1]), best[0], tuple(scores))


def _controller(model: Any, name: str) -> FilterController:
    found = model.controller[name]
    if not isinstance(found, FilterController) or found.selection.ranking == "uniform":
        raise InputError(f"{name!r} does not compare the filters of different clusters; use PruneFilters(ranking='global')")
    return found


def _spreads(controller: FilterController) -> dict[str, float]:
    """The standard deviation of the importances of each cluster."""
    criterion = CRITERIA[controller.selection.criterion]
    scores = [importance(controller.channels, cluster, criterion) for cluster in controller.clusters]
    return {name: float(score.std(correction=0)) for name, score in zip(cluster_names(controller.clusters), scores)}


def _random(chance: random.Random, sigma: float, spread: float) -> tuple[float, float]:
    return math.exp(chance.gauss(0, sigma)), chance.gauss(0, spread)


def _mutated(
    chance: random.Random, parent: Coefficients, spreads: dict[str, float], share: float, sigma: float, step: float
) -> Coefficients:
    """`parent` with the coefficients of a share of the clusters, at least one, moved by a random part of `step`."""
    child = dict(parent)
    for name in chance.sample(list(child), max(1, round(share * len(child)))):
        scale, shift = child[name]
        child[name] = scale * math.exp(chance.gauss(0, sigma * step)), shift + chance.gauss(0, spreads[name] * step)
    return child


def _score(model: Any, name: str, tried: Coefficients, tune_and_score: Callable[[Any], float]) -> float:
    trial = copy.deepcopy(model)
    controller = _controller(trial, name)
    controller.selection = replace(controller.selection, ranking=LearnedRanking(tried))
    controller.set_level(controller.scheduler.target)
    score = quality(tune_and_score, trial)
    if math.isnan(score):
        raise InputError("tune_and_score returned NaN; let it return a number, larger for a better model")
    return score
