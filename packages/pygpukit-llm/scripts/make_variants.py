"""Makes small models with random weights, and what transformers computes with them in float32.

They cover the options that families have beside those of the reference models:

    uv run --no-project --with torch --with transformers scripts/make_variants.py FOLDER [NAME …]

Those of the tests are in tests/reference_models/variants.

Each model is a folder with config.json, model.safetensors (bfloat16) and reference.safetensors, the
latter with prompt_ids, the logits at each of them, and the greedy_ids that follow.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.3, 1.5],
    "long_factor": [1.2, 2.0, 3.0, 4.0],
}
ROPES = {
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": YARN,
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]

MLA = {
    "kv_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "num_key_value_heads": 4,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"llama-rope-{name}": ("Llama", {"rope_parameters": {"rope_theta": 5e3, **rope}})
        for name, rope in ROPES.items()
    },
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "llama-gelu-tied": (
        "Llama",
        {"hidden_act": "gelu", "tie_word_embeddings": True, "num_key_value_heads": 4},
    ),
    "mistral-full": ("Mistral", {"sliding_window": None, "head_dim": 16}),
    "ministral-layers": (
        "Ministral",
        {"sliding_window": 8, "layer_types": SLIDING, "head_dim": 16},
    ),
    "mixtral-window": (
        "Mixtral",
        {
            "num_local_experts": 6,
            "num_experts_per_tok": 3,
            "sliding_window": 8,
            "num_hidden_layers": 2,
        },
    ),
    "qwen2-max-window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "qwen3-layers": (
        "Qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": 8,
            "layer_types": SLIDING,
            "head_dim": 16,
            "attention_bias": True,
        },
    ),
    "qwen3-yarn": ("Qwen3", {"rope_parameters": {"rope_theta": 1e6, **YARN}, "head_dim": 16}),
    "qwen3-moe-dense-layers": (
        "Qwen3Moe",
        {
            "num_experts": 5,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "norm_topk_prob": False,
            "decoder_sparse_step": 2,
            "num_hidden_layers": 5,
            "mlp_only_layers": [3],
            "head_dim": 8,
        },
    ),
    "gemma": ("Gemma", {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma2-uncapped": (
        "Gemma2",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "sliding_window": 8,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "attention_bias": True,
        },
    ),
    "gemma2-capped": (
        "Gemma2",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "sliding_window": 8,
        },
    ),
    "gemma3-scaled": (
        "Gemma3Text",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 12,
            "sliding_window": 8,
            "layer_types": SLIDING,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "phi3-longrope-short": (
        "Phi3",
        {"original_max_position_embeddings": 64, "rope_parameters": LONGROPE},
    ),
    "phi3-longrope-crossed": (
        "Phi3",
        {"original_max_position_embeddings": 44, "rope_parameters": LONGROPE},
    ),
    "phi3-longrope-long": (
        "Phi3",
        {
            "original_max_position_embeddings": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "partial_rotary_factor": 0.5,
            "rope_parameters": {**LONGROPE, "partial_rotary_factor": 0.5},
            "sliding_window": 24,
            "tie_word_embeddings": True,
        },
    ),
    "olmo2-biases": ("Olmo2", {"attention_bias": True, "tie_word_embeddings": True}),
    "granite": (
        "Granite",
        {
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.5,
            "tie_word_embeddings": True,
        },
    ),
    "granite-biases": (
        "Granite",
        {"attention_bias": True, "mlp_bias": True, "attention_multiplier": 0.35},
    ),
    "starcoder2": ("Starcoder2", {"sliding_window": 8}),
    "starcoder2-no-bias": ("Starcoder2", {"use_bias": False, "tie_word_embeddings": False}),
    "gpt-neox": (
        "GPTNeoX",
        {"rope_parameters": {"partial_rotary_factor": 0.5}, "num_key_value_heads": 4},
    ),
    "gpt-neox-in-turn": (
        "GPTNeoX",
        {
            "use_parallel_residual": False,
            "attention_bias": False,
            "hidden_act": "gelu_new",
            "num_key_value_heads": 4,
        },
    ),
    "cohere": ("Cohere", {"logit_scale": 0.25}),
    "cohere-qk-norm": ("Cohere", {"use_qk_norm": True, "attention_bias": True}),
    "cohere2": ("Cohere2", {"sliding_window": 8, "logit_scale": 0.5, "num_hidden_layers": 5}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 5}),
    "smollm3-no-rope-layers": (
        "SmolLM3",
        {
            "no_rope_layers": [1, 0, 1],
            "use_sliding_window": True,
            "sliding_window": 8,
            "tie_word_embeddings": False,
        },
    ),
    "olmo3": (
        "Olmo3",
        {
            "sliding_window": 8,
            "num_hidden_layers": 4,
            "rope_parameters": {
                "full_attention": {**YARN, "rope_theta": 5e3},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
            },
        },
    ),
    "deepseek-v2": (
        "DeepseekV2",
        {**MLA, "q_lora_rank": None, "v_head_dim": 16, "topk_method": "greedy"},
    ),
    "deepseek-v2-groups": (
        "DeepseekV2",
        {
            **MLA,
            "q_lora_rank": 20,
            "v_head_dim": 24,
            "topk_method": "group_limited_greedy",
            "n_group": 3,
            "topk_group": 2,
            "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7},
        },
    ),
    "deepseek-v3": (
        "DeepseekV3",
        {
            **MLA,
            "q_lora_rank": 20,
            "v_head_dim": 16,
            "n_group": 3,
            "topk_group": 2,
            "attention_bias": True,
        },
    ),
    "arcee": ("Arcee", {"attention_bias": True, "mlp_bias": True}),
    "cwm": ("Cwm", {"sliding_window": 8, "head_dim": 16, "rope_parameters": ROPES["llama3"]}),
    "ernie4-5": ("Ernie4_5", {"head_dim": 16, "use_bias": True}),
    "internlm3": (
        "InternLM3",
        {
            "head_dim": 16,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {"rope_theta": 5e3, **ROPES["dynamic"]},
        },
    ),
    "seed-oss": ("SeedOss", {"head_dim": 16, "attention_out_bias": True}),
    "glm": ("Glm", {"head_dim": 16}),
    "glm4": ("Glm4", {"head_dim": 16, "attention_bias": False}),
    "exaone4": ("Exaone4", {"sliding_window": 8, "num_hidden_layers": 5}),
    "exaone4-full": (
        "Exaone4",
        {
            "sliding_window": None,
            "layer_types": ["full_attention"] * 3,
            "tie_word_embeddings": True,
        },
    ),
    "stablelm": ("StableLm", {"rope_parameters": {"partial_rotary_factor": 0.5}}),
    "stablelm-parallel": (
        "StableLm",
        {
            "use_qkv_bias": True,
            "use_parallel_residual": True,
            "rope_parameters": {"partial_rotary_factor": 0.25},
        },
    ),
    "glm4-moe": (
        "Glm4Moe",
        {
            "head_dim": 16,
            "attention_bias": True,
            "use_qk_norm": True,
            "n_routed_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 16,
            "n_group": 3,
            "topk_group": 2,
            "routed_scaling_factor": 1.5,
        },
    ),
    "glm4-moe-plain": (
        "Glm4Moe",
        {
            "head_dim": 16,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "n_shared_experts": 2,
            "first_k_dense_replace": 2,
            "norm_topk_prob": False,
        },
    ),
    "ernie4-5-moe": (
        "Ernie4_5_Moe",
        {
            "moe_num_experts": 6,
            "moe_k": 3,
            "moe_intermediate_size": 16,
            "moe_num_shared_experts": 1,
            "num_hidden_layers": 4,
            "moe_layer_interval": 2,
        },
    ),
    "olmoe": (
        "Olmoe",
        {"num_experts": 6, "num_experts_per_tok": 4, "intermediate_size": 24},
    ),
    "olmoe-normalised": (
        "Olmoe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "intermediate_size": 24,
            "norm_topk_prob": True,
            "attention_bias": True,
        },
    ),
    "granite-moe": (
        "GraniteMoe",
        {
            "num_local_experts": 6,
            "num_experts_per_tok": 3,
            "intermediate_size": 24,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.5,
        },
    ),
    "granite-moe-shared": (
        "GraniteMoeShared",
        {
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "intermediate_size": 16,
            "shared_intermediate_size": 24,
            "attention_bias": True,
            "attention_multiplier": 0.35,
            "residual_multiplier": 0.6,
            "tie_word_embeddings": True,
        },
    ),
    "granite-4": (
        "GraniteMoeHybrid",
        {
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 24,
            "layer_types": ["full_attention"] * 3,
            "position_embedding_type": "rope",
            "mamba_n_heads": 4,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.5,
            "tie_word_embeddings": True,
        },
    ),
    "granite-4-experts": (
        "GraniteMoeHybrid",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 3,
            "intermediate_size": 16,
            "shared_intermediate_size": 24,
            "layer_types": ["full_attention"] * 3,
            "mamba_n_heads": 4,
            "attention_multiplier": 0.35,
            "residual_multiplier": 0.6,
        },
    ),
    "ministral3": (
        "Ministral3",
        {
            "head_dim": 16,
            "rope_parameters": {
                **YARN,
                "original_max_position_embeddings": 8,
                "rope_theta": 1e4,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.5,
            },
        },
    ),
    "gpt2-scaled-by-layer": (
        "GPT2",
        {
            "scale_attn_by_inverse_layer_idx": True,
            "reorder_and_upcast_attn": True,
            "n_inner": 40,
            "intermediate_size": ...,
            "num_key_value_heads": ...,
        },
    ),
    "phi": ("Phi", {"rope_parameters": {"partial_rotary_factor": 0.5}}),
    "qwen2-moe": (
        "Qwen2Moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 24,
            "mlp_only_layers": [1],
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 1,
        },
    ),
    "qwen2-moe-all": (
        "Qwen2Moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 24,
            "num_hidden_layers": 2,
        },
    ),
    "glm4-moe-lite": (
        "Glm4MoeLite",
        {
            **{key: value for key, value in MLA.items() if key != "first_k_dense_replace"},
            "q_lora_rank": 20,
            "v_head_dim": 24,
            "n_group": 1,
            "topk_group": 1,
            "attention_bias": True,
            "mlp_layer_types": ["dense", "sparse", "dense"],
        },
    ),
    "youtu": (
        "Youtu",
        {
            "kv_lora_rank": 24,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "num_key_value_heads": 4,
            "q_lora_rank": 20,
            "tie_word_embeddings": False,
        },
    ),
    "youtu-wide-values": (
        "Youtu",
        {
            "kv_lora_rank": 24,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 12,
            "v_head_dim": 24,
            "num_key_value_heads": 4,
            "q_lora_rank": None,
            "attention_bias": True,
            "rope_interleave": False,
            "tie_word_embeddings": False,
            "pad_token_id": None,
        },
    ),
    "gpt-neox-odd-rotation": (
        "GPTNeoX",
        {
            "hidden_size": 48,
            "rope_parameters": {"partial_rotary_factor": 0.25},
            "num_key_value_heads": 4,
        },
    ),
    "hunyuan": (
        "HunYuanDenseV1",
        {
            "head_dim": 16,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 1e4,
                "alpha": 50.0,
                "factor": 1.0,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
        },
    ),
    "hunyuan-biases": ("HunYuanDenseV1", {"attention_bias": True, "head_dim": 8}),
    "minicpm3": (
        "MiniCPM3",
        {
            "kv_lora_rank": 24,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "num_key_value_heads": 4,
            "q_lora_rank": 20,
            "scale_emb": 3,
            "scale_depth": 0.9,
            "dim_model_base": 12,
        },
    ),
    "gpt-oss": (
        "GptOss",
        {
            "head_dim": 16,
            "hidden_size": 64,
            "sliding_window": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "rope_parameters": {**YARN, "rope_theta": 150000.0, "truncate": False},
        },
    ),
    "gpt-oss-clamped": (
        "GptOss",
        {
            "head_dim": 8,
            "sliding_window": 8,
            "layer_types": ["full_attention", *SLIDING[:2]],
            "num_local_experts": 5,
            "num_experts_per_tok": 3,
            "intermediate_size": 24,
            "swiglu_alpha": 1.2,
            "swiglu_limit": 0.6,
            "attention_bias": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e3},
            "tie_word_embeddings": True,
        },
    ),
}
PROMPT, GENERATED = 40, 10


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Weights that make every part of the model count, in bfloat16."""
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1 or "norm" in name:
            centre = 1.0 if name.endswith("weight") and "emma" not in type(model).__name__ else 0.0
            values = centre + 0.2 * values
        else:
            values *= 0.8 / parameter.shape[-1] ** 0.5
            values *= 1.5 if "embed" in name else 1.0
        parameter.data = values.to(torch.bfloat16).float()
    for name, buffer in model.named_buffers():
        if name.endswith("correction_bias"):
            values = 0.2 * torch.randn(buffer.shape, generator=generator)
            buffer.copy_(values.to(torch.bfloat16))


