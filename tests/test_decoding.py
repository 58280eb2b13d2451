"""A language model with its cache as one file: names, free lengths, and that prompts and steps compute what the model does."""

import copy

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from frameworks import framework
from torch import Tensor
from torch.utils import _pytree as pytree

import fxcompress
from fxcompress import decoding_inputs, passes
from fxcompress.errors import InputError

transformers = framework("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")

SMALL = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_key_value_heads=2)).eval()


def gemma():
    """Windows in every other layer, capped logits, a tied head."""
    torch.manual_seed(0)
    config = transformers.Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8, sliding_window=16)
    return transformers.Gemma2ForCausalLM(config).eval()


def mixtral():
    """Experts, which Transformers multiplies by in operations of its own."""
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1)
    return transformers.MixtralForCausalLM(config).eval()


def lfm():
    """A layer that keeps a state of what it has read, in front of one that keeps all of it."""
    torch.manual_seed(0)
    kinds = ["conv", "full_attention"]
    config = transformers.Lfm2Config(**SMALL, num_key_value_heads=2, layer_types=kinds, conv_L_cache=3, block_multiple_of=8)
    return transformers.Lfm2ForCausalLM(config).eval()


def tokens(batch, length, seed=0):
    return {"input_ids": torch.randint(3, 60, (batch, length), generator=torch.Generator().manual_seed(seed))}


def written(model, path, *stages):
    given = decoding_inputs(model, tokens(2, 8), past=5)
    return fxcompress.compile(model, stages, example_inputs=given).to_onnx(path / "m.onnx", verify="strict")


def runtimes(path):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    exact = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    compiled = openvino.Core().compile_model(path, "CPU", exact)
    names = [one.name for one in session.get_inputs()]
    return names, [lambda feed: session.run(None, feed), lambda feed: list(compiled(feed).values())]


def arrays(tree):
    return [leaf.detach().numpy() for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("build", [llama, gemma, mixtral, lfm])
def test_one_file_reads_a_prompt_and_goes_on(build, tmp_path):
    model = build()
    names, run = runtimes(written(model, tmp_path))
    keys = [[f"past_key_values.{layer}.{part}" for part in ("key", "value")] for layer in range(2)]
    first = ["past_key_values.0.conv_state"] if build is lfm else keys[0]
    assert names == ["input_ids", "attention_mask", *first, *keys[1]]
    for batch, past, new in ((2, 0, 6), (1, 6, 1), (3, 4, 3)):
        given = decoding_inputs(model, tokens(batch, past + new, seed=past), past=past)
        wanted = arrays(model(**copy.deepcopy(given), use_cache=True))
        for runtime in run:
            for got, want in zip(runtime(dict(zip(names, arrays(given)))), wanted, strict=True):
                np.testing.assert_allclose(got, want, atol=1e-4)


def test_outputs_are_named_as_pipelines_look_for_them(tmp_path):
    session = onnxruntime.InferenceSession(written(llama(), tmp_path), providers=["CPUExecutionProvider"])
    outputs = {one.name: one.shape for one in session.get_outputs()}
    assert list(outputs) == ["logits", *(f"present.{layer}.{part}" for layer in range(2) for part in ("key", "value"))]
    assert outputs["logits"] == ["batch", "sequence", 60]
    assert outputs["present.0.key"] == ["batch", 2, "past_sequence+sequence", 8]


def test_compressed_weights_are_calibrated_on_steps(tmp_path):
    model = llama()
    given = [decoding_inputs(model, tokens(4, 24, seed), past=past) for seed, past in ((1, 8), (2, 8), (3, 8))]
    compiled = fxcompress.compile(model, [passes.CompressWeights(group_size=16)], data=given)
    path = compiled.to_onnx(tmp_path / "m.onnx", verify="strict")
    names, run = runtimes(path)
    step = decoding_inputs(model, tokens(1, 7), past=6)
    wanted = arrays(compiled(**copy.deepcopy(step)))
    for runtime in run:
        np.testing.assert_allclose(runtime(dict(zip(names, arrays(step))))[0], wanted[0], atol=1e-4)


@pytest.mark.parametrize(("build", "kernels"), [(llama, 2), (gemma, 0), (lfm, 1)])
def test_openvino_keeps_the_cache_of_a_file_that_is_stateful(build, kernels, tmp_path):
    """A prompt and steps of two samples, which then change places, in the kernel that keeps the cache; and anew.

    Capped scores are no attention of torch's, and are computed as they are written.
    """
    model = build()
    compiled = fxcompress.compile(model, [], example_inputs=decoding_inputs(model, tokens(2, 8), past=5))
    path = compiled.to_openvino(tmp_path / "m.xml", stateful=True, verify="strict")
    exact = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    loaded = openvino.Core().compile_model(path, "CPU", exact)
    assert [port.get_any_name() for port in loaded.inputs] == ["input_ids", "attention_mask", "beam_idx"]
    assert [port.get_any_name() for port in loaded.outputs] == ["logits"]
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in loaded.get_runtime_model().get_ops()]
    assert kinds.count("ScaledDotProductAttention") == kernels
    ids, request = tokens(2, 9)["input_ids"], loaded.create_infer_request()
    for _ in range(2):
        for start, end, order in ((0, 6, [0, 1]), (6, 7, [0, 1]), (7, 9, [1, 0])):
            mask = np.ones((2, end), np.int64)
            feed = {"input_ids": ids[order, start:end].numpy(), "attention_mask": mask, "beam_idx": np.array(order, np.int32)}
            got = request.infer(feed)[loaded.output(0)]
            wanted = model(input_ids=ids[order, :end]).logits[:, start:].detach()
            np.testing.assert_allclose(got, wanted, atol=1e-4)
        request.reset_state()


