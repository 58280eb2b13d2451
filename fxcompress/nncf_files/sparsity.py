"""Sparsity and filter pruning in NNCF's files."""

from __future__ import annotations

from fxcompress.driver.interface import Pass
from fxcompress.nncf_files.section import Scopes, Section
from fxcompress.passes import LearnSparsity, PruneFilters, Sparsify
from fxcompress.training.levels import Adaptive, Baseline, Exponential, ExponentialWithBias, MultiStep, Polynomial, Schedule

SCHEDULES = ("polynomial", "exponential", "adaptive", "multistep")
PRUNING_SCHEDULES = ("exponential", "exponential_with_bias", "baseline")
OF_SCHEDULE = {
    "power": ("polynomial",),
    "concave": ("polynomial",),
    "update_per_optimizer_step": ("polynomial",),
    "sparsity_target": ("polynomial", "exponential", "adaptive"),
    "sparsity_target_epoch": ("polynomial", "exponential"),
    "patience": ("adaptive",),
    "multistep_steps": ("multistep",),
    "multistep_sparsity_levels": ("multistep",),
}
"""The schedules that keys are of; others do not look at them."""

BY_HAND = "NNCF adapted batch norms only where a level was set by hand; list AdaptBatchNorm, or call adapt_batch_norm"


def magnitude_sparsity(section: Section, scopes: Scopes) -> list[Pass]:
    _batch_norm(section)
    initial = section.number("sparsity_init")
    params = section.section("params") or section.inner("params", {})
    criteria = {"normed_abs": "normalized", "abs": "magnitude"}
    criterion = criteria[params.text("weight_importance", "normed_abs", of=tuple(criteria)) or ""]
    schedule, target = _schedule(params, initial, "polynomial")
    params.ignore("sparsity_freeze_epoch", "masks stay as they are while the level does")
    local = _is_local(params)
    params.done()
    return [
        Sparsify(
            level=target, criterion=criterion, ranking="local" if local else "global", schedule=schedule, **scopes.options()
        )
    ]


def rb_sparsity(section: Section, scopes: Scopes, multiplier: float) -> list[Pass]:
    initial = section.number("sparsity_init")
    params = section.section("params") or section.inner("params", {})
    schedule, target = _schedule(params, initial, "exponential")
    freeze = params.whole("sparsity_freeze_epoch", 100)
    if _is_local(params):
        params.note("sparsity_level_setting_mode", "ignored: the share of zeros is asked of all layers together")
    params.done()
    rate = section.number("compression_lr_multiplier", multiplier)
    assert rate is not None
    return [
        LearnSparsity(level=target, schedule=schedule, freeze_epoch=freeze, learning_rate_multiplier=rate, **scopes.options())
    ]


def const_sparsity(section: Section, scopes: Scopes) -> list[Pass]:
    return [Sparsify(level=0.0, **scopes.options())]


def _schedule(params: Section, initial: float | None, default: str) -> tuple[Schedule | None, float]:
    """The schedule, None where the level is there from the start, and the level that it leads to."""
    if "sparsity_init" in params:
        params.note("sparsity_init", "read as that of the algorithm, where NNCF 2 has it")
        initial = params.number("sparsity_init")
    start = 0.0 if initial is None else initial
    kind = params.text("schedule", default, of=SCHEDULES)
    target, epochs = params.number("sparsity_target", 0.5), params.whole("sparsity_target_epoch", 90)
    power, concave = params.number("power", 0.9), params.flag("concave", True)
    patience = params.whole("patience", 1)
    steps = [int(step) for step in sorted(params.numbers("multistep_steps", [90]))]
    levels = params.numbers("multistep_sparsity_levels", [0.1, 0.5])
    often = _steps(params, kind)
    for name, kinds in OF_SCHEDULE.items():
        if kind not in kinds:
            params.ignore(name, f"it is of the schedule {' or '.join(kinds)}")
    assert target is not None and epochs is not None and power is not None and patience is not None
    if kind == "multistep":
        if len(levels) != len(steps) + 1:
            params.fail(
                "multistep_sparsity_levels", f"there is one more than multistep_steps, not {len(levels)} and {len(steps)}"
            )
        return MultiStep(initial=min(start, *levels), levels=tuple(levels[:-1]), epochs=tuple(steps)), levels[-1]
    if kind == "adaptive":
        return Adaptive(initial=start, patience=patience), target
    if epochs == 0:
        return None, target
    if kind == "exponential":
        return Exponential(initial=start, epochs=epochs), target
    return Polynomial(initial=start, epochs=epochs, power=power, concave=concave, steps_per_epoch=often), target