def make(folder: Path, family: str, options: dict[str, Any], seed: int) -> None:
    """Writes one model and its results."""
    config_class = getattr(transformers, f"{family}Config")
    shape = {key: value for key, value in {**SHAPE, **options}.items() if value is not ...}
    config = config_class(**shape)
    build = transformers.AutoModelForCausalLM.from_config
    model = build(config, attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(seed)
    randomise(model, generator)
    model.tie_weights()
    prompt = torch.randint(3, config.vocab_size, (1, PROMPT), generator=generator)
    with torch.no_grad():
        logits = model(prompt).logits[0]
        ids = prompt
        for _ in range(GENERATED):
            step = model(ids, use_cache=False).logits[:, -1]
            ids = torch.cat((ids, step.argmax(-1, keepdim=True)), dim=1)
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    reference = {
        "prompt_ids": prompt[0].to(torch.int32),
        "logits": logits.contiguous(),
        "greedy_ids": ids[0, PROMPT:].to(torch.int32).contiguous(),
    }
    save_file(reference, folder / "reference.safetensors")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=1) + "\n")


def main() -> None:
    """Makes the models that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CASES))
    arguments = parser.parse_args()
    for seed, (name, (family, options)) in enumerate(CASES.items()):
        if name in (arguments.names or CASES):
            make(arguments.folder / name, family, options, seed)


if __name__ == "__main__":
    main()
