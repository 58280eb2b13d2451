"""Compression inside a loop over Accelerate."""

import pytest
import torch
from frameworks import framework
from loops import classifier, loader, same, stack, state_of

import fxcompress
from fxcompress.errors import InputError

accelerate = framework("accelerate")


def run(folder, *, epochs=3, save_at=None, resume=None, **settings):
    """A loop as users write it; the state that it ends in, and the schedules."""
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(cpu=True, **settings)
    model = classifier()
    compression = fxcompress.compress(model, stack(), data=loader())
    callback = compression.callback("accelerate", accelerator=accelerator, add_loss=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    wrapped, optimizer, batches = accelerator.prepare(model, optimizer, loader())
    torch.manual_seed(2)
    skipped = 0
    if resume is not None:
        accelerator.load_state(folder / "state")
        skipped = resume % len(batches)
    passed = resume or 0
    for _ in range(callback.epoch, epochs):
        callback.on_epoch_begin()
        wrapped.train()
        for x, y in accelerator.skip_first_batches(batches, skipped) if skipped else batches:
            with accelerator.accumulate(wrapped):
                callback.on_step_begin()
                loss = torch.nn.functional.cross_entropy(wrapped(x), y) + compression.controller.loss()
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            passed += 1
            if passed == save_at and passed % len(batches):
                accelerator.save_state(folder / "state")
        callback.on_epoch_end()
        skipped = 0
        if passed == save_at:
            accelerator.save_state(folder / "state")
    return state_of(model), compression


@pytest.mark.parametrize("stop", [8, 12], ids=["in an epoch", "between epochs"])
def test_a_resumed_run_has_the_same_bits(tmp_path, stop):
    expected, compression = run(tmp_path, save_at=stop)
    resumed, again = run(tmp_path, resume=stop)
    assert again.controller.scheduler.state_dict() == compression.controller.scheduler.state_dict()
    assert compression.controller.scheduler.current_step == 17 and same(resumed, expected)


def test_a_step_of_several_passes_counts_once_in_mixed_precision_too(tmp_path):
    _, compression = run(tmp_path, gradient_accumulation_steps=2, mixed_precision="bf16")
    assert compression.controller.scheduler.current_step == 8


def test_the_loop_needs_an_accelerator():
    compression = fxcompress.compress(classifier(), fxcompress.defaults.training(), data=loader())
    with pytest.raises(InputError, match="accelerator=accelerator"):
        compression.callback("accelerate")
