"""What stands around the forward of a compressed instance, hooks and classes of the user's, stands there once, as before."""

import copy

import onnxruntime
import pytest
import torch
from torch import fx, nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import CaptureError, ScopeError, TrainingWarning

QUANTIZED = [passes.Quantize(), passes.Calibrate()]
X = torch.linspace(-1, 1, 32).reshape(8, 4)


class Layer(nn.Module):
    """A layer whose class may have a `__call__` of its own, and registers those derived from it, which have to have a name."""

    register: list = []

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def __init_subclass__(cls, *, name):
        cls.register.append(name)

    def forward(self, x):
        return self.linear(x).relu()


class Doubled(Layer, name="doubled"):
    def __call__(self, x):
        return super().__call__(x) * 2


def doubled_by_a_hook(layer):
    layer.register_forward_hook(lambda module, args, output: output * 2)
    return layer


def fed_by_a_hook(layer):
    layer.register_forward_pre_hook(lambda module, args: (args[0] * 30,))
    return layer


SURROUNDED = {
    "hook": lambda: doubled_by_a_hook(Layer()),
    "hook before": lambda: fed_by_a_hook(Layer()),
    "call": Doubled,
}


@pytest.mark.parametrize("part", [False, True], ids=["the model", "a part"])
@pytest.mark.parametrize("kind", SURROUNDED)
def test_what_surrounds_a_forward_is_run_once_and_is_in_the_file(tmp_path, kind, part):
    torch.manual_seed(0)
    layer, x = SURROUNDED[kind](), torch.randn(8, 4)
    model = nn.Sequential(nn.Linear(4, 4), layer) if part else layer
    expected = copy.deepcopy(model)(x)
    compression = fxcompress.compress(model, QUANTIZED, data=[x], submodules=["1"] if part else None)
    found = model(x)
    assert (found - expected).abs().max() < expected.abs().max() / 50
    compression.to_onnx(tmp_path / "model.onnx", verify="strict")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (written,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.tensor(written), found, atol=1e-4)


def test_hooks_that_look_go_on_looking():
    model, seen = Layer(), []
    model.register_forward_hook(lambda module, args, output: seen.append(output))
    fxcompress.compress(model, QUANTIZED, data=[torch.randn(8, 4)])
    seen.clear()
    output = model(torch.randn(8, 4))
    assert len(seen) == 1 and seen[0] is output


def test_no_class_of_the_users_is_derived_from():
    Layer.register.clear()
    fxcompress.compress(Layer(), QUANTIZED, data=[torch.randn(8, 4)])
    assert Layer.register == []


def test_a_shallow_copy_has_the_same_tensors():
    model, x = Layer(), torch.randn(8, 4)
    fxcompress.compress(model, QUANTIZED, data=[x])
    twin = copy.copy(model)
    assert twin.linear is model.linear and torch.equal(twin(x), model(x))


def test_a_model_with_parametrized_layers_is_written(tmp_path):
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU())
    compression = fxcompress.compress(model, data=[torch.randn(8, 4)])
    assert compression.to_onnx(tmp_path / "model.onnx").exists()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_trace_by_torchscript_computes_the_same():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(2, 3, 8, 8)
    fxcompress.compress(model, data=[x])
    traced = torch.jit.trace(model.eval(), x, check_trace=False)
    other = torch.randn(2, 3, 8, 8)
    assert torch.equal(traced(other), model(other))


def adapted_by_a_hook(model, adapter):
    model[1].register_forward_hook(lambda module, args, output: output + adapter(output))


def adapted_by_a_forward(model, adapter):
    own = model[1].forward
    model[1].forward = lambda x: own(x) + adapter(x)


class Adapted(nn.Module):
    """A layer beside an adapter that its own forward does not call."""

    def __init__(self, adapt):
        super().__init__()
        self.layers, self.adapter = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 4)
        adapt(self.layers, self.adapter)

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("adapt", [adapted_by_a_hook, adapted_by_a_forward])
def test_parameters_that_closures_reach_are_trained(adapt):
    torch.manual_seed(0)
    model, x = Adapted(adapt), torch.randn(8, 4)
    expected = model(x)
    fxcompress.compress(model, QUANTIZED, data=[x])
    model.train()(x).sum().backward()
    assert all(one.grad is not None for one in model.parameters())
    assert (model.eval()(x) - expected).abs().max() < expected.abs().max() / 50


