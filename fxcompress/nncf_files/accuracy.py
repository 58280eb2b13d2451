"""Accuracy-aware training in NNCF's files: kept for the training loop, once it is checked."""

from __future__ import annotations

from fxcompress.nncf_files.section import Section

EARLY_EXIT, ADAPTIVE = "early_exit", "adaptive_compression_level"
DROPS = ("maximal_relative_accuracy_degradation", "maximal_absolute_accuracy_degradation")
DEFAULTS = {
    "initial_training_phase_epochs": 5,
    "initial_compression_rate_step": 0.1,
    "compression_rate_step_reduction_factor": 0.5,
    "lr_reduction_factor": 0.5,
    "minimal_compression_rate_step": 0.025,
    "patience_epochs": 3,
    "maximal_total_epochs": 10000,
}


def check_accuracy_aware(root: Section) -> None:
    """Check the section, and note what runs it.

    Raises:
        ConfigError: a key is unknown or missing, or of a wrong type.
    """
    section = root.section("accuracy_aware_training")
    if section is None:
        return
    mode = section.text("mode", of=(EARLY_EXIT, ADAPTIVE))
    params = section.section("params")
    if mode is None and params is not None and "mode" in params:
        params.fail("mode", "it belongs beside 'params', not into it")
    if mode is None or params is None:
        section.document.fail(section.key, "it needs the keys 'mode' and 'params'")
    section.done()
    drops = [name for name in DROPS if params.number(name) is not None]
    names = ["maximal_total_epochs"] if mode == EARLY_EXIT else list(DEFAULTS)
    given = [name for name in names if params.number(name) is not None]
    params.done()
    if len(drops) != 1:
        params.document.fail(params.key, f"it needs {DROPS[0]} or {DROPS[1]}, and not both")
    for name in ["maximal_total_epochs"] if mode == EARLY_EXIT else ["initial_training_phase_epochs", "patience_epochs"]:
        if name not in given:
            params.document.fail(params.key, f"{mode} needs {name}")
    function = "early_exit" if mode == EARLY_EXIT else "adaptive_level"
    root.note(
        "accuracy_aware_training",
        f"kept in config.extra for the training loop: fxcompress.training.{function}, or "
        "fxcompress.compat.nncf.create_accuracy_aware_training_loop",
    )
