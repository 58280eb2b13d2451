"""The real networks that coverage is checked on: of torchvision, timm, Hugging Face with random weights, and trained ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import import_torchvision
from benchmarks.trained import NETWORKS
from fxcompress.data.inputs import ExampleInputs

TIMM = {
    "CNN": "resnet26d resnetv2_50x1_bit resnext50_32x4d seresnet50 ecaresnet50t densenet121 vgg11_bn dla34 hrnet_w18_small "
    "res2net50_26w_4s xception41 inception_v4 dpn68 selecsls42b cspresnet50 ghostnet_100 rexnet_100 nfnet_l0 "
    "repvgg_a0 darknet53 ese_vovnet19b_dw",
    "MobileNet": "mobilenetv2_100 mobilenetv3_large_100 mobilenetv3_small_050 mobilenetv4_conv_small mobilenetv4_conv_medium "
    "mobilenetv4_hybrid_medium mobilenet_edgetpu_v2_s mnasnet_100 fbnetc_100 hardcorenas_a tinynet_a lcnet_050 mobileone_s0",
    "EfficientNet": "efficientnet_b0 efficientnet_lite0 efficientnetv2_rw_t tf_efficientnet_b0 tf_efficientnet_lite0 "
    "tf_efficientnetv2_b0 mixnet_s",
    "RegNet": "regnetx_002 regnety_002 regnetz_b16",
    "ConvNeXt": "convnext_atto convnextv2_atto convnext_tiny edgenext_xx_small inception_next_tiny",
    "ViT": "vit_tiny_patch16_224 deit_tiny_patch16_224 vit_small_patch16_224 cait_xxs24_224 beit_base_patch16_224 "
    "eva02_tiny_patch14_224 xcit_nano_12_p16_224 pit_ti_224 tnt_s_patch16_224 levit_128s crossvit_tiny_240 volo_d1_224 "
    "efficientformer_l1 tiny_vit_5m_224 mobilevit_xxs fastvit_t8 poolformer_s12 coat_tiny pvt_v2_b0",
    "Swin": "swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swin_s3_tiny_224 twins_svt_small "
    "maxvit_tiny_rw_224 coatnet_nano_rw_224 nest_tiny",
    "MLP-Mixer": "mixer_s32_224 gmixer_24_224 resmlp_12_224 gmlp_s16_224 convmixer_768_32",
}
SMALL_IMAGE = 96
"""Pixels of an image's side, for networks of timm that take any size."""


@dataclass(frozen=True)
class Case:
    """A model to try: how to make it, and its inputs for a batch size; whether its weights are `trained`."""

    family: str
    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], ExampleInputs]
    trained: bool = False


def select(families: list[str], pattern: str = "*") -> tuple[list[Case], list[str]]:
    """The cases of `families` whose name matches the glob `pattern`, and which families are left out, and why."""
    cases: list[Case] = []
    missing = []
    for family in families:
        try:
            cases += [case for case in FAMILIES[family]() if fnmatch(case.name, pattern)]
        except ImportError as error:
            missing.append(f"{family} is left out: {error}")
    return cases, missing


def torchvision_cases() -> Iterator[Case]:
    if find_spec("torchvision") is None:
        raise ImportError("torchvision is not installed")
    models = import_torchvision().models
    for name in models.list_models(module=models):
        size = 75 if name == "inception_v3" else 224 if name.startswith(("vit", "maxvit")) else 64
        yield Case("torchvision", name, lambda name=name: models.get_model(name, weights=None, **_quiet(name)), images(size))
    for name in models.list_models(module=models.segmentation):
        make = lambda name=name: models.get_model(name, weights=None, weights_backbone=None)  # noqa: E731
        yield Case("torchvision segmentation", name, make, images(64))


def _quiet(name: str) -> dict[str, Any]:
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


def _prepare_torchvision() -> None:
    """timm and transformers import it where it is installed, and do not know how to."""
    if find_spec("torchvision"):
        import_torchvision()


def timm_cases() -> Iterator[Case]:
    _prepare_torchvision()
    import timm

    for group, names in TIMM.items():
        for name in names.split():
            known = timm.get_pretrained_cfg(name)
            size = known.input_size[-1] if known and known.fixed_input_size else SMALL_IMAGE
            yield Case(f"timm {group}", name, lambda name=name: timm.create_model(name, pretrained=False), images(size))


