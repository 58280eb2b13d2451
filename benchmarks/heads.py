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

from benchmarks.models import import_torchvision

WORDS = 96
SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "dim": 32,
    "embedding_size": 32,
    "emb_dim": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "d_ff": 48,
    "d_inner": 48,
    "hidden_dim": 48,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "num_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "d_kv": 8,
    "head_dim": 8,
    "rotary_dim": 8,
    "word_embed_proj_dim": 32,
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
"""What is small wherever it is an option."""

PIXELS = 32
VISION: dict[str, Any] = {"image_size": PIXELS, "patch_size": 8}
STAGES: dict[str, Any] = {"depths": [1, 1, 1, 1], "image_size": 64}
SPEECH: dict[str, Any] = {
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


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
        return cls(config).eval()

    def call(self, samples: int, length: int) -> dict[str, Any]:
        """Keyword inputs of `samples`, each `length` long where the kind has a length."""
        return INPUTS[self.kind](samples, length)


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


def series(samples: int, length: int) -> dict[str, Any]:
    return {"past_values": _random(samples, 32, 3)}


INPUTS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "text": text,
    "decoder": left,
    "cached": left,
    "unmasked": unmasked,
    "both": both,
    "picture": picture,
    "stages": wide,
    "wide picture": wide,
    "contrast picture": contrast,
    "waves": waves,
    "masked waves": masked_waves,
    "features": features,
    "frames": frames,
    "spectrum": spectrum,
    "boxes": boxes,
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
    "DPRQuestionEncoder CLIPTextModelWithProjection SiglipTextModel Data2VecTextModel MraModel BertGenerationEncoder",
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
    "PhimoeForCausalLM HunYuanDenseV1ForCausalLM TrOCRForCausalLM",
    "both": "T5ForConditionalGeneration MT5ForConditionalGeneration UMT5ForConditionalGeneration "
    "LongT5ForConditionalGeneration SwitchTransformersForConditionalGeneration BartForConditionalGeneration "
    "MBartForConditionalGeneration MarianMTModel "
    "PegasusForConditionalGeneration PegasusXForConditionalGeneration BlenderbotForConditionalGeneration "
    "BlenderbotSmallForConditionalGeneration M2M100ForConditionalGeneration NllbMoeForConditionalGeneration "
    "PLBartForConditionalGeneration ProphetNetForConditionalGeneration LEDForConditionalGeneration MvpForConditionalGeneration "
    "FSMTForConditionalGeneration BigBirdPegasusForConditionalGeneration",
    "picture": "ViTForImageClassification DeiTForImageClassification BeitForImageClassification Dinov2Model "
    "Dinov2WithRegistersModel DINOv3ViTModel CLIPVisionModelWithProjection SiglipVisionModel ViTMSNModel ViTMAEForPreTraining "
    "YolosForObjectDetection IJepaModel DPTForDepthEstimation Data2VecVisionModel VitDetModel "
    "PixtralVisionModel Swin2SRForImageSuperResolution",
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
    "TableTransformerForObjectDetection SuperPointForKeypointDetection",
    "contrast picture": "CLIPModel SiglipModel ChineseCLIPModel AltCLIPModel BlipModel CLIPSegModel ViltModel",
    "waves": "Wav2Vec2ForCTC HubertForCTC WavLMModel UniSpeechModel UniSpeechSatModel SEWForCTC SEWDForCTC Data2VecAudioModel ",
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
    "FalconForCausalLM OPTForCausalLM GPTJForCausalLM"
)
"""Decoders that are tried behind a cache as well."""

