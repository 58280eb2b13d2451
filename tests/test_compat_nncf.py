"""NNCF 2's training scripts with one import changed."""

import copy
import importlib
import sys

import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

import fxcompress
import fxcompress.compat.nncf as nncf
from fxcompress import Config
from fxcompress.compat.nncf.places import PLACES
from fxcompress.compat.nncf.torch.checkpoint_loading import load_state
from fxcompress.compat.nncf.torch.dynamic_graph.graph_tracer import create_input_infos
from fxcompress.compat.nncf.torch.initialization import PTInitializingDataLoader, register_default_init_args
from fxcompress.compat.nncf.torch.nncf_network import NNCFNetwork
from fxcompress.compat.nncf.torch.structures import ExecutionParameters
from fxcompress.errors import CheckpointError, ConfigError, InputError
from fxcompress.quantizers.quantizer import Quantizer


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.relu, self.last, self.fc = nn.ReLU(inplace=True), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(self.relu(self.last(self.relu(self.norm(self.first(x))))).mean((2, 3)))


def loader():
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(8, 3, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator)) for _ in range(3)]


PRUNED = {"pruning_target": 0.5, "pruning_steps": 3, "prune_first_conv": True}
FILE = {
    "model": "net",
    "input_info": {"sample_size": [1, 3, 8, 8]},
    "compression": [
        {
            "algorithm": "filter_pruning",
            "pruning_init": 0.25,
            "params": {"pruning_target": 0.5, "pruning_steps": 3, "prune_first_conv": True},
        },
        {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 8}}},
        {"algorithm": "knowledge_distillation", "type": "softmax"},
    ],
}
CRITERION = nn.CrossEntropyLoss()


def create(file=None, state=None):
    torch.manual_seed(0)
    config = nncf.NNCFConfig.from_dict(FILE if file is None else file)
    config = register_default_init_args(
        config, loader(), criterion=CRITERION, execution_parameters=ExecutionParameters(True, None)
    )
    return nncf.create_compressed_model(Net(), config, state)