def _steps(params: Section, kind: str | None) -> int | None:
    """The steps of an epoch, where the level changes with each of them."""
    per_step, steps = params.flag("update_per_optimizer_step", False), params.whole("steps_per_epoch")
    if per_step and steps is None and kind == "polynomial":
        params.note("update_per_optimizer_step", "ignored, since steps_per_epoch is not given: the level changes by epochs")
    if per_step and kind == "polynomial":
        return steps
    params.ignore("steps_per_epoch", "it is of update_per_optimizer_step, with the schedule polynomial")
    return None


def _is_local(params: Section) -> bool:
    return params.text("sparsity_level_setting_mode", "global", of=("global", "local")) == "local"


def _batch_norm(section: Section) -> None:
    initializer = section.section("initializer")
    if initializer is None:
        return
    adaptation = initializer.section("batchnorm_adaptation")
    if adaptation is not None:
        adaptation.whole("num_bn_adaptation_samples")
        adaptation.ignore("num_bn_forget_samples", "NNCF 2 has it no more")
        adaptation.done()
        initializer.note("batchnorm_adaptation", f"ignored: {BY_HAND}")
    initializer.done()


def filter_pruning(section: Section, scopes: Scopes) -> list[Pass]:
    _batch_norm(section)
    params = section.section("params") or section.inner("params", {})
    initial = section.number("pruning_init")
    if "pruning_init" in params:
        params.note("pruning_init", "read as that of the algorithm, where NNCF 2 has it")
        initial = params.number("pruning_init")
    criteria = {"L2": "l2", "L1": "l1", "geometric_median": "geometric_median"}
    if "weight_importance" in params:
        params.note("weight_importance", "read as filter_importance, as NNCF 2 calls it")
    named = "weight_importance" if "weight_importance" in params else "filter_importance"
    params.known.add("filter_importance")
    criterion = criteria[params.text(named, "L2", of=tuple(criteria)) or ""]
    target, flops = params.number("pruning_target", 0.5), params.number("pruning_flops_target")
    if flops is not None and "pruning_target" in params:
        params.fail("pruning_target", "a file gives pruning_target or pruning_flops_target, not both")
    learned = params.text("interlayer_ranking_type", "unweighted_ranking", of=("unweighted_ranking", "learned_ranking"))
    everywhere = params.flag("all_weights", False)
    first, downsampling = params.flag("prune_first_conv", False), params.flag("prune_downsample_convs", False)
    if learned == "learned_ranking":
        everywhere = first = downsampling = True
        params.note(
            "interlayer_ranking_type",
            "a ranking is learned in training: fxcompress.training.learn_ranking, then config.given(ranking=found.ranking); "
            "until then filters are ranked by their importance",
        )
    _legr(params)
    if not params.flag("prune_batch_norms", True):
        params.note("prune_batch_norms", "ignored: the channels of norms go with the filters that they follow")
    params.ignore("prune_last_conv", "NNCF 2 has it no more; filters of the last layers are outputs, and stay")
    params.ignore("zero_grad", "NNCF 2 has it no more")
    schedule = _pruning_schedule(params, 0.0 if initial is None else initial)
    params.done()
    share = {"amount": target} if flops is None else {"flops": flops}
    return [
        PruneFilters(
            **share,
            criterion=criterion,
            ranking="global" if everywhere else "uniform",
            first=first,
            downsampling=downsampling,
            schedule=schedule,
            **scopes.options(),
        )
    ]


def _legr(params: Section) -> None:
    legr = params.section("legr_params")
    if legr is not None:
        for name in ("generations", "train_steps", "random_seed", "population_size", "num_samples"):
            legr.whole(name)
        for name in ("max_pruning", "mutate_percent", "scale_sigma"):
            legr.number(name)
        legr.done()
        params.note("legr_params", "ignored: arguments of fxcompress.training.learn_ranking")
    for name in ("save_ranking_coeffs_path", "load_ranking_coeffs_path"):
        if params.text(name) is not None:
            params.note(name, "ignored: save config.passes with the ranking, config.dump(path), and load that")


def _pruning_schedule(params: Section, initial: float) -> Schedule:
    kind = params.text("schedule", "exponential", of=PRUNING_SCHEDULES)
    steps, warmup = params.whole("pruning_steps", 100), params.whole("num_init_steps", 0)
    assert steps is not None and warmup is not None
    if kind == "baseline":
        params.ignore("pruning_steps", "the schedule baseline prunes all at once, after num_init_steps")
        return Baseline(initial=initial, warmup=warmup)
    epochs = max(steps - 1, 1)  # the target is reached in the last of them
    ramp = Exponential if kind == "exponential" else ExponentialWithBias
    return ramp(initial=initial, epochs=epochs, warmup=warmup)
