"""config.json: each key is obeyed, known to change nothing, or refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pygpukit.core import PygpukitError
from pygpukit.llm import ConfigError, ModelConfig
from pygpukit.llm.models import config_from_json

MODELS = Path(__file__).parent / "reference_models"

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Reads a config.json with these keys; `...` drops one."""

    def read(values: dict[str, Any] = LLAMA, **changes: Any) -> ModelConfig:
        kept = {key: value for key, value in (values | changes).items() if value is not ...}
        file = tmp_path / "config.json"
        file.write_text(json.dumps(kept))
        return config_from_json(file)

    return read


def test_llama(read: Any) -> None:
    config = read()
    assert config.architecture == "llama"
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (4, 2, 16)
    assert config.attention_scale == 0.25
    assert config.norm_eps == 1e-5
    assert config.windows == (0, 0, 0)
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == (False, False, False)
    assert (config.qk_norm, config.tied_embeddings) == (None, False)
    assert config.cache_bytes(10) == 10 * 3 * 2 * 2 * 16 * 4


def test_the_head_dimension_is_read_not_guessed(read: Any) -> None:
    assert read(head_dim=32).head_dim == 32
    assert read(head_dim=32).qkv_rows == (128, 64, 64)
    assert read(head_dim=None).head_dim == 16


def test_keys_change_what_they_say(read: Any) -> None:
    assert read(attention_bias=True).qkv_bias
    assert read(attention_bias=True).output_bias
    assert read(mlp_bias=True).mlp_bias
    assert read(hidden_act="gelu_pytorch_tanh").activation == "gelu_tanh"
    assert read(hidden_act="gelu").activation == "gelu"
    assert read(rms_norm_eps=0.5).norm_eps == 0.5
    assert read(tie_word_embeddings=True).tied_embeddings
    assert read(eos_token_id=[5, 7]).eos_token_ids == (5, 7)
    assert read(eos_token_id=5, bos_token_id=1).bos_token_id == 1
    assert read(rope_theta=5e5).rope.theta == 5e5
    assert read(num_key_value_heads=...).num_kv_heads == 4


LONGROPE = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
SCALED = {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 5e5, "rope_scaling": SCALED},
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_theta": 5e5, "rope_scaling": {**SCALED, "type": "linear"}},
        {"rope_theta": ..., "rope_parameters": {**SCALED, "rope_theta": 5e5}},
    ],
    ids=str,
)
def test_rope_keys_of_every_version(read: Any, keys: dict[str, Any]) -> None:
    rope = read(**keys).rope
    assert (rope.type, rope.theta) == ("linear", 5e5)
    assert rope.inv_freq[0] == 0.25


def test_dtype_keys_of_every_version_change_nothing(read: Any) -> None:
    assert read(torch_dtype="float16") == read(dtype="bfloat16") == read()


def test_keys_that_are_known_to_change_nothing(read: Any) -> None:
    harmless = {
        "architectures": ["LlamaForCausalLM"],
        "transformers_version": "4.40.0",
        "initializer_range": 0.02,
        "use_cache": True,
        "_name_or_path": "x",
        "transformers.js_config": {"dtype": "q4"},
        "pretraining_tp": 2,
        "max_sequence_length": 2048,
        "_num_labels": 1,
        "rope_scaling": None,
        "is_llama_config": True,
        "rope_interleaved": False,
    }
    assert read(**harmless) == read()


