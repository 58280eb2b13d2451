"""Families of transformers that came last, by what they take, with the options that make them small: see `benchmarks.heads`."""

from __future__ import annotations

from typing import Any

from benchmarks.head_options import SIZES, VISION

_DELTA = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "shared_expert_intermediate_size": 16,
}
_LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
_ROUTED = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
_INDEXED = {**_LATENT, **_ROUTED, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 4}

_BLOCKS = {"num_hidden_layers": 3, "num_blocks": 1, "num_queries": 6, "num_register_tokens": 2}
_GROUPED = {name: SIZES[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
_TEXT = {**_GROUPED, "vocab_size": SIZES["vocab_size"], "max_position_embeddings": 128}
_SEEN = {"hidden_size": 64, "num_hidden_layers": 2, **VISION}  # 64 is a head of its attention
_RESNET = {"model_type": "resnet", "depths": [1] * 4, "hidden_sizes": [8, 16, 24, 32], "embedding_size": 8}
_DECODING = {**_TEXT, "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8}
_WINDOWED = {"model_type": "lw_detr_vit", **_GROUPED, "image_size": 64, "pretrain_image_size": 64, "patch_size": 8}

NEWER: dict[str, dict[str, dict[str, Any]]] = {
    "text": {"GteForMaskedLM": {}, "UltrabertForMaskedLM": {}},
    "decoder": {
        "AriaTextForCausalLM": {},
        "BeamForCausalLM": {},
        "Cohere2MoeForCausalLM": {},
        "CpmAntForCausalLM": {},
        "DbrxForCausalLM": {
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
            "max_seq_len": 128,
        },
        "DeepseekV32ForCausalLM": _INDEXED,
        "DeepseekV4ForCausalLM": {},
        "Dots1ForCausalLM": {**_ROUTED, "n_shared_experts": 1},
        "Emu3ForCausalLM": {},
        "FlintForCausalLM": {},
        "GPTNeoXJapaneseForCausalLM": {},
        "GlmMoeDsaForCausalLM": _INDEXED,
        "GraniteSWAForCausalLM": {},
        "HYV3ForCausalLM": {},
        "HrmTextForCausalLM": {},
        "HunYuanMoEV1ForCausalLM": {},
        "HyperCLOVAXForCausalLM": {},
        "InklingForCausalLM": {},
        "Kolibri1ForCausalLM": {},
        "LagunaForCausalLM": {},
        "Lfm3ForCausalLM": {"layer_types": ["full_attention", "full_attention"]},
        "LongcatFlashForCausalLM": {
            **_LATENT,
            "n_routed_experts": 4,
            "zero_expert_num": 2,
            "moe_topk": 2,
            "expert_ffn_hidden_size": 16,
            "ffn_hidden_size": 48,
            "num_layers": 1,
        },
        "MellumForCausalLM": {},
        "MiMoV2FlashForCausalLM": {},
        "MiniCPM3ForCausalLM": _LATENT,
        "Ministral3ForCausalLM": {},
        "NemotronHForCausalLM": {},
        "OlmoHybridForCausalLM": {},
        "Qwen3NextForCausalLM": _DELTA,
        "Qwen3_5ForCausalLM": _DELTA,
        "Qwen3_5MoeForCausalLM": _DELTA,
        "ZayaForCausalLM": {"num_experts_per_tok": 1},
    },
    "both": {"T5GemmaForConditionalGeneration": {"encoder": _DECODING, "decoder": _DECODING}},
    "picture": {
        "EomtDinov3ForUniversalSegmentation": _BLOCKS,
        "EomtForUniversalSegmentation": _BLOCKS,
        "Sapiens2Model": {
            "num_register_tokens": 2,
            "num_key_value_heads_per_layer": [4, 2],
            "num_key_value_attention_heads": 2,
            "num_first_full_attention_layers": 1,
            "num_last_full_attention_layers": 0,
        },
        "Swin2SRModel": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 1},
    },
    "stages": {
        "LwDetrForObjectDetection": {
            "backbone_config": {**_WINDOWED, "window_block_indices": [0], "num_windows": 4, "out_indices": [1, 2]},
            "projector_scale_factors": [1.0],
            "projector_in_channels": [32, 32],
            "projector_out_channels": 32,
            "decoder_self_attention_heads": 4,
            "decoder_cross_attention_heads": 4,
            "num_queries": 6,
            "group_detr": 2,
            "num_feature_levels": 1,
        },
        "TextNetForImageClassification": {
            "stem_out_channels": 8,
            "hidden_sizes": [8, 8, 16, 16, 24],
            "depths": [3, 4, 4, 4],
            "initializer_range": 0.3,
        },
        "UperNetForSemanticSegmentation": {
            "backbone_config": {**_RESNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
            "hidden_size": 16,
            "auxiliary_channels": 16,
            "auxiliary_in_channels": 24,
        },
    },
    "contrast picture": {
        "BridgeTowerModel": {"text_config": _TEXT, "vision_config": _SEEN},
        "FlavaModel": {},
        "GroupViTModel": {},
    },
    "waves": {"UniSpeechForCTC": {}},
}
"""By kind and name. `Head.build` leaves out the options that a configuration does not have."""
