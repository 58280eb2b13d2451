"""Compression inside the Trainer of Lightning."""

import pytest
import torch
from frameworks import framework
from loops import classifier, loader, same, stack, state_of

import fxcompress
from fxcompress import passes
from fxcompress.errors import InputError, TrainingWarning
from fxcompress.training import Polynomial

lightning = framework("lightning")


class Module(lightning.LightningModule):
    """As users write them: a network, a step, an optimizer."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def training_step(self, batch, index):
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def compressed(some_stack=None):
    net = classifier()
    compression = fxcompress.compress(net, some_stack or stack(), data=loader())
    torch.manual_seed(1)
    return Module(net), compression


def trainer(folder, *callbacks, **settings):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lightning.Trainer(default_root_dir=folder, callbacks=list(callbacks), **quiet | {"max_epochs": 3} | settings)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stop", [12, 15], ids=["between epochs", "in an epoch"])
def test_a_resumed_run_goes_on(tmp_path, stop):
    module, compression = compressed()
    saving = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    torch.manual_seed(2)
    whole = trainer(tmp_path, compression.callback("lightning"), saving)
    whole.fit(module, loader())
    levels = compression.controller.scheduler.state_dict()
    assert (levels["current_epoch"], levels["current_step"]) == (2, 17)
    assert "training_step" not in vars(module) and whole.callback_metrics["compression_loss"] > 0

    module, compression = compressed()
    trainer(tmp_path, compression.callback("lightning")).fit(module, loader(), ckpt_path=tmp_path / f"step={stop}.ckpt")
    resumed = compression.controller.scheduler.state_dict()
    assert resumed["current_epoch"] == 2 and resumed["children"]["Sparsify"]["level"] == levels["children"]["Sparsify"]["level"]


@pytest.mark.filterwarnings("ignore")
def test_mixed_precision_averaged_weights_and_accumulation(tmp_path):
    module, compression = compressed([passes.Sparsify(level=0.5), *fxcompress.defaults.training(), passes.Distill()])
    before = state_of(module.net)
    averaging = lightning.pytorch.callbacks.StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)
    settings = {"precision": "bf16-mixed", "accumulate_grad_batches": 2, "max_epochs": 3}
    trainer(tmp_path, compression.callback("lightning"), averaging, **settings).fit(module, loader())
    after = state_of(module.net)
    assert not torch.equal(before["body.1.running_mean"], after["body.1.running_mean"])
    assert compression.controller.scheduler.current_step in (8, 9)  # Lightning averages statistics in a pass of its own
    masks = [name for name in after if name.endswith(".mask")]
    assert masks and all(torch.equal(before[name], after[name]) for name in masks)
    assert same(state_of(module.net), after) and compression.to_onnx(tmp_path / "model.onnx").exists()


class Adversaries(lightning.LightningModule):
    """Two networks that are compressed each for itself, with an optimizer each."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.maker, self.critic = classifier(), classifier()

    def training_step(self, batch, index):
        for net, optimizer in zip((self.maker, self.critic), self.optimizers()):
            optimizer.zero_grad()
            self.manual_backward(torch.nn.functional.cross_entropy(net(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(net.parameters(), lr=0.05) for net in (self.maker, self.critic)]


def callbacks_of(module, levels=(0.5, 0.25), *more):
    """Of the two networks of `module`, compressed to these levels, and their compressions."""
    ramps = [passes.Sparsify(level=level, schedule=Polynomial(epochs=2)) for level in levels]
    compressions = [fxcompress.compress(net, [ramp, *more], data=loader()) for net, ramp in zip(module.children(), ramps)]
    return [one.callback("lightning") for one in compressions], compressions


@pytest.mark.filterwarnings("ignore")
def test_several_networks_keep_a_schedule_each(tmp_path):
    module = Adversaries()
    callbacks, _ = callbacks_of(module)
    trainer(tmp_path, *callbacks, max_epochs=2).fit(module, loader())
    (file,) = (tmp_path / "checkpoints").glob("*.ckpt")
    module = Adversaries()
    callbacks, compressions = callbacks_of(module)
    trainer(tmp_path, *reversed(callbacks), max_epochs=3).fit(module, loader(), ckpt_path=file)
    assert [one.controller["Sparsify"].level for one in compressions] == [0.5, 0.25]
    assert [one.controller.scheduler.current_epoch for one in compressions] == [2, 2]


@pytest.mark.filterwarnings("ignore:.*dataloader|.*interrupted")
def test_a_loss_that_manual_optimization_leaves_out_is_told(tmp_path):
    module = Adversaries()
    callbacks, _ = callbacks_of(module, (0.5, 0.25), passes.Distill())
    with pytest.warns(TrainingWarning, match="Adversaries optimizes by itself.*add_loss=False"):
        trainer(tmp_path, *callbacks, fast_dev_run=1).fit(module, loader())


@pytest.mark.filterwarnings("ignore")
def test_the_losses_of_several_are_added_and_nothing_of_it_stays(tmp_path):
    class Together(Adversaries):
        automatic_optimization = True

        def training_step(self, batch, index):
            return torch.nn.functional.cross_entropy(self.maker(batch[0]) + self.critic(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    module = Together()
    callbacks, _ = callbacks_of(module, (0.5, 0.25), passes.Distill())
    whole = trainer(tmp_path, *callbacks, fast_dev_run=1)
    whole.fit(module, loader())
    assert whole.callback_metrics["compression_loss"] == sum(one.loss.last for one in callbacks) > 0
    assert "training_step" not in vars(module)


@pytest.mark.filterwarnings("ignore")
def test_an_average_of_masks_is_refused(tmp_path):
    module, compression = compressed()
    averaging = lightning.pytorch.callbacks.EMAWeightAveraging()
    with pytest.raises(InputError, match=r"masks.*EMAWeightAveraging\(use_buffers=False"):
        trainer(tmp_path, compression.callback("lightning"), averaging, max_epochs=1).fit(module, loader())
    averaging = lightning.pytorch.callbacks.EMAWeightAveraging(use_buffers=False)
    trainer(tmp_path, compression.callback("lightning"), averaging, max_epochs=3).fit(module, loader())
    sparsity = compression.controller["Sparsify"]
    assert sparsity.reached() == pytest.approx(sparsity.level, abs=0.02) and sparsity.level > 0.4