_PLAIN_RESNET = {"model_type": "resnet", "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "embedding_size": 8}
_BACKBONE = {"backbone_config": {**_PLAIN_RESNET, "out_features": ["stage4"]}, "num_queries": 6}
_PYRAMID = {"backbone_config": {**_PLAIN_RESNET, "out_features": ["stage2", "stage3", "stage4"]}, "num_queries": 6}
_HALVES = {"hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 4, 4], "sr_ratios": [8, 4, 2, 1]}
_SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 64}
_WAVES = dict.fromkeys(PLAIN["waves"].split() + PLAIN["masked waves"].split(), SPEECH)
_DETR = {
    "anchor_image_size": None,
    "num_queries": 6,
    "encoder_in_channels": [16, 24, 32],
    "decoder_in_channels": [32, 32, 32],
    "encoder_hidden_dim": 32,
    "d_model": 32,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_denoising": 0,
}

OPTIONS: dict[str, dict[str, Any]] = {
    **{name: options for name, options in _WAVES.items() if "odec" not in name and name not in ("", "")},
    "LongformerModel": {"attention_window": 8},
    "LukeModel": {"entity_vocab_size": 8, "entity_emb_size": 8},
    "RoCBertModel": {"pronunciation_vocab_size": 96, "shape_vocab_size": 96},
    "XmodModel": {"default_language": "en_XX"},
    "ReformerModel": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 16], "feed_forward_size": 48},
    "PerceiverForMaskedLM": {"d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 2},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]]},
    "DeepseekV3ForCausalLM": {
        "num_key_value_heads": 4,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "head_dim": 8,
    },
    "Mamba2ForCausalLM": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 8},
    "RecurrentGemmaForCausalLM": {"num_hidden_layers": 3, "lru_width": 32},
    "BambaForCausalLM": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "MixtralForCausalLM": {"intermediate_size": 48},
    "DPTForDepthEstimation": {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 8, 8]},
    "YolosForObjectDetection": {"image_size": [32, 32], "num_detection_tokens": 5},
    "Swin2SRForImageSuperResolution": {
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 4,
        "patch_size": 1,
    },
    "ViTMAEForPreTraining": {"decoder_hidden_size": 16, "decoder_intermediate_size": 16, "decoder_num_hidden_layers": 1},
    "ConvNextForImageClassification": {"hidden_sizes": [8, 16, 24, 32], "num_hidden_layers": 4},
    "ConvNextV2ForImageClassification": {"hidden_sizes": [8, 16, 24, 32], "num_hidden_layers": 4},
    "DINOv3ConvNextModel": {"hidden_sizes": [8, 16, 24, 32]},
    "ResNetForImageClassification": {"hidden_sizes": [8, 16, 24, 32]},
    "RegNetForImageClassification": {"hidden_sizes": [8, 16, 24, 32], "groups_width": 8},
    "PoolFormerForImageClassification": {"hidden_sizes": [8, 16, 24, 32]},
    "SwinForImageClassification": _SWIN,
    "Swinv2ForImageClassification": _SWIN,
    "DonutSwinModel": _SWIN,
    "FocalNetForImageClassification": {"embed_dim": 8},
    "HieraForImageClassification": {"embed_dim": 8, "num_heads": [1, 2, 4, 8], "image_size": [64, 64]},
    "SegformerForSemanticSegmentation": {**_HALVES, "decoder_hidden_size": 16},
    "GLPNForDepthEstimation": {**_HALVES, "decoder_hidden_size": 16},
    "PvtForImageClassification": _HALVES,
    "PvtV2ForImageClassification": _HALVES,
    "LevitForImageClassification": {
        "hidden_sizes": [16, 24, 32],
        "num_attention_heads": [2, 2, 4],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "CvtForImageClassification": {"embed_dim": [8, 16, 24], "depth": [1, 2, 3], "num_heads": [1, 2, 3]},
    "EfficientNetForImageClassification": {"hidden_dim": 640, "width_coefficient": 0.5, "depth_coefficient": 0.5},
    "BitForImageClassification": {"hidden_sizes": [8, 16, 24, 32], "embedding_size": 8, "num_groups": 4},
    "SwiftFormerForImageClassification": {"embed_dims": [8, 16, 24, 32]},
    "HGNetV2ForImageClassification": {},
    "DetrForObjectDetection": _BACKBONE,
    "ConditionalDetrForObjectDetection": _BACKBONE,
    "DabDetrForObjectDetection": {**_BACKBONE, "hidden_size": 32},
    "TableTransformerForObjectDetection": _BACKBONE,
    "DeformableDetrForObjectDetection": {**_PYRAMID, "num_feature_levels": 3},
    "RTDetrForObjectDetection": {**_PYRAMID, **_DETR},
    "RTDetrV2ForObjectDetection": {**_PYRAMID, **_DETR},
    "DFineForObjectDetection": {**_PYRAMID, **_DETR},
    "SuperPointForKeypointDetection": {"encoder_hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 16},
    "WhisperForConditionalGeneration": {"max_source_positions": 32, "num_mel_bins": 80},
    "Speech2TextForConditionalGeneration": {"input_feat_per_channel": 80, "conv_channels": 16},
    "ASTForAudioClassification": {"max_length": 64, "num_mel_bins": 32, "patch_size": 8, "hidden_size": 32},
    "LiltModel": {"max_2d_position_embeddings": 128, "hidden_size": 48},
    "LayoutLMForTokenClassification": {"max_2d_position_embeddings": 128},
    "PatchTSTForPrediction": {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8},
    "PatchTSMixerForPrediction": {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8},
}
"""Options of a family beside the `SIZES`."""


def heads(pattern: str = "*") -> Iterator[Head]:
    """All that are tried, whose name matches the glob `pattern`; behind a cache has `` cached`` after its name."""
    import_torchvision()
    for kind, names in PLAIN.items():
        for name in names.split():
            if fnmatch(name, pattern):
                yield Head(name, kind, OPTIONS.get(name, {}))
    for name in CACHED.split():
        if fnmatch(f"{name} cached", pattern):
            yield Head(f"{name} cached", "cached", OPTIONS.get(name, {}))