def test_a_file_without_a_cache_cannot_be_stateful(tmp_path):
    compiled = fxcompress.compile(torch.nn.Linear(3, 2), [], example_inputs=torch.zeros(1, 3))
    with pytest.raises(InputError, match="it takes no cache; compile it on example_inputs=fxcompress.decoding_inputs"):
        compiled.to_openvino(tmp_path / "m.xml", stateful=True)
    assert not list(tmp_path.iterdir())


def test_the_report_suggests_weights_alone_for_a_model_that_generates():
    model = llama()
    given = decoding_inputs(model, tokens(2, 8), past=5)
    suggested = [
        any(
            "fxcompress.defaults.weights_only()" in note
            for note in fxcompress.compile(model, stages, data=[inputs]).report.notes
        )
        for stages, inputs in (
            ([passes.Quantize()], given),
            ([passes.Quantize()], tokens(2, 8)),
            ([passes.CompressWeights(group_size=16)], given),
        )
    ]
    assert suggested == [True, False, False]


def test_inputs_of_a_step():
    model = llama()
    step = decoding_inputs(model, tokens(2, 9))
    cache = next(value for value in step.values() if not isinstance(value, Tensor))
    assert step["input_ids"].shape == (2, 5) and step["attention_mask"].shape == (2, 9)
    assert [leaf.shape for leaf in pytree.tree_leaves(cache)] == [(2, 2, 4, 8)] * 4
    with pytest.raises(InputError, match="past=9 of 9 tokens leaves none"):
        decoding_inputs(model, tokens(2, 9), past=9)
    with pytest.raises(InputError, match="a dict with input_ids"):
        decoding_inputs(model, {"ids": torch.zeros(1, 3)})


def test_a_model_without_a_cache_is_told_apart():
    config = transformers.BertConfig(**SMALL)
    with pytest.raises(InputError, match="BertModel returns no cache"):
        decoding_inputs(transformers.BertModel(config).eval(), tokens(1, 6))


class Remembering(transformers.DynamicCache):
    """A cache as a model derives it: sums beside the layers, of some layers alone."""

    def __init__(self):
        super().__init__()
        self.sums = []


class Summing(torch.nn.Module):
    """Adds what it has read, in a cache of its own kind."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x, cache=None):
        cache = cache or Remembering()
        keys, values = cache.update(x[:, None], x[:, None] * 2, 0)
        total = (cache.sums[1] if cache.sums else 0) + x.sum(1)
        cache.sums = [[], total]
        return {"y": self.layer(total) + (keys * values).sum((1, 2)), "cache": cache}


def test_a_cache_that_a_model_derives_goes_in_and_comes_out(tmp_path):
    torch.manual_seed(0)
    model = Summing().eval()
    given = {"x": torch.randn(3, 5, 4), "cache": model(torch.randn(3, 2, 4))["cache"]}
    compiled = fxcompress.compile(model, [], example_inputs=copy.deepcopy(given))
    expected, found = model(**copy.deepcopy(given)), compiled(**copy.deepcopy(given))
    assert type(found["cache"]) is Remembering and found["cache"].sums[0] == []
    for one, other in zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True):
        torch.testing.assert_close(other, one)
    session = onnxruntime.InferenceSession(compiled.to_onnx(tmp_path / "m.onnx"))
    names = ["0.key", "0.value", "1.sums"]
    assert [one.name for one in session.get_inputs()] == ["x", *(f"past_key_values.{name}" for name in names)]
    assert [one.name for one in session.get_outputs()] == ["y", *(f"present.{name}" for name in names)]
