"""Compression inside the Trainer of Lightning."""

import pytest
import torch
from frameworks import framework
from loops import classifier, loader, same, stack, state_of

import fxcompress
from fxcompress import passes

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
