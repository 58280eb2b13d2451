"""The families of transformers as tiny random networks, and calls of any number of samples and tokens: see `benchmarks.family`.

A configuration has the sizes of `SIZES` wherever it has an option of that name, and those that its family needs to be small.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.head_options import OF_KINDS, OPTIONS, PIXELS, PLACE, SIZES, STAGES, VISION, WORDS
from benchmarks.models import import_torchvision
from benchmarks.newer_heads import NEWER


@dataclass(frozen=True)
class Head:
    """A network to try: its class, what kind of inputs it takes, and options of its configuration."""

    name: str
    kind: str
    options: dict[str, Any]

    def build(self) -> nn.Module:
        """The network, in inference mode; a configuration's options that it does not have are left out."""
        import transformers

        torch.manual_seed(0)
        cls = getattr(transformers, self.name.partition(" ")[0])
        picture = STAGES if self.kind in ("stages", "wide picture") else VISION if "picture" in self.kind else {}
        config = cls.config_class(**_small(cls.config_class, self.options, picture))
        model = cls(config).eval()
        awaken(model)
        return model

    def call(self, samples: int, length: int) -> dict[str, Any]:
        """Keyword inputs of `samples`, each `length` long where the kind has a length."""
        return INPUTS[self.kind](samples, length)


@torch.no_grad()
def awaken(model: nn.Module) -> None:
    """Give matrices that start as one number, which training changes, several: scores that are all equal prove nothing."""
    for parameter in model.parameters():
        if parameter.dim() > 1 and parameter.numel() > 1 and (parameter == parameter.flatten()[0]).all():
            parameter.normal_(0, 0.1)