def train(controller, model, epochs=2, optimizer=None):
    """A loop as NNCF's samples have it."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        controller.scheduler.epoch_step()
        model.train()
        for x, y in loader():
            controller.scheduler.step()
            loss = nncf.default_criterion_fn(model(x), y, CRITERION) + controller.loss()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return optimizer


def test_a_loop_is_ours_to_the_last_bit():
    controller, model = create()
    train(controller, model)
    torch.manual_seed(0)
    config = nncf.NNCFConfig.from_dict(FILE).as_config()
    ours = fxcompress.compile(Net(), config=config, data=loader())
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        ours.controller.scheduler.epoch_step()
        ours.train()
        for x, y in loader():
            ours.controller.scheduler.step()
            (CRITERION(ours(x), y) + ours.controller.loss()).backward()
            optimizer.step()
            optimizer.zero_grad()
    expected = ours.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_a_run_that_is_resumed_goes_on_as_if_it_had_not_stopped(tmp_path):
    controller, model = create()
    optimizer = train(controller, model, 1)
    saved = {
        "state_dict": model.state_dict(),
        "compression_state": controller.get_compression_state(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(saved, tmp_path / "last.pth")
    train(controller, model, 2, optimizer)
    saved = torch.load(tmp_path / "last.pth", weights_only=True)
    again, resumed = create(state=saved["compression_state"])
    assert load_state(resumed, saved["state_dict"], is_resume=True) == len(saved["state_dict"])
    optimizer = torch.optim.SGD(resumed.parameters(), lr=0.05, momentum=0.9)
    optimizer.load_state_dict(saved["optimizer"])
    train(again, resumed, 2, optimizer)
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())
    assert again.scheduler.current_epoch == controller.scheduler.current_epoch == 2


def test_what_is_ignored_is_logged(caplog):
    create({**FILE, "compression": {"algorithm": "quantization", "quantize_outputs": True}})
    assert "compression.quantize_outputs: ignored: outputs are what" in caplog.text


def test_bits_that_were_chosen_come_back_without_data_or_loss():
    precision = {"type": "hawq", "bits": [4, 8], "compression_ratio": 1.5, "num_data_points": 8}
    file = {**FILE, "compression": {"algorithm": "quantization", "initializer": {"precision": precision}}}
    controller, model = create(file)
    bits = lambda of: {name: one.spec.bits for name, one in of.named_modules() if isinstance(one, Quantizer)}  # noqa: E731
    assert {4, 8} <= set(bits(model).values())
    saved = {"model": model.state_dict(), "compression": controller.get_compression_state()}
    again, resumed = nncf.create_compressed_model(Net(), nncf.NNCFConfig.from_dict(file), saved["compression"])
    load_state(resumed, saved["model"], is_resume=True)
    x = loader()[0][0]
    assert bits(resumed) == bits(model) and torch.equal(resumed.eval()(x), model.eval()(x))
    assert type(again) is nncf.QuantizationController


def test_the_controller_has_nncfs_names(tmp_path):
    controller, model = create()
    assert controller.compression_stage() is nncf.CompressionStage.PARTIALLY_COMPRESSED
    assert controller.compression_rate == pytest.approx(0.25) and controller.maximal_compression_rate > 0.5
    statistics = controller.statistics()
    assert "Filters" in statistics.to_str() and statistics.numbers == {"PruneFilters/level": pytest.approx(0.25)}
    assert controller.statistics(quickly_collected_only=True).numbers == statistics.numbers
    controller.compression_rate = 0.5
    assert controller.compression_rate == 0.5
    controller.distributed(), controller.prepare_for_export()
    controller.export_model(tmp_path / "net.onnx", input_names=["image"])
    assert (tmp_path / "net.onnx").stat().st_size > 0
    x = loader()[0][0]
    stripped = controller.strip()
    assert not any("Quantizer" in type(one).__name__ for one in stripped.modules())
    assert torch.allclose(stripped(x), model.eval()(x), atol=2e-2)
    assert [info.shape[1:] for info in model.nncf.input_infos] == [[3, 8, 8]]


def test_a_stripped_model_is_exported_by_torch_and_by_openvino(tmp_path):
    """As the sample scripts export: weights have 7 bits here, which torch's exporter does not know."""
    from fxcompress.compat.nncf.torch.exporter import count_tensors, generate_input_names_list, get_export_args

    controller, model = create({**FILE, "compression": FILE["compression"][1]})
    stripped, args = controller.strip().eval().cpu(), get_export_args(model, device="cpu")
    names, shapes = (
        generate_input_names_list(count_tensors(args)),
        [[1, *one.shape[1:]] for one in model.nncf.input_infos.elements],
    )
    assert names == ["input.0"] and shapes == [[1, 3, 8, 8]] and args[0].shape == (1, 3, 8, 8) and args[1] == {}
    x = loader()[0][0][:1]
    expected = stripped(x)
    torch.onnx.export(stripped, (x,), tmp_path / "net.onnx", input_names=names, verbose=False)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    (found,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"input.0": x.numpy()})
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-2)
    converted = openvino.convert_model(stripped, example_input=x, input=tuple(shapes))
    compiled = openvino.Core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert torch.allclose(torch.from_numpy(compiled(x.numpy())[0]), expected, atol=1e-2)


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
@pytest.mark.parametrize("mode", ["symmetric", "asymmetric"])
def test_stripped_quantizers_have_the_levels_of_their_grids(bits, mode):
    weights = {"bits": bits, "mode": mode, "per_channel": True}
    file = {
        **FILE,
        "target_device": "TRIAL",
        "compression": {"algorithm": "quantization", "weights": weights, "activations": weights},
    }
    controller, model = create(file)
    stripped = controller.strip()
    x = torch.linspace(-4, 4, 4001)
    for name, quantizer in model.named_modules():
        if isinstance(quantizer, Quantizer):
            per_channel = quantizer.scale.dim() > 0 and quantizer.scale.numel() > 1
            value = x.expand(quantizer.scale.numel(), -1) if per_channel else x
            ours, theirs = quantizer.eval()(value), stripped.get_submodule(name)(value)
            away = (ours - theirs).abs() / quantizer.scale.detach().reshape(-1, *[1] * (value.dim() - 1))
            assert away.max() <= 1.001 and (away > 0.5).float().mean() < 0.01  # ties, where a quotient is rounded otherwise
            assert torch.allclose(ours.amin(-1), theirs.amin(-1))
            assert torch.allclose(ours.amax(-1), theirs.amax(-1))