def as_written_before_version_5(config: dict[str, Any]) -> dict[str, Any]:
    """The same with the rope keys of transformers 4."""
    config = dict(config)
    rope = dict(config.pop("rope_parameters", {}))
    if "full_attention" in rope:
        if config["model_type"] == "gemma3_text":
            config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
    neox = config["model_type"] == "gpt_neox"
    names = {
        "rope_theta": "rotary_emb_base" if neox else "rope_theta",
        "partial_rotary_factor": "rotary_pct" if neox else "partial_rotary_factor",
    }
    for key, name in names.items():
        if key in rope:
            config[name] = rope.pop(key)
    scaled_anyway = config["model_type"] == "gpt_oss"
    if rope.get("rope_type", "default") != "default" or scaled_anyway:
        config["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    return config


@pytest.mark.parametrize(
    "file", sorted(MODELS.rglob("config.json")), ids=lambda file: str(file.parent.name)
)
def test_every_model_in_the_layout_before_version_5(read: Any, file: Path) -> None:
    config = json.loads(file.read_text())
    assert read(as_written_before_version_5(config)) == read(config)


def test_mistral(read: Any) -> None:
    assert read(model_type="mistral", sliding_window=16).windows == (16, 16, 16)
    assert read(model_type="mistral", sliding_window=None).windows == (0, 0, 0)
    assert read(model_type="mistral").windows == (4096,) * 3


def test_qwen(read: Any) -> None:
    qwen2 = read(model_type="qwen2", use_sliding_window=False, sliding_window=8)
    assert qwen2.qkv_bias
    assert not qwen2.output_bias
    assert qwen2.windows == (0, 0, 0)
    sliding = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    assert read(model_type="qwen2", **sliding).windows == (0, 8, 8)
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    assert read(model_type="qwen3", layer_types=types, **sliding).windows == (8, 0, 8)
    assert read(model_type="qwen3").qk_norm


def test_defaults_that_files_leave_out(read: Any) -> None:
    """Those of transformers' config classes."""
    moe = {"moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2}
    assert read(model_type="mixtral", rope_theta=...).rope.theta == 1e6
    assert read(model_type="mixtral", num_experts=4).experts.count == 4
    assert not read(model_type="qwen3_moe", **moe).experts.normalized
    assert read(model_type="qwen3_moe", **moe).sparse == (True, True, True)
    gemma2 = read(model_type="gemma2", hidden_act=...)
    assert (gemma2.attention_soft_cap, gemma2.logit_soft_cap) == (50.0, 30.0)
    assert (gemma2.head_dim, gemma2.attention_scale) == (256, 1 / 16)
    assert gemma2.windows == (4096, 0, 4096)
    assert gemma2.tied_embeddings
    gemma3 = read(model_type="gemma3_text", num_hidden_layers=7, rope_theta=...)
    assert gemma3.windows == (4096,) * 5 + (0, 4096)
    assert [rope.theta for rope in gemma3.ropes[4:]] == [1e4, 1e6, 1e4]
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34}
    within = read({"model_type": "gemma3", "text_config": text})
    assert (within.num_heads, within.num_kv_heads, within.head_dim) == (8, 4, 256)
    assert (within.vocab_size, within.context_length) == (262208, 131072)
    assert read(model_type="gemma", hidden_act="gelu").activation == "gelu_tanh"
    smollm3 = read(model_type="smollm3", num_hidden_layers=4, pretraining_tp=2)
    assert [rope is not None for rope in smollm3.ropes] == [True, True, True, False]
    cohere2 = read(model_type="cohere2", num_hidden_layers=4, rms_norm_eps=...)
    assert cohere2.windows == (4096, 4096, 4096, 0)
    assert cohere2.ropes[3] is None
    assert cohere2.logit_scale == 0.0625
    phi3 = read(model_type="phi3", max_position_embeddings=131072, rope_scaling=LONGROPE)
    assert phi3.stretch_length == 4096
    assert phi3.rope.attention_scale == pytest.approx(1.1902380714238083)
    assert read(model_type="phi3", rope_scaling={**LONGROPE, "type": "su"}).stretch_length is None


GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": 320,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
}


def test_a_null_is_false(read: Any) -> None:
    """Also where a key that is absent is true."""
    shape = {"model_type": "deepseek_v3", "n_routed_experts": 8, "num_experts_per_tok": 2}
    shape |= {"moe_intermediate_size": 8, "num_key_value_heads": 4, "head_dim": 8}
    assert read(**shape).experts.normalized
    assert not read(**shape, norm_topk_prob=None).experts.normalized


def test_the_rotation_that_a_file_leaves_out(read: Any) -> None:
    """CWM's is scaled as Llama 3's, unless the file says otherwise."""
    assert read(model_type="cwm").rope.type == "llama3"
    assert read(model_type="cwm", rope_scaling={"rope_type": "default"}).rope.type == "default"