def _small(kind: Any, options: dict[str, Any], picture: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the configuration class `kind`: the sizes that it has an option for, also in the parts it is made of."""
    default = kind()
    known = {name: getattr(default, name, None) for name in {**SIZES, **picture} if _takes(kind, default, name)}
    small = {name: {**SIZES, **picture}[name] for name, value in known.items() if not isinstance(value, (list, tuple, dict))}
    small |= {name: value for name, value in picture.items() if name in known and isinstance(value, list)}
    parts = getattr(kind, "sub_configs", {}) if any(name.endswith("text_config") for name in kind.sub_configs) else {}
    small |= {
        name: _small(part, {}, picture) for name, part in parts.items() if part is not None and hasattr(part, "model_type")
    }
    return small | options


def _takes(kind: Any, default: Any, name: str) -> bool:
    own = inspect.signature(kind.__init__).parameters
    return name in own or name in getattr(kind, "attribute_map", {}) or name in vars(default)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def _ids(samples: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(3, WORDS, (samples, length), generator=torch.Generator().manual_seed(seed + samples * length))


def _mask(samples: int, length: int, left: bool = False) -> Tensor:
    """The last of several samples is shorter by a quarter."""
    mask = torch.ones(samples, length, dtype=torch.int64)
    if samples > 1 and length > 4:
        mask[-1, slice(0, length // 4) if left else slice(length - length // 4, length)] = 0
    return mask


def text(samples: int, length: int) -> dict[str, Any]:
    return {"input_ids": _ids(samples, length), "attention_mask": _mask(samples, length)}


def left(samples: int, length: int) -> dict[str, Any]:
    """As a decoder is given prompts of several lengths."""
    return {"input_ids": _ids(samples, length), "attention_mask": _mask(samples, length, left=True)}


def unmasked(samples: int, length: int) -> dict[str, Any]:
    return {"input_ids": _ids(samples, length)}


def both(samples: int, length: int) -> dict[str, Any]:
    """What an encoder reads, and half as many tokens for the decoder."""
    return {**text(samples, length), "decoder_input_ids": _ids(samples, max(length // 2, 2), seed=1)}


def picture(samples: int, length: int) -> dict[str, Any]:
    return {"pixel_values": _random(samples, 3, PIXELS, PIXELS)}


def hidden(samples: int, length: int) -> dict[str, Any]:
    """A picture, and numbers by whose order patches of it are hidden: drawn by the model itself otherwise."""
    return {**picture(samples, length), "noise": _random(samples, (PIXELS // VISION["patch_size"]) ** 2)}


def wide(samples: int, length: int) -> dict[str, Any]:
    """For networks that halve a picture five times and more."""
    return {"pixel_values": _random(samples, 3, 64, 64)}


def contrast(samples: int, length: int) -> dict[str, Any]:
    return {**text(samples, length), "pixel_values": _random(samples, 3, PIXELS, PIXELS)}


def waves(samples: int, length: int) -> dict[str, Any]:
    return {"input_values": _random(samples, 160 * length)}


def masked_waves(samples: int, length: int) -> dict[str, Any]:
    return {**waves(samples, length), "attention_mask": _mask(samples, 160 * length)}


def features(samples: int, length: int) -> dict[str, Any]:
    """Spectra of 80 bands, as long as Whisper is built for here."""
    return {"input_features": _random(samples, 80, 64), "decoder_input_ids": _ids(samples, max(length // 2, 2))}


def frames(samples: int, length: int) -> dict[str, Any]:
    return {"input_features": _random(samples, 4 * length, 80), "decoder_input_ids": _ids(samples, max(length // 2, 2))}


def spectrum(samples: int, length: int) -> dict[str, Any]:
    return {"input_values": _random(samples, 64, 32)}


def boxes(samples: int, length: int) -> dict[str, Any]:
    corners = torch.randint(0, 50, (samples, length, 2), generator=torch.Generator().manual_seed(length))
    return {**text(samples, length), "bbox": torch.cat([corners, corners + 20], -1)}


def pictured_boxes(samples: int, length: int) -> dict[str, Any]:
    return {**boxes(samples, length), **picture(samples, length)}


def placed(samples: int, length: int) -> dict[str, Any]:
    """A picture in a text: a token of its own (`PLACE`) stands for each of its patches."""
    patches = (PIXELS // VISION["patch_size"]) ** 2
    ids = torch.cat([torch.full((samples, patches), PLACE), _ids(samples, length)], 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **picture(samples, length)}


def prefixed(samples: int, length: int) -> dict[str, Any]:
    """The same, of which all is read in both directions."""
    given = placed(samples, length)
    return {**given, "token_type_ids": torch.zeros_like(given["input_ids"])}


def points(samples: int, length: int) -> dict[str, Any]:
    """A picture and two points in it."""
    return {**wide(samples, length), "input_points": _random(samples, 1, 2, 2).sigmoid() * 64}


def spoken(samples: int, length: int) -> dict[str, Any]:
    return {**waves(samples, length), "decoder_input_ids": _ids(samples, max(length // 2, 2))}


def video(samples: int, length: int) -> dict[str, Any]:
    return {"pixel_values": _random(samples, 4, 3, PIXELS, PIXELS)}


def series(samples: int, length: int) -> dict[str, Any]:
    return {"past_values": _random(samples, 32, 3)}


INPUTS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "text": text,
    "decoder": left,
    "cached": left,
    "unmasked": unmasked,
    "both": both,
    "picture": picture,
    "hidden picture": hidden,
    "stages": wide,
    "wide picture": wide,
    "contrast picture": contrast,
    "waves": waves,
    "masked waves": masked_waves,
    "features": features,
    "frames": frames,
    "spectrum": spectrum,
    "boxes": boxes,
    "boxes on a picture": pictured_boxes,
    "placed picture": placed,
    "prefixed picture": prefixed,
    "points in a wide picture": points,
    "spoken": spoken,
    "video picture": video,
    "series": series,
}

PLAIN: dict[str, str] = {
    "text": "BertModel BertForMaskedLM BertForSequenceClassification BertForTokenClassification BertForQuestionAnswering "
    "RobertaForMaskedLM CamembertModel XLMRobertaForSequenceClassification ElectraForPreTraining DistilBertForMaskedLM "
    "AlbertForMaskedLM MPNetModel MobileBertModel SqueezeBertModel DebertaModel DebertaV2ForTokenClassification ConvBertModel "
    "NystromformerModel YosoModel FunnelModel CanineModel LongformerModel BigBirdModel RoFormerModel "
    "MegatronBertModel ErnieModel XLMModel FlaubertModel XLNetModel IBertModel LukeModel "
    "SplinterModel RemBertModel EsmModel RoCBertModel XmodModel ModernBertModel "
    "NomicBertModel EuroBertModel MarkupLMModel TapasModel T5EncoderModel UMT5EncoderModel VisualBertModel "
    "RobertaPreLayerNormForMaskedLM XLMRobertaXLModel JinaEmbeddingsV3Model BertGenerationDecoder "
    "DPRQuestionEncoder CLIPTextModelWithProjection SiglipTextModel Data2VecTextModel MraModel BertGenerationEncoder VitsModel",
    "unmasked": "FNetForMaskedLM ReformerModel PerceiverForMaskedLM",
    "decoder": "GPT2LMHeadModel GPTNeoForCausalLM GPTNeoXForCausalLM GPTJForCausalLM GPTBigCodeForCausalLM CodeGenForCausalLM "
    "OPTForCausalLM BloomForCausalLM FalconForCausalLM LlamaForCausalLM LlamaForSequenceClassification MistralForCausalLM "
    "MixtralForCausalLM GemmaForCausalLM Gemma2ForCausalLM Gemma3ForCausalLM Qwen2ForCausalLM Qwen2MoeForCausalLM "
    "Qwen3ForCausalLM Qwen3MoeForCausalLM PhiForCausalLM Phi3ForCausalLM StableLmForCausalLM Starcoder2ForCausalLM "
    "OlmoForCausalLM Olmo2ForCausalLM OlmoeForCausalLM CohereForCausalLM Cohere2ForCausalLM GraniteForCausalLM "
    "GraniteMoeForCausalLM GlmForCausalLM Glm4ForCausalLM SmolLM3ForCausalLM HeliumForCausalLM NemotronForCausalLM "
    "PersimmonForCausalLM XGLMForCausalLM BioGptForCausalLM CTRLLMHeadModel OpenAIGPTLMHeadModel JetMoeForCausalLM "
    "DeepseekV3ForCausalLM MambaForCausalLM Mamba2ForCausalLM RwkvForCausalLM FalconMambaForCausalLM RecurrentGemmaForCausalLM "
    "BambaForCausalLM JambaForCausalLM Lfm2ForCausalLM Exaone4ForCausalLM Ernie4_5ForCausalLM "
    "ArceeForCausalLM SeedOssForCausalLM ApertusForCausalLM DiffLlamaForCausalLM BitNetForCausalLM "
    "DogeForCausalLM GptOssForCausalLM MiniMaxForCausalLM ModernBertDecoderForCausalLM MptForCausalLM "
    "Olmo3ForCausalLM FalconH1ForCausalLM Llama4ForCausalLM Glm4MoeForCausalLM Ernie4_5_MoeForCausalLM "
    "GraniteMoeSharedForCausalLM VaultGemmaForCausalLM MiniMaxM2ForCausalLM PhimoeForCausalLM HunYuanDenseV1ForCausalLM "
    "TrOCRForCausalLM Qwen2VLForConditionalGeneration DeepseekV2ForCausalLM MinistralForCausalLM "
    "Lfm2MoeForCausalLM GraniteMoeHybridForCausalLM CwmForCausalLM FlexOlmoForCausalLM Glm4MoeLiteForCausalLM "
    "SolarOpenForCausalLM ExaoneMoeForCausalLM AfmoeForCausalLM YoutuForCausalLM NanoChatForCausalLM Jais2ForCausalLM",
    "both": "T5ForConditionalGeneration MT5ForConditionalGeneration UMT5ForConditionalGeneration "
    "LongT5ForConditionalGeneration SwitchTransformersForConditionalGeneration BartForConditionalGeneration "
    "MBartForConditionalGeneration MarianMTModel PegasusForConditionalGeneration PegasusXForConditionalGeneration "
    "BlenderbotForConditionalGeneration BlenderbotSmallForConditionalGeneration M2M100ForConditionalGeneration "
    "NllbMoeForConditionalGeneration PLBartForConditionalGeneration ProphetNetForConditionalGeneration "
    "LEDForConditionalGeneration MvpForConditionalGeneration "
    "FSMTForConditionalGeneration BigBirdPegasusForConditionalGeneration",
    "picture": "PixioModel ViTForImageClassification DeiTForImageClassification BeitForImageClassification Dinov2Model "
    "Dinov2WithRegistersModel DINOv3ViTModel CLIPVisionModelWithProjection SiglipVisionModel ViTMSNModel "
    "YolosForObjectDetection IJepaModel DPTForDepthEstimation Data2VecVisionModel VitDetModel "
    "PixtralVisionModel Swin2SRForImageSuperResolution DepthAnythingForDepthEstimation Aimv2VisionModel MLCDVisionModel",
    "stages": "ResNetForImageClassification RegNetForImageClassification ConvNextForImageClassification "
    "ConvNextV2ForImageClassification SwinForImageClassification Swinv2ForImageClassification FocalNetForImageClassification "
    "SegformerForSemanticSegmentation PoolFormerForImageClassification PvtForImageClassification PvtV2ForImageClassification "
    "HieraForImageClassification MobileViTForImageClassification MobileViTV2ForImageClassification "
    "MobileNetV1ForImageClassification MobileNetV2ForImageClassification EfficientNetForImageClassification "
    "LevitForImageClassification CvtForImageClassification SwiftFormerForImageClassification BitForImageClassification "
    "GLPNForDepthEstimation DonutSwinModel "
    "HGNetV2ForImageClassification DINOv3ConvNextModel DetrForObjectDetection ConditionalDetrForObjectDetection "
    "DabDetrForObjectDetection DeformableDetrForObjectDetection RTDetrForObjectDetection RTDetrV2ForObjectDetection "
    "DFineForObjectDetection "
    "TableTransformerForObjectDetection SuperPointForKeypointDetection Mask2FormerForUniversalSegmentation "
    "MaskFormerForInstanceSegmentation",
    "contrast picture": "MetaClip2Model CLIPModel SiglipModel ChineseCLIPModel AltCLIPModel BlipModel CLIPSegModel ViltModel "
    "OwlViTForObjectDetection Owlv2ForObjectDetection GitForCausalLM BlipForConditionalGeneration",
    "placed picture": "LlavaForConditionalGeneration Blip2ForConditionalGeneration VipLlavaForConditionalGeneration "
    "InternVLForConditionalGeneration AyaVisionForConditionalGeneration",
    "prefixed picture": "PaliGemmaForConditionalGeneration Gemma3ForConditionalGeneration",
    "points in a wide picture": "SamModel",
    "hidden picture": "ViTMAEForPreTraining",
    "video picture": "VideoMAEForVideoClassification TimesformerForVideoClassification VivitForVideoClassification",
    "boxes on a picture": "LayoutLMv3ForTokenClassification",
    "spoken": "SpeechT5ForSpeechToText MoonshineForConditionalGeneration",
    "waves": "Wav2Vec2ForCTC HubertForCTC WavLMModel UniSpeechModel UniSpeechSatModel SEWForCTC SEWDForCTC Data2VecAudioModel "
    "Wav2Vec2ConformerForCTC",
    "masked waves": "Wav2Vec2Model HubertModel WavLMForCTC Wav2Vec2ForSequenceClassification",
    "features": "WhisperForConditionalGeneration",
    "frames": "Speech2TextForConditionalGeneration",
    "spectrum": "ASTForAudioClassification",
    "boxes": "LayoutLMForTokenClassification LiltModel ",
    "series": "PatchTSTForPrediction PatchTSMixerForPrediction",
}
"""Heads by what they take."""

CACHED = (
    "GPT2LMHeadModel LlamaForCausalLM Gemma2ForCausalLM Gemma3ForCausalLM Olmo2ForCausalLM Qwen3ForCausalLM Phi3ForCausalLM "
    "MixtralForCausalLM Qwen2MoeForCausalLM JetMoeForCausalLM GptOssForCausalLM Cohere2ForCausalLM BloomForCausalLM "
    "FalconForCausalLM OPTForCausalLM GPTJForCausalLM Lfm2ForCausalLM JambaForCausalLM BambaForCausalLM Mamba2ForCausalLM"
)
"""Decoders that are tried behind a cache as well."""


def heads(pattern: str = "*") -> Iterator[Head]:
    """All that are tried, whose name matches the glob `pattern`; behind a cache has `` cached`` after its name."""
    import_torchvision()
    for kind, names in PLAIN.items():
        newer = NEWER.get(kind, {})
        for name in (*names.split(), *newer):
            if fnmatch(name, pattern):
                yield Head(name, kind, {**OF_KINDS.get(kind, {}), **OPTIONS.get(name, {}), **newer.get(name, {})})
    for name in CACHED.split():
        if fnmatch(f"{name} cached", pattern):
            yield Head(f"{name} cached", "cached", OPTIONS.get(name, {}))