class Detector(nn.Module):
    """What it returns in inference depends on the data, outside of NNCF's trace, as in detectors."""

    def __init__(self):
        super().__init__()
        self.base = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1))

    def forward(self, x):
        from fxcompress.compat.nncf.torch.dynamic_graph.context import no_nncf_trace

        scores = self.head(self.base(x)).mean((2, 3))
        if self.training:
            return scores
        with no_nncf_trace():
            return scores[scores > float(scores.mean())]


def test_what_cannot_be_traced_as_a_whole_is_compressed_in_parts(tmp_path):
    pruned = {"algorithm": "filter_pruning", "pruning_init": 0.25, "params": {**PRUNED, "pruning_steps": 2}}
    file = {**FILE, "compression": [pruned, {"algorithm": "quantization"}]}
    torch.manual_seed(0)
    original, config = Detector(), register_default_init_args(nncf.NNCFConfig.from_dict(file), loader())
    controller, model = nncf.create_compressed_model(copy.deepcopy(original), config)
    assert controller.compression_rate == pytest.approx(0.25) and len(controller.compression.compiled.parts) == 2
    train(controller, model, 2)
    assert controller.compression_rate == pytest.approx(0.5)
    controller.compression_rate = 0.75
    assert {round(level, 2) for level in controller.statistics().numbers.values()} == {0.75}
    again, resumed = nncf.create_compressed_model(original, nncf.NNCFConfig.from_dict(file), controller.get_compression_state())
    assert load_state(resumed, model.state_dict(), is_resume=True) == len(model.state_dict())
    x = loader()[0][0]
    assert torch.equal(resumed.eval()(x), model.eval()(x)) and again.scheduler.current_epoch == 1
    assert controller.strip()(x).dim() == 1
    controller.export_model(tmp_path / "parts")
    assert len(list((tmp_path / "parts").glob("*.onnx"))) == 2
    controller.export_model(tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").stat().st_size > 0


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.classifier = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = self.conv(x).relu()
        return (x, self.classifier(x).mean((2, 3))) if self.training else x


class Auxiliary(nn.Module):
    """Returns more in training, and so does a part of it."""

    def __init__(self):
        super().__init__()
        self.base, self.gate = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()), Gate()
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(16, 4)

    def forward(self, x):
        x = self.base(x)
        if not self.training:
            return self.fc(self.gate(x).mean((2, 3)))
        x, extra = self.gate(x)
        return self.fc(self.drop(x.mean((2, 3)))), extra


@pytest.mark.parametrize("ignored", [[], ["Auxiliary/mean_0"], ["Auxiliary/Gate[gate]/relu_0"], ["{re}mean"]])
def test_what_returns_more_in_training_is_compressed_in_parts(ignored):
    torch.manual_seed(0)
    file = {**FILE, "compression": {**FILE["compression"][1], "ignored_scopes": ignored}}
    config = register_default_init_args(nncf.NNCFConfig.from_dict(file), loader())
    controller, model = nncf.create_compressed_model(Auxiliary(), config)
    assert (
        sorted(controller.compression.compiled.parts) == ["base", "fc", "gate.conv"]
        and type(controller) is nncf.QuantizationController
    )
    x, y = loader()[0]
    output, extra = model.train()(x)
    (CRITERION(output, y) + CRITERION(extra, y)).backward()
    assert all(one.grad is not None for one in model.parameters() if one.requires_grad)
    assert model.eval()(x).shape == controller.strip()(x).shape == (8, 4)


def test_stages_have_an_order():
    stages = nncf.CompressionStage
    assert stages.UNCOMPRESSED < stages.PARTIALLY_COMPRESSED < stages.FULLY_COMPRESSED
    assert max(stages.UNCOMPRESSED, stages.FULLY_COMPRESSED) is stages.FULLY_COMPRESSED
    assert stages.UNCOMPRESSED <= stages.UNCOMPRESSED and not stages.FULLY_COMPRESSED < stages.UNCOMPRESSED


