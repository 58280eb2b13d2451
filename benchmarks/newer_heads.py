"""Families of transformers that came last, by what they take, with the options that make them small: see `benchmarks.heads`."""

from __future__ import annotations

from typing import Any

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
}
"""By kind and name. `Head.build` leaves out the options that a configuration does not have."""