def hugging_face_cases() -> Iterator[Case]:
    _prepare_torchvision()
    import transformers as hf

    small: dict[str, Any] = {"num_hidden_layers": 3}
    text = {
        "bert": (hf.BertModel, hf.BertConfig(**small)),
        "bert-classifier": (hf.BertForSequenceClassification, hf.BertConfig(**small)),
        "bert-masked-lm": (hf.BertForMaskedLM, hf.BertConfig(**small)),
        "distilbert": (hf.DistilBertModel, hf.DistilBertConfig(n_layers=3)),
        "distilbert-classifier": (hf.DistilBertForSequenceClassification, hf.DistilBertConfig(n_layers=3)),
        "roberta": (hf.RobertaModel, hf.RobertaConfig(**small)),
        "albert": (hf.AlbertModel, hf.AlbertConfig(**small, hidden_size=768, intermediate_size=3072, num_attention_heads=12)),
        "electra": (hf.ElectraModel, hf.ElectraConfig(**small)),
        "mpnet": (hf.MPNetModel, hf.MPNetConfig(**small)),
        "deberta": (hf.DebertaModel, hf.DebertaConfig(**small, relative_attention=True, pos_att_type=["c2p", "p2c"])),
        "deberta-v2": (hf.DebertaV2Model, hf.DebertaV2Config(**small, hidden_size=768, num_attention_heads=12)),
        "mobilebert": (hf.MobileBertModel, hf.MobileBertConfig(**small)),
        "t5-encoder": (hf.T5EncoderModel, hf.T5Config(num_layers=3)),
        "clip-text": (hf.CLIPTextModel, hf.CLIPTextConfig(**small)),
        "gpt2": (hf.GPT2Model, hf.GPT2Config(n_layer=3, use_cache=False)),
        "gpt2-lm": (hf.GPT2LMHeadModel, hf.GPT2Config(n_layer=3, use_cache=False)),
    }
    for name, (cls, config) in text.items():
        config.pad_token_id = 0
        yield Case("Hugging Face", name, lambda cls=cls, config=config: cls(config), tokens)
    pictures = {
        "vit": (hf.ViTModel, hf.ViTConfig(**small)),
        "vit-classifier": (hf.ViTForImageClassification, hf.ViTConfig(**small)),
        "dinov2": (hf.Dinov2Model, hf.Dinov2Config(**small, image_size=224)),
        "clip-vision": (hf.CLIPVisionModel, hf.CLIPVisionConfig(**small)),
    }
    for name, (cls, config) in pictures.items():
        yield Case("Hugging Face", name, lambda cls=cls, config=config: cls(config), pixels)
    yield Case("Hugging Face", "wav2vec2", lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**small)), audio)
    whisper = hf.WhisperConfig(encoder_layers=3, decoder_layers=1, d_model=384, encoder_attention_heads=6)
    yield Case("Hugging Face", "whisper-encoder", lambda: hf.WhisperModel(whisper).encoder, spectrogram)


def trained_cases() -> Iterator[Case]:
    """Those of `benchmarks.trained` whose packages are installed, on the pictures that calibrate them there."""
    if find_spec("easyocr_en_models") is None:
        raise ImportError("easyocr_en_models is not installed")
    for name in ("craft",):
        network = NETWORKS[name]
        inputs = lambda batch, network=network: ExampleInputs(network.samples("calibration", batch, 0))  # noqa: E731
        yield Case("trained", name, network.load, inputs, trained=True)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def images(size: int) -> Callable[[int], ExampleInputs]:
    """Of `size` by `size` pixels."""
    return lambda batch: ExampleInputs((_random(batch, 3, size, size),))


def tokens(batch: int) -> ExampleInputs:
    """Sixteen of each sentence; the last sentence has only twelve."""
    ids = torch.randint(1, 1000, (batch, 16), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[-1, 12:] = 0
    return ExampleInputs((), {"input_ids": ids, "attention_mask": mask})


def pixels(batch: int) -> ExampleInputs:
    return ExampleInputs((), {"pixel_values": _random(batch, 3, 224, 224)})


def audio(batch: int) -> ExampleInputs:
    """Half a second at 16 kHz."""
    return ExampleInputs((), {"input_values": _random(batch, 8000)})


def spectrogram(batch: int) -> ExampleInputs:
    """Thirty seconds, the only length that Whisper takes."""
    return ExampleInputs((), {"input_features": _random(batch, 80, 3000)})


FAMILIES = {"torchvision": torchvision_cases, "timm": timm_cases, "huggingface": hugging_face_cases, "trained": trained_cases}
