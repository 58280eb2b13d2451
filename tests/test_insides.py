"""What others change inside a model after it was compressed, and its graph does not see, is told."""

import copy
import warnings

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress.errors import InputError, TrainingWarning

X = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.drop, self.fc, self.unused = nn.Dropout(0.5), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.drop(self.body(x).mean((2, 3))))


class Adapted(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.down = base, nn.Linear(base.in_features, base.out_features)

    def forward(self, x):
        return self.base(x) + self.down(x)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Network().eval()
    fxcompress.compress(model, [], data=[X])
    return model


def wrapped(model):
    model.fc = Adapted(model.fc)


def with_another_head(model):
    model.fc = nn.Linear(4, 7)


def synchronized(model):
    nn.SyncBatchNorm.convert_sync_batchnorm(model)


@pytest.mark.parametrize(("change", "path"), [(wrapped, "fc"), (with_another_head, "fc"), (synchronized, "body.1")])
def test_a_module_that_was_replaced_is_named(model, change, path):
    change(model)
    with pytest.raises(InputError, match=f"'{path}' of Network is another module now .*change the model first"):
        model(X)


def test_a_module_that_was_replaced_is_named_where_the_model_is_written(tmp_path):
    model = Network().eval()
    compression = fxcompress.compress(model, [], data=[X])
    with_another_head(model)
    with pytest.raises(InputError, match="'fc' of Network is another module now"):
        compression.to_onnx(tmp_path / "model.onnx")


def drops_less(model):
    model.drop.p = 0.1


def drops_nothing(model):
    model.train().drop.eval()


def hooked(model):
    model.body[0].register_forward_hook(print)


def with_another_forward(model):
    model.fc.forward = lambda x: x


@pytest.mark.parametrize("change", [drops_less, drops_nothing, hooked, with_another_forward])
def test_what_the_graph_does_not_see_is_told_once(model, change):
    change(model)
    with pytest.warns(TrainingWarning, match="since Network was compressed, .*which its graph does not see") as told:
        model(X)
        model(X)
    assert len(told) == 1


def test_what_it_sees_and_what_it_has_nothing_of_is_nothing_to_tell(model):
    model.unused = nn.Identity()
    model.unused.register_forward_hook(print)
    model.register_forward_hook(lambda *call: None)
    model.fc = nn.Linear(4, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(model(X), model.fc(model.body(X).mean((2, 3))))
        model.train().body[1].eval()
        model.body[1].momentum = 0.5
        model(X)


def test_a_layer_that_is_called_beside_the_graph_is_told_once():
    """As by methods that return features: they go from layer to layer without the quantizers that stand between."""
    model = Network().eval()
    fxcompress.compress(model, data=[X])
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        copy.deepcopy(model)(X), model(X), model.train()(X), model.unused(torch.randn(1, 4))
        fxcompress.compile(model, [], example_inputs=X)(X)
    with pytest.warns(TrainingWarning, match=r"'body\.0' of Network was called by something else .*submodules="):
        model.body(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        model.body(X)
