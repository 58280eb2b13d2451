"""The pass that trains quantizers: its schedule and state, and that what is lowered is what was trained."""

import copy

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import QuantizationOptions, passes
from fxcompress.errors import InputError, PlanError
from fxcompress.execution.agreement import sqnr
from fxcompress.quantization.quantized import quantizer_calls
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.training import CompressionStage


class Small(nn.Module):
    """A convolution, batch norm and ReLU twice, added, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        return self.head((x + self.norm2(self.conv(x))).relu().mean((2, 3)))


DATA = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def compiled(seed=0, quantize=None, **options):
    torch.manual_seed(seed)
    stack = [
        passes.CanonicalizeActivations(),
        quantize or passes.Quantize(),
        passes.Calibrate(),
        passes.TrainQuantizers(**options),
    ]
    return fxcompress.compile(Small(), stack, data=[DATA])


def step(model, optimizer):
    loss = model(DATA).square().mean() + model.controller.loss()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def test_training_changes_every_range_and_what_is_lowered_is_what_was_trained():
    model = compiled().train()
    before = {name: p.detach().clone() for name, p in model.named_parameters() if "quantizer" in name}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        step(model, optimizer)
    after = dict(model.named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in before.items() if name.endswith("extent"))
    model.eval()
    with torch.no_grad():
        wanted = model(DATA)
    assert sqnr(wanted, model.lower()(DATA)) > 30


@pytest.mark.parametrize("inputs", [False, True])
def test_the_range_of_an_input_is_trained_only_where_that_is_asked_for(inputs):
    model = compiled(inputs=inputs).train()
    assert ("x_quantizer.input_extent" in dict(model.named_parameters())) is inputs
    assert "x_quantizer" in model.controller["TrainQuantizers"].activations
    assert model.get_submodule("x_quantizer")(DATA).requires_grad is inputs


def test_a_range_that_an_input_shares_with_computed_values_is_trained():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(6, 4, 1)

        def forward(self, x):
            return self.second(torch.cat([x, self.first(x)], 1))

    model = fxcompress.compile(Joined(), fxcompress.defaults.training(), data=[DATA])
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if "quantizer" in name)
    model(DATA).sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "quantizer" in name)


def test_quantizers_start_when_their_epochs_come():
    model = compiled(weights_start_epoch=1, activations_start_epoch=3)
    controller = model.controller["TrainQuantizers"]
    seen = [_on(controller)]
    stages = [controller.compression_stage().name]
    for _ in range(5):
        model.controller.scheduler.epoch_step()
        seen.append(_on(controller))
        stages.append(controller.compression_stage().name)
    off, weights, both = (False, False), (True, False), (True, True)
    assert seen == [off, off, weights, weights, both, both]
    assert stages == ["UNCOMPRESSED"] * 2 + ["PARTIALLY_COMPRESSED"] * 2 + ["FULLY_COMPRESSED"] * 2


def _on(controller):
    kinds = ({q.enabled for q in kind.values()} for kind in (controller.weights, controller.activations))
    return tuple(on for (on,) in kinds)


def test_a_quantizer_that_is_off_is_not_there_in_the_model_or_the_file():
    model = compiled(weights_start_epoch=1, activations_start_epoch=1)
    torch.manual_seed(0)
    wanted = Small().eval()(DATA)
    torch.testing.assert_close(model(DATA), wanted)
    torch.testing.assert_close(model.lower()(DATA), wanted, rtol=1e-4, atol=1e-5)


def test_ranges_of_weights_are_set_anew_when_they_start():
    model = compiled(weights_start_epoch=1)
    quantizer = model.controller["TrainQuantizers"].weights["head_weight_quantizer"]
    parameter = quantizer.input_extent
    with torch.no_grad():
        model.head.weight.mul_(3)
    before = quantizer.scale
    for _ in range(2):
        model.controller.scheduler.epoch_step()
    torch.testing.assert_close(quantizer.scale, 3 * before)
    assert quantizer.input_extent is parameter  # the optimizer holds it


def test_quantizers_are_switched_by_hand():
    model = compiled()
    controller = model.controller["TrainQuantizers"]
    controller.switch(activations=False)
    assert _on(controller) == (True, False)
    assert controller.compression_stage() is CompressionStage.PARTIALLY_COMPRESSED
    assert "uint8  asymmetric  per tensor" in str(controller.statistics())


def test_a_copy_has_quantizers_of_its_own():
    model = compiled()
    twin = copy.deepcopy(model)
    twin.controller["TrainQuantizers"].switch(weights=False, activations=False)
    assert model.controller.compression_stage() is CompressionStage.FULLY_COMPRESSED
    assert twin.controller.compression_stage() is CompressionStage.UNCOMPRESSED


@pytest.mark.parametrize("trained", [True, False])
def test_the_state_says_whether_a_grid_is_signed_and_whether_it_is_on(trained, tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(x)

    torch.manual_seed(0)
    model = Scaled()
    stack = [passes.Quantize(activations=QuantizationSpec()), passes.Calibrate(), *[passes.TrainQuantizers()] * trained]
    signed, unsigned = (fxcompress.compile(model, stack, data=[data]) for data in (torch.randn(8, 4), torch.rand(8, 4)))
    found = [next(q for call, q in quantizer_calls(one).items() if "weight" not in call.name) for one in (signed, unsigned)]
    assert [q.signed for q in found] == [True, False]
    found[0].enabled = False
    torch.save(signed.state_dict(), tmp_path / "state.pt")
    unsigned.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (found[1].signed, found[1].enabled, found[1].ready) == (True, False, True)
    assert torch.equal(signed(DATA[:, 0, :, :4]), unsigned(DATA[:, 0, :, :4]))


def test_a_resumed_run_goes_on_with_its_schedule():
    stages = {"weights_start_epoch": 1, "activations_start_epoch": 2}
    model, resumed = compiled(**stages).train(), compiled(seed=1, **stages)
    for _ in range(2):
        model.controller.scheduler.epoch_step()
        step(model, torch.optim.SGD(model.parameters(), lr=0.1))
    resumed.load_checkpoint(copy.deepcopy(model.checkpoint()))
    for one in (model, resumed):
        one.controller.scheduler.epoch_step()
        one.eval()
    assert _on(resumed.controller["TrainQuantizers"]) == (True, True)
    assert torch.equal(model(DATA), resumed(DATA))


def test_ranges_must_be_calibrated_first():
    with pytest.raises(PlanError, match=r"TrainQuantizers needs 'calibrated'.*Calibrate"):
        fxcompress.compile(nn.Linear(2, 2), [passes.Quantize(), passes.TrainQuantizers()], example_inputs=torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights_start_epoch": -1}, "weights_start_epoch of 0 or more, got -1"),
        ({"activations_start_epoch": 1.5}, "activations_start_epoch of 0 or more, got 1.5"),
        ({"learning_rate_multiplier": -1.0}, "learning_rate_multiplier of 0 or more, got -1.0"),
        ({"learning_rate_multiplier": float("nan")}, "learning_rate_multiplier of 0 or more, got nan"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        passes.TrainQuantizers(**options)


def test_statistics_say_the_bytes_of_the_weights_and_where_bits_are_mixed_those_of_each_quantizer():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    four_bits = QuantizationOptions(weights=QuantizationSpec(bits=4))
    for overrides, sizes in (({}, {"int8": 12 + 6}), ({"2": four_bits}, {"int8": 12, "int4": 3})):
        stack = [passes.Quantize(overrides=overrides), passes.Calibrate(), passes.TrainQuantizers()]
        compiled = fxcompress.compile(model, stack, data=[torch.randn(2, 4)])
        kinds, *each = compiled.controller.statistics().tables
        rows = list(zip(*(map(str, column.cells) for column in kinds.columns)))
        assert {bits: size for of, bits, *_, size in rows if of == "weights"} == {b: f"{n} B" for b, n in sizes.items()}
        assert [size for of, *_, size in rows if of == "activations"] == [""]
        shown = [dict(zip(*(map(str, column.cells) for column in table.columns))) for table in each]
        assert shown == ([{"_0_weight": "int8", "_2_weight": "int4"}] if overrides else [])