@pytest.mark.parametrize(
    ("mode", "params"),
    [
        ("early_exit", {"maximal_absolute_accuracy_degradation": 5.0, "maximal_total_epochs": 3}),
        (
            "adaptive_compression_level",
            {
                "maximal_relative_accuracy_degradation": 50.0,
                "initial_training_phase_epochs": 1,
                "patience_epochs": 1,
                "maximal_total_epochs": 3,
            },
        ),
    ],
)
def test_accuracy_aware_training(mode, params):
    file = {**FILE, "compression": FILE["compression"][:1], "accuracy_aware_training": {"mode": mode, "params": params}}
    config = nncf.NNCFConfig.from_dict(file)
    assert nncf.is_accuracy_aware_training(file) and not nncf.is_accuracy_aware_training(FILE)
    controller, model = create(file)
    seen = []

    def train_epoch(ctrl, one, epoch, optimizer, lr_scheduler):
        assert ctrl is controller and one is model
        seen.append(epoch)
        for x, y in loader():
            ctrl.scheduler.step()
            one.train()
            CRITERION(one(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    def configure():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 10)

    def validate(one, epoch):
        assert one is model and not torch.is_grad_enabled()
        return 38.0

    loop = nncf.create_accuracy_aware_training_loop(config, controller, 40.0)
    with pytest.raises(InputError, match="has not run"):
        _ = loop.statistics
    result = loop.run(
        model,
        train_epoch_fn=train_epoch,
        validate_fn=validate,
        configure_optimizers_fn=configure,
        tensorboard_writer=None,
        log_dir=None,
    )
    assert result is model and seen == list(range(len(seen))) and seen
    statistics = loop.statistics
    assert statistics.absolute_accuracy_degradation == 2.0 and statistics.relative_accuracy_degradation == 5.0
    assert statistics.accuracy_budget >= 0 and "38.0000" in statistics.to_str()


def test_hawq_gets_its_loss_and_comes_back_from_a_state():
    precision = {"type": "hawq", "bits": [4, 8], "num_data_points": 8}
    file = {**FILE, "compression": {"algorithm": "quantization", "initializer": {"precision": precision}}}
    controller, model = create(file)
    assert isinstance(controller, nncf.QuantizationController)
    _, resumed = create(file, controller.get_compression_state())
    load_state(resumed, model.state_dict(), is_resume=True)
    x = loader()[0][0]
    assert torch.equal(resumed.eval()(x), model.eval()(x))


def test_without_compression_there_is_nothing_to_do():
    controller, model = create({"input_info": FILE["input_info"], "model": "net"})
    x = loader()[0][0]
    torch.manual_seed(0)
    assert torch.allclose(model.eval()(x), Net().eval()(x), atol=1e-5)
    assert controller.compression_rate == 0.0 and controller.loss() == 0


def test_a_model_for_export_needs_no_data():
    controller, model = create()
    config = nncf.NNCFConfig.from_dict(FILE)
    _, exported = nncf.create_compressed_model(Net(), config, controller.get_compression_state())
    load_state(exported, {f"module.{name}": value for name, value in model.state_dict().items()}, is_resume=True)
    x = loader()[0][0]
    assert torch.equal(exported.eval()(x), model.eval()(x))


def test_states_of_other_models_are_refused_or_loaded_in_part():
    _, model = create()
    plain = Net()
    assert load_state(model, plain.state_dict()) == len(plain.state_dict())
    assert torch.equal(model.get_parameter("fc.weight"), plain.fc.weight)
    with pytest.raises(CheckpointError, match="another model"):
        load_state(model, plain.state_dict(), is_resume=True)
    with pytest.raises(CheckpointError, match="no compression state"):
        create(state={"a": 1})


def test_configurations_are_dicts_with_structures(tmp_path):
    (tmp_path / "old.json").write_text('{"input_info": {"sample_size": [1, 3, 8, 8]}, // a comment\n "model": "net"}')
    config = nncf.NNCFConfig.from_json(tmp_path / "old.json")
    assert config["model"] == "net" and config.get("compression") is None and isinstance(config, dict)
    config.register_extra_structs([ExecutionParameters(True, None)])
    assert config.has_extra_struct(ExecutionParameters) and config.get_extra_struct(ExecutionParameters).cpu_only
    with pytest.raises(InputError, match="registered already"):
        config.register_extra_structs([ExecutionParameters(False, None)])
    with pytest.raises(ConfigError, match="AutoQ is not here"):
        nncf.NNCFConfig.from_dict(
            {"compression": {"algorithm": "quantization", "initializer": {"precision": {"type": "autoq"}}}}
        )
    copy.deepcopy(dict(config))


def test_loaders_may_read_their_own_batches():
    class Named(PTInitializingDataLoader):
        def get_inputs(self, batch):
            return (batch["image"],), {}

    batches = [{"image": x, "label": y} for x, y in loader()]
    config = register_default_init_args(nncf.NNCFConfig.from_dict(FILE), Named(batches))
    controller, model = nncf.create_compressed_model(Net(), config)
    assert controller.model is model


def test_a_loader_may_be_its_own_iterator_and_networks_have_a_class():
    class Images(PTInitializingDataLoader):
        def __iter__(self):
            self.rest = iter(self._data_loader)
            return self

        def __next__(self):
            return next(self.rest)["image"]

        def get_inputs(self, image):
            return (image,), {}

    from fxcompress.compat.nncf.torch.dynamic_graph import io_handling

    def forward(model):
        args, kwargs = io_handling.wrap_nncf_model_inputs_with_objwalk((batches[0]["image"],), {})
        return io_handling.wrap_nncf_model_outputs_with_objwalk(model(*args, **kwargs))

    batches = [{"image": x} for x, _ in loader()]
    config = register_default_init_args(nncf.NNCFConfig.from_dict(FILE), Images(batches))
    _, model = nncf.create_compressed_model(Net(), config, dummy_forward_fn=forward)
    assert isinstance(model, NNCFNetwork) and not isinstance(Net(), NNCFNetwork)
    assert forward(model).shape == model(batches[0]["image"]).shape


def test_fillers_are_what_the_file_describes():
    given = [{"sample_size": [2, 3], "type": "long", "keyword": "ids", "filler": "zeros"}, {"sample_size": [1, 4]}]
    info = nncf.FillerInputInfo.from_nncf_config({"input_info": given})
    args, kwargs = info.get_forward_inputs()
    assert info.elements[0].shape == [2, 3] and info.elements[0].is_integer_input()
    assert kwargs["ids"].dtype == torch.int64 and not kwargs["ids"].any() and bool((args[0] == 1).all())
    assert create_input_infos({"input_info": given}) == info.elements
    with pytest.raises(InputError, match="input_info"):
        nncf.FillerInputInfo.from_nncf_config({})


@pytest.mark.parametrize("place", PLACES)
def test_every_place_has_its_names(place):
    module = importlib.import_module(f"fxcompress.compat.nncf.{place}")
    for names in PLACES[place].values():
        for name in names.split():
            assert getattr(module, name) is not None


def test_the_package_stands_in_the_place_of_nncf(monkeypatch):
    for name in [one for one in sys.modules if one == "nncf" or one.startswith("nncf.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nncf", nncf)
    nncf.install()
    scope = {}
    exec(
        "from nncf import NNCFConfig\nfrom nncf.api.compression import CompressionStage\n"
        "from nncf.torch import create_compressed_model\nfrom nncf.config.utils import is_accuracy_aware_training\n"
        "import nncf.config.schemata.defaults as defaults\n",
        scope,
    )
    assert scope["NNCFConfig"] is nncf.NNCFConfig and scope["CompressionStage"] is nncf.CompressionStage
    assert scope["defaults"].QUANTIZATION_BITS == 8
    for name in [one for one in sys.modules if one.startswith("nncf.")]:
        del sys.modules[name]


def test_the_same_file_is_the_same_configuration(tmp_path):
    assert nncf.NNCFConfig.from_dict(FILE).as_config().passes == Config.parse(__import__("json").dumps(FILE), ".json").passes


class Scaled(nn.Module):
    classes = 4

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x, scale=None):
        return self.last(self.first(x) * scale) if scale is not None else self.last(self.first(x))

    def predict(self, x, scale):
        return self(x, scale=scale).argmax(-1)


class Dicts(PTInitializingDataLoader):
    def get_inputs(self, batch):
        return (batch["x"],), {"scale": batch["scale"]}

    def get_target(self, batch):
        return batch["y"]


def scaled(initializer):
    file = {"compression": {"algorithm": "quantization", "initializer": initializer}}
    batches = [{"x": torch.rand(8, 8), "scale": torch.rand(8, 8), "y": torch.randint(4, (8,))} for _ in range(2)]
    config = register_default_init_args(nncf.NNCFConfig.from_dict(file), Dicts(batches), criterion=CRITERION)
    return nncf.create_compressed_model(Scaled(), config)[1], batches[0]


def test_a_compressed_model_keeps_its_class_attributes_and_methods():
    original, config = Net(), register_default_init_args(nncf.NNCFConfig.from_dict(FILE), loader())
    original.tag, original.last.training = "mine", False
    _, model = nncf.create_compressed_model(original, config)
    assert isinstance(model, Net) and model.tag == "mine" and isinstance(model.last, nn.Conv2d)
    assert model.training and not model.last.training
    assert original.forward.__func__ is Net.forward and not isinstance(original, NNCFNetwork)
    model, batch = scaled({})
    assert model.classes == 4 and model.predict(batch["x"], batch["scale"]).shape == (8,)


def test_a_loader_may_give_inputs_by_position_and_by_name_also_where_bits_are_chosen():
    model, batch = scaled({"precision": {"type": "hawq", "bits": [4, 8], "num_data_points": 8}})
    assert model(batch["x"], scale=batch["scale"]).shape == (8, 4)
    assert 4 in {one.spec.bits for one in model.modules() if isinstance(one, Quantizer)}


def test_without_data_or_sizes_the_model_is_called_as_the_script_calls_it():
    config = nncf.NNCFConfig.from_dict({"compression": {"algorithm": "magnitude_sparsity"}})

    def call(model):
        return model(torch.rand(2, 8), scale=torch.ones(8))

    _, model = nncf.create_compressed_model(Scaled(), config, dummy_forward_fn=call)
    assert model(torch.rand(3, 8), scale=torch.ones(8)).shape == (3, 4)
    with pytest.raises(InputError, match="does not call the model"):
        nncf.create_compressed_model(Scaled(), config, dummy_forward_fn=lambda one: None)


def test_what_needs_data_says_how_to_register_it():
    with pytest.raises(InputError, match="register_default_init_args"):
        nncf.create_compressed_model(Net(), nncf.NNCFConfig.from_dict(FILE))


def test_states_are_loaded_into_models_that_are_wrapped_and_from_them():
    _, model = create()
    wrapped, state = nn.DataParallel(model), copy.deepcopy(model.state_dict())
    for one in (model, wrapped):
        for given in (state, wrapped.state_dict()):
            assert load_state(one, given, is_resume=True) == len(state)
    assert load_state(nn.DataParallel(Net()), state) == len(Net().state_dict())


def test_accuracy_without_compression_is_that_of_the_original_where_none_is_given():
    params = {"maximal_absolute_accuracy_degradation": 1.0, "maximal_total_epochs": 2}
    file = {**FILE, "accuracy_aware_training": {"mode": "early_exit", "params": params}}
    seen = []
    config = nncf.NNCFConfig.from_dict(file)
    register_default_init_args(config, loader(), model_eval_fn=lambda model: seen.append(model) or 50.0)
    original = Net()
    controller, _ = nncf.create_compressed_model(original, config)
    assert not seen and nncf.create_accuracy_aware_training_loop(config, controller).baseline == 50.0 and seen == [original]
    assert nncf.create_accuracy_aware_training_loop(config, controller, 49.0).baseline == 49.0 and len(seen) == 1
    with pytest.raises(InputError, match="how accurate"):
        nncf.create_accuracy_aware_training_loop(dict(config), controller)


@pytest.mark.parametrize("do_copy", [True, False])
def test_stripping_puts_torchs_own_quantization_in(do_copy):
    controller, model = create()
    x = loader()[0][0]
    expected = model.eval()(x)
    stripped = controller.strip(do_copy)
    assert (stripped is model) is not do_copy
    assert not any(isinstance(one, Quantizer) for one in stripped.modules())
    assert torch.allclose(stripped(x), expected, atol=2e-2)
    assert "fake_quantize" in str(torch.jit.trace(stripped, x).inlined_graph)