class Listed(nn.Module):
    """Layers in a list, another one by its side, and a layer that a module holds as well."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.layers, self.all = [nn.Linear(4, 4)], [self.first]
        self.frozen = {"scale": nn.Parameter(torch.ones(4), requires_grad=False)}

    def forward(self, x):
        return self.layers[0](self.all[0](x)) * self.frozen["scale"]


def test_parameters_that_no_module_holds_are_told_before_anybody_trains():
    with pytest.warns(TrainingWarning, match="the parameters in 'layers' are constants of the graph.*nn.ModuleList"):
        fxcompress.compress(Listed(), QUANTIZED, data=[X])


def test_a_model_with_layers_that_torch_compiles_is_written_and_left_whole(tmp_path):
    torch.manual_seed(0)
    model, x = nn.Sequential(torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), backend="eager"), nn.Linear(4, 2)), X
    compression = fxcompress.compress(model, QUANTIZED, data=[x])
    expected, parameters = model(x), set(dict(model.named_parameters()))
    (found,) = onnxruntime.InferenceSession(compression.to_onnx(tmp_path / "model.onnx")).run(None, {"input_1": x.numpy()})
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)
    assert set(dict(model.named_parameters())) == parameters and torch.equal(model(x), expected)


def test_rows_of_a_table_with_sparse_gradients_are_trained():
    gradients = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model, rows = nn.Sequential(nn.Embedding(8, 4, sparse=sparse), nn.Linear(4, 2)), torch.arange(6)
        fxcompress.compress(model, fxcompress.defaults.training(), data=[rows])
        model.train()(rows).square().sum().backward()
        gradients.append(model[0].weight.grad.to_dense())
    assert torch.equal(*gradients) and gradients[0].any()


class Detector(nn.Module):
    """A backbone that torch.fx made, as torchvision's and timm's extractors of features are, and a head."""

    def __init__(self):
        super().__init__()
        self.backbone = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.backbone(x))


@pytest.mark.parametrize("hooked", [False, True])
def test_graph_modules_are_copied_and_written_compressed(tmp_path, hooked):
    torch.manual_seed(0)
    model = Detector()
    if hooked:
        model.backbone.register_forward_hook(lambda module, args, output: output * 2)
    compression = fxcompress.compress(model, QUANTIZED, data=[X], submodules=["backbone", "head"])
    expected = model(X)
    assert torch.equal(copy.deepcopy(model)(X), expected) and torch.equal(copy.copy(model.backbone)(X), model.backbone(X))
    (found,) = onnxruntime.InferenceSession(compression.to_onnx(tmp_path / "model.onnx")).run(None, {"x": X.numpy()})
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)
    trained = copy.deepcopy(model).train()
    trained(X).sum().backward()
    assert trained.backbone.get_parameter("0.weight").grad is not None and model.backbone.get_parameter("0.weight").grad is None


class Stopped(Detector):
    def forward(self, x):
        return super().forward(x) * float(x.flatten()[0].item() > 0 or len(str(x.sum().item())))


def test_a_second_name_of_a_submodule_is_told_to_be_one():
    model = Detector()
    model.alias = model.head
    with pytest.raises(ScopeError, match="'alias' is 'head' by another name"):
        fxcompress.compress(model, QUANTIZED, data=[X], submodules=["backbone", "alias"])


def test_what_stops_a_trace_is_told_and_no_quantizer_is(tmp_path):
    torch.manual_seed(0)
    model = Stopped()
    compression = fxcompress.compress(model, fxcompress.defaults.training(), data=[X], submodules=["backbone", "head"])
    with pytest.raises(CaptureError) as told:
        compression.to_onnx(tmp_path / "model.onnx", forward=lambda model, x: model(x), example_inputs=X)
    assert "zero_point" not in str(told.value) and "cannot be traced" in str(told.value)