def test_kimi(read: Any) -> None:
    shape = {"model_type": "kimi_k2", "n_routed_experts": 8, "num_experts_per_tok": 2}
    shape |= {"moe_intermediate_size": 8, "num_key_value_heads": 4, "n_group": 1, "topk_group": 1}
    config = read(**shape)
    assert config == read(**{**shape, "model_type": "deepseek_v3"})
    assert config.experts.sigmoid


def test_hunyuan(read: Any) -> None:
    """As it is published: the base of the rotation is stretched once and for all."""
    scaling = {"alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "type": "dynamic"}
    scaling |= {"mscale": 1.0, "mscale_all_dim": 1.0}
    shape = {"model_type": "hunyuan_v1_dense", "rope_scaling": scaling, "rope_theta": 10000.0}
    shape |= {"use_qk_norm": True, "use_cla": False, "cla_share_factor": 2, "norm_type": "rms"}
    shape |= {"add_classification_head": False, "dense_list": [4096, 0], "pool_type": "last"}
    config = read(**shape, attention_head_dim=128, head_dim=128)
    assert config.qk_norm == "rotated"
    assert config.rope.theta == pytest.approx(10000 * 1000 ** (128 / 126))
    for key, value in {"use_qk_norm": False, "use_cla": True, "norm_type": "layer"}.items():
        with pytest.raises(ConfigError, match=f"'{key}': {value!r} isn't supported"):
            read(**{**shape, key: value})


def test_granite_4(read: Any) -> None:
    """The models without layers of state spaces, as they are published."""
    shape = {"model_type": "granitemoehybrid", "num_local_experts": 0, "num_experts_per_tok": 0}
    shape |= {"layer_types": ["attention"] * 3, "shared_intermediate_size": 24, "mamba_d_conv": 4}
    shape |= {"normalization_function": "rmsnorm", "init_method": "mup", "mlp_bias": False}
    config = read(**shape, position_embedding_type="rope")
    assert (config.intermediate_size, config.experts) == (24, None)
    assert None not in config.ropes
    assert read(**shape, position_embedding_type="nope").rope is None
    with pytest.raises(ConfigError, match="layers of state spaces aren't supported"):
        read(**{**shape, "layer_types": ["attention", "mamba", "attention"]})
    with pytest.raises(ConfigError, match="'position_embedding_type': 'alibi' isn't supported"):
        read(**shape, position_embedding_type="alibi")


def test_groups_of_experts_that_cannot_be(read: Any) -> None:
    shape = {"model_type": "deepseek_v3", "n_routed_experts": 8, "num_experts_per_tok": 3}
    shape |= {"moe_intermediate_size": 8, "num_key_value_heads": 4, "head_dim": 8}
    for groups, message in (
        ({"n_group": 3, "topk_group": 1}, "n_group 3 must divide n_routed_experts 8"),
        ({"n_group": 2, "topk_group": 3}, "topk_group 3 must not exceed it"),
        ({"n_group": 4, "topk_group": 1}, "num_experts_per_tok must be at most 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            read(**shape, **groups)


def test_the_base_of_a_rotation_beside_those_of_layers(read: Any) -> None:
    """What all layers share may stand outside the objects for each kind."""
    kinds = {"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_theta": 1e3}}
    config = read(model_type="olmo3", rope_theta=7e3, rope_parameters=kinds, sliding_window=8)
    assert {rope.theta for rope in config.ropes} == {1e3}
    config = read(
        model_type="olmo3",
        rope_theta=7e3,
        rope_parameters=kinds,
        layer_types=["full_attention"] * 3,
    )
    assert {rope.theta for rope in config.ropes} == {7e3}


def test_gpt2(read: Any) -> None:
    config = read(GPT2)
    assert config.norm_kind == "layer"
    assert (config.intermediate_size, config.norm_eps) == (256, 1e-5)
    assert config.activation == "gelu_tanh"
    assert config.tied_embeddings
    assert config.rope is None
    assert read(GPT2, n_inner=100).intermediate_size == 100
    assert read(GPT2, scale_attn_weights=False).attention_scale == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "architecture 'mamba' isn't supported; supported are .*llama"),
        ({"model_type": ...}, "architecture None isn't supported"),
        ({"attn_logit_softcapping": 50.0}, "'attn_logit_softcapping' not understood"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: 'bits' not understood"),
        ({"rope_interleaved": True}, "'rope_interleaved': True isn't supported"),
        ({"hidden_act": "mish"}, "'hidden_act' must be one of silu"),
        ({"hidden_act": 1}, "'hidden_act' must be a string"),
        ({"hidden_size": ...}, "'hidden_size' is missing"),
        ({"hidden_size": "64"}, "'hidden_size' must be a whole number of at least 1"),
        ({"hidden_size": True}, "'hidden_size' must be a whole number"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' must be a whole number of at least 1"),
        ({"rms_norm_eps": "tiny"}, "'rms_norm_eps' must be a number, found 'tiny'"),
        ({"rms_norm_eps": -1}, "'rms_norm_eps' must be a number above 0"),
        ({"attention_bias": "yes"}, "'attention_bias' must be true or false"),
        ({"eos_token_id": "</s>"}, "'eos_token_id' must be a token id or a list of them"),
        ({"num_key_value_heads": 3}, "isn't a multiple of num_key_value_heads 3"),
        ({"hidden_size": 66}, "isn't a multiple of num_attention_heads 4"),
        ({"rope_scaling": "linear"}, "'rope_scaling' must be an object"),
        ({"rope_scaling": {"type": "spiral"}}, "rope_scaling: rope type 'spiral'"),
        ({"rope_scaling": SCALED, "rope_parameters": SCALED}, "keep one"),
        ({"model_type": "gemma", "use_bidirectional_attention": True}, "bidirectional_attention"),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "'no_rope_layers' must have a number"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": 3}, "must be a list of whole numbers"),
        (
            {"model_type": "phi3", "rope_scaling": {**LONGROPE, "short_factor": [1.0]}},
            "'short_factor' must be a list of 8 numbers",
        ),
        ({"model_type": "qwen2", "use_mrope": True}, "'use_mrope': True isn't supported"),
        (
            {"model_type": "qwen3", "layer_types": ["full_attention"]},
            "'layer_types' must name full_attention or sliding_attention for each of the 3 layers",
        ),
        (
            {"model_type": "qwen3", "layer_types": ["sliding_attention"] * 3},
            "layer_types slide, but use_sliding_window is false",
        ),
    ],
    ids=str,
)
def test_what_is_refused(read: Any, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(**changes)
    assert str(caught.value).startswith(str(tmp_path / "config.json"))
    assert isinstance(caught.value, (PygpukitError, ValueError))


def test_what_gpt2_is_refused_for(read: Any) -> None:
    with pytest.raises(ConfigError, match="add_cross_attention"):
        read(GPT2, add_cross_attention=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b"\xff\xfe", "not valid JSON"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "config.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        config_from_json(file)


GPT_OSS: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 200002,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "output_router_logits": False,
    "pad_token_id": 199999,
    "quantization_config": {
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"],
        "quant_method": "mxfp4",
    },
    "rms_norm_eps": 1e-5,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 201088,
}
"""The config.json of gpt-oss-20b."""


def test_gpt_oss_as_it_is_published(read: Any) -> None:
    config = read(GPT_OSS)
    assert (config.qkv_bias, config.output_bias, config.sinks) == (True, True, True)
    assert config.windows == (128, 0) * 12
    assert (config.experts.count, config.experts.chosen, config.experts.biased) == (32, 4, True)
    assert config.experts.clamped == (1.702, 7.0)
    assert config.rope.attention_scale == pytest.approx(0.1 * math.log(32) + 1)
    # What isn't said is as it was published.
    absent = ("layer_types", "rope_scaling", "rope_theta", "swiglu_limit", "sliding_window")
    assert read(GPT_OSS, **dict.fromkeys(absent, ...)) == config
    with pytest.raises(ConfigError, match="swiglu_limit"):
        read(GPT_OSS, swiglu_limit=0)
