"""Sizes and options that make the families of transformers small: see `benchmarks.heads`."""

from __future__ import annotations

from typing import Any

WORDS = 96
PLACE = 2
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

_PLAIN_RESNET = {"model_type": "resnet", "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "embedding_size": 8}
_BACKBONE = {"backbone_config": {**_PLAIN_RESNET, "out_features": ["stage4"]}, "num_queries": 6}
_PYRAMID = {"backbone_config": {**_PLAIN_RESNET, "out_features": ["stage2", "stage3", "stage4"]}, "num_queries": 6}
_HALVES = {"hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 4, 4], "sr_ratios": [8, 4, 2, 1]}
_SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 64}
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
    "initializer_range": 0.3,  # with that of the family all scores are the same
}

_DEEPSEEK = {
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
}

_TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, **VISION}
_LANGUAGE = {name: SIZES[name] for name in ("vocab_size", "num_key_value_heads", "head_dim", "max_position_embeddings")} | {
    name: size for name, size in _TOWER.items() if name not in VISION
}
_CLIP, _SIGLIP = {"model_type": "clip_vision_model", **_TOWER}, {"model_type": "siglip_vision_model", **_TOWER}
_SAM = {"hidden_size": 32, "mlp_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64, "patch_size": 8}
_FOUR = ["stage1", "stage2", "stage3", "stage4"]
_MASKS = {
    "backbone_config": {
        "model_type": "swin",
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "window_size": 4,
        "image_size": 64,
        "out_features": _FOUR,
    },
    "mask_feature_size": 32,
}
_LAYERS = ("encoder_layers", "decoder_layers")
_WIDTHS = ("encoder_ffn_dim", "decoder_ffn_dim")


def _seeing(language: str, vision: dict[str, Any], **options: Any) -> dict[str, Any]:
    """A language model of the kind `language` that reads pictures."""
    return {"text_config": {"model_type": language, **_LANGUAGE}, "vision_config": vision, **options}


OPTIONS: dict[str, dict[str, Any]] = {
    "LongformerModel": {"attention_window": 8},
    "LukeModel": {"entity_vocab_size": 8, "entity_emb_size": 8},
    "RoCBertModel": {"pronunciation_vocab_size": 96, "shape_vocab_size": 96},
    "XmodModel": {"default_language": "en_XX"},
    "SwitchTransformersForConditionalGeneration": {
        "num_decoder_layers": 2,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
    },
    "ReformerModel": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 16], "feed_forward_size": 48, "use_cache": False},
    "PerceiverForMaskedLM": {"d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 2},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]]},
    "DeepseekV3ForCausalLM": _DEEPSEEK,
    "DeepseekV2ForCausalLM": _DEEPSEEK,
    "Mamba2ForCausalLM": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 8},
    "RecurrentGemmaForCausalLM": {"num_hidden_layers": 3, "lru_width": 32},
    "BambaForCausalLM": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1},
    "GraniteMoeHybridForCausalLM": {
        "layer_types": ["mamba", "attention"],
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
        "shared_intermediate_size": 16,
    },
    "Glm4MoeLiteForCausalLM": _DEEPSEEK,
    "YoutuForCausalLM": _DEEPSEEK,
    "SolarOpenForCausalLM": {"n_routed_experts": 4},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "Lfm2ForCausalLM": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
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
    "EfficientNetForImageClassification": {
        "hidden_dim": 640,
        "width_coefficient": 0.5,
        "depth_coefficient": 0.5,
        "initializer_range": 0.7,  # with that of the family nothing but zeros is left at the end
    },
    "MobileViTForImageClassification": {"initializer_range": 0.2},  # as above
    "MobileViTV2ForImageClassification": {"initializer_range": 0.1},
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
    "LayoutLMv3ForTokenClassification": {
        "max_2d_position_embeddings": 128,
        "coordinate_size": 6,
        "shape_size": 4,
        "input_size": PIXELS,
        "patch_size": 8,
    },
    "SamModel": {
        "vision_config": {**_SAM, "output_channels": 32, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 16},
        "prompt_encoder_config": {**_SAM, "mask_input_channels": 4},
        "mask_decoder_config": {**_SAM, "iou_head_hidden_dim": 32},
    },
    "DepthAnythingForDepthEstimation": {
        "backbone_config": {
            "model_type": "dinov2",
            **_TOWER,
            "num_hidden_layers": 4,
            "out_features": _FOUR,
            "reshape_hidden_states": False,
        },
        "reassemble_hidden_size": 32,
        "neck_hidden_sizes": [8, 8, 8, 8],
        "fusion_hidden_size": 8,
        "head_hidden_size": 8,
    },
    "Mask2FormerForUniversalSegmentation": {
        **_MASKS,
        "feature_size": 32,
        "encoder_feedforward_dim": 48,
        "dim_feedforward": 48,
        "num_queries": 6,
    },
    "MaskFormerForInstanceSegmentation": {
        **_MASKS,
        "fpn_feature_size": 32,
        "decoder_config": {
            "model_type": "detr",
            "d_model": 32,
            **dict.fromkeys(_LAYERS, 2),
            **dict.fromkeys(_WIDTHS, 48),
            "num_queries": 6,
        },
    },
    "OwlViTForObjectDetection": {"projection_dim": 32},
    "Owlv2ForObjectDetection": {"projection_dim": 32},
    "GitForCausalLM": {"vision_config": _TOWER},
    "LlavaForConditionalGeneration": _seeing("llama", _CLIP, image_token_index=PLACE),
    "VipLlavaForConditionalGeneration": _seeing(
        "llama", {**_CLIP, "num_hidden_layers": 4}, image_token_index=PLACE, vision_feature_layers=[-2, -1]
    ),
    "PaliGemmaForConditionalGeneration": _seeing(
        "gemma", {**_SIGLIP, "projection_dim": 32}, image_token_index=PLACE, projection_dim=32
    ),
    "Gemma3ForConditionalGeneration": _seeing("gemma3_text", _SIGLIP, image_token_index=PLACE, mm_tokens_per_image=16),
    "AyaVisionForConditionalGeneration": _seeing("cohere2", _SIGLIP, image_token_id=PLACE, downsample_factor=1),
    "InternVLForConditionalGeneration": _seeing(
        "qwen2", {**_TOWER, "image_size": [PIXELS] * 2, "patch_size": [8] * 2}, image_token_id=PLACE, downsample_ratio=1.0
    ),
    "Blip2ForConditionalGeneration": {
        "text_config": {"model_type": "opt", **_LANGUAGE, "ffn_dim": 48, "word_embed_proj_dim": 32},
        "vision_config": _TOWER,
        "qformer_config": {**_TOWER, "vocab_size": WORDS, "encoder_hidden_size": 32},
        "num_query_tokens": 16,
        "image_token_index": PLACE,
    },
    "TimesformerForVideoClassification": {"num_frames": 4},
    "VivitForVideoClassification": {"num_frames": 4},
    "MoonshineForConditionalGeneration": {
        "encoder_num_hidden_layers": 2,
        "decoder_num_hidden_layers": 2,
        "intermediate_size": 48,
    },
    "VideoMAEForVideoClassification": {"num_frames": 4, "decoder_num_hidden_layers": 1},
    "Qwen2VLForConditionalGeneration": {
        "text_config": {
            **_LANGUAGE,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        },
        "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 4},
    },
    "VitsModel": {"flow_size": 32, "upsample_initial_channel": 32, "num_attention_heads": 2},
    "PatchTSTForPrediction": {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8},
    "PatchTSMixerForPrediction": {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8},
}
"""Options of a family beside the `SIZES`."""

OF_KINDS: dict[str, dict[str, Any]] = dict.fromkeys(("waves", "masked waves", "spoken"), SPEECH)
"""Options of all families that take one kind of inputs."""
