"""What a model computes, read strictly: each key is obeyed, known to change nothing, or refused."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pygpukit.kernels import ClampedSwiGLU
from pygpukit.llm.errors import ConfigError
from pygpukit.llm.keys import Keys
from pygpukit.llm.rope import Rope, read_rope

__all__ = [
    "Experts",
    "Latent",
    "ModelConfig",
    "QKNorm",
    "QueryGrowth",
    "read_attention_bias",
    "read_decoder",
    "read_json",
    "read_layer_types",
    "read_rope_keys",
    "read_ropes_by_window",
    "read_windows",
    "unscaled_within_windows",
]

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "relu": "relu",
    "quick_gelu": "gelu_quick",
    "relu2": "relu_squared",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "linear": "identity",
}
"""The operations' name for each `hidden_act` of transformers."""

IGNORED = frozenset({
    "_num_labels", "architectures", "attention_dropout", "attn_implementation", "auto_map",
    "bad_words_ids", "begin_suppress_tokens", "chunk_size_feed_forward",
    "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample",
    "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing",
    "id2label", "initializer_range", "is_decoder", "is_encoder_decoder", "label2id",
    "length_penalty", "logits_to_keep", "max_length", "max_sequence_length", "min_length",
    "model_max_length", "model_type", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_labels", "num_return_sequences", "output_attentions", "output_hidden_states",
    "output_scores", "pad_token_id", "prefix", "pretraining_tp", "problem_type", "pruned_heads",
    "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
    "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss",
    "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript",
    "transformers_version", "typical_p", "unsloth_fixed", "unsloth_version", "use_bfloat16",
    "use_cache",
})  # fmt: skip
"""Keys of config.json that any model may have and that don't change what it computes."""

IGNORED_PREFIXES = ("_attn_implementation", "_name_or_path", "transformers.js")


QKNorm = Literal["head", "heads", "row", "rotated"]
"""What is normalised in queries and keys, all but the last before the rotation.

"head": every head, with one weight for all (Qwen3); "heads": every head, each with a weight of its
own (Command R+); "row": all heads of a token at once (OLMo 2); "rotated": as "head", but what has
been rotated (Hunyuan).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts in place of the MLP (arXiv:1701.06538, gated as in arXiv:2401.04088).

    Attributes:
        count: How many there are.
        chosen: How many each token goes to.
        intermediate_size: Width inside each.
        normalized: Whether the weights of the chosen ones are made to sum to 1.
        scale: What their sum is multiplied with.
        shared_size: Width inside an MLP that every token goes through as well; 0 is none.
        shared_gated: Whether a sigmoid for each token weighs that MLP.
        sigmoid: Whether scores are sigmoids, not a softmax.
        corrected: Whether there is a correction to what they are chosen by.
        groups: Of how many groups the best `top_groups` count; 1 is no grouping.
        top_groups: See `groups`.
        biased: Whether router and experts have biases.
        clamped: The gated activation of the experts, where it isn't that of the model's MLPs.
    """

    count: int
    chosen: int
    intermediate_size: int
    normalized: bool = True
    scale: float = 1.0
    shared_size: int = 0
    shared_gated: bool = False
    sigmoid: bool = False
    corrected: bool = False
    groups: int = 1
    top_groups: int = 1
    biased: bool = False
    clamped: ClampedSwiGLU | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Attention whose keys and values come from a narrow vector (arXiv:2405.04434).

    Attributes:
        kv_rank: Width of that vector.
        q_rank: Width of the one that queries come from; None where they come straight.
        rotated: Dimensions of a head that are rotated.
        plain: Dimensions that aren't.
        value: Dimensions of a value.
    """

    kv_rank: int
    q_rank: int | None
    rotated: int
    plain: int
    value: int

    @property
    def width(self) -> int:
        """Dimensions of a query or a key."""
        return self.rotated + self.plain

    @property
    def cached(self) -> int:
        """Dimensions in the cache: where keys or values are narrower, zeros fill them up."""
        return max(self.width, self.value)


class QueryGrowth(NamedTuple):
    """Queries at position p are multiplied with `1 + rate * log(1 + p // length)` (Llama 4)."""

    length: int
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape and the maths of a decoder, whichever file they came from.

    Attributes:
        architecture: The family: "llama", "qwen3", "gpt2" …
        vocab_size: Rows of the embedding and of the logits.
        context_length: The most positions that a sequence can have.
        hidden_size: Width of the residual stream.
        intermediate_size: Width inside the MLP.
        num_layers: Transformer blocks.
        num_heads: Query heads.
        num_kv_heads: Key/value heads; a divisor of `num_heads`.
        head_dim: Width of one head in the cache; `num_heads * head_dim` may differ from
            `hidden_size`.
        attention_scale: What scores are multiplied with: `1 / sqrt(head_dim)` for most.
        scale_by_layer: Whether the scores of layer i, from 0, are divided by i + 1 as well.
        query_growth: How queries grow with their positions, if they do.
        sinks: Whether each query head has a learnt score that joins the softmax of its scores.
        attention_soft_cap: Scores become `cap * tanh(score / cap)`; 0 leaves them.
        norm_kind: "rms" or "layer".
        norm_bias: Whether norms have biases.
        norm_offset: Added to the norms' weights: 1 where a checkpoint stores `weight - 1`.
        norm_eps: What is added to the variance.
        pre_norm: Whether there are norms in front of attention and MLP.
        post_norm: Whether there are norms behind attention and MLP, before the residual is added.
        parallel: Whether attention and MLP both start from the block's input.
        shared_norm: Whether the norm in front of the attention is also the one in front of the MLP.
        activation: Of the MLP, by the name that `pygpukit.kernels.activation` has for it.
        gated_mlp: Whether the MLP is `down(act(gate(x)) * up(x))` rather than `down(act(up(x)))`.
        latent: What makes the attention a latent one; None for the ordinary kind.
        experts: The mixture of experts of the layers that `sparse` names.
        sparse: For each layer whether experts stand in place of its MLP.
        qkv_bias: Whether the query, key and value projections have biases.
        output_bias: Whether the projection out of the attention has a bias.
        mlp_bias: Whether the MLP's projections have biases.
        qk_norm: Whether and how queries and keys are normalised, by a norm of `norm_kind`.
        ropes: For each layer the rotation of queries and keys, or None.
        rope_interleaved: Whether dimensions 2i and 2i + 1 are rotated as a pair.
        learned_positions: Whether there is an embedding of positions.
        windows: For each layer how many positions a token sees, itself included; 0 is all.
        embedding_scale: What embeddings are multiplied with.
        residual_scale: What attention and MLP are multiplied with before they are added.
        logit_scale: What logits are multiplied with.
        logit_soft_cap: Logits then become `cap * tanh(logit / cap)`; 0 leaves them.
        head_bias: Whether a bias is added to them, before they are scaled.
        tied_embeddings: Whether the embedding also makes the logits.
        scale_block: Rows and columns that share a factor, where FP8 weights have several for a row.
        bos_token_id: The id that begins a text.
        eos_token_ids: The ids that end one.
    """

    architecture: str
    vocab_size: int
    context_length: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    attention_scale: float
    scale_by_layer: bool = False
    query_growth: QueryGrowth | None = None
    sinks: bool = False
    attention_soft_cap: float = 0.0
    norm_kind: Literal["rms", "layer"] = "rms"
    norm_bias: bool = False
    norm_offset: float = 0.0
    norm_eps: float = 1e-6
    pre_norm: bool = True
    post_norm: bool = False
    parallel: bool = False
    shared_norm: bool = False
    activation: str = "silu"
    gated_mlp: bool = True
    latent: Latent | None = None
    experts: Experts | None = None
    sparse: tuple[bool, ...] = ()
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: QKNorm | None = None
    ropes: tuple[Rope | None, ...] = ()
    rope_interleaved: bool = False
    learned_positions: bool = False
    windows: tuple[int, ...] = ()
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_soft_cap: float = 0.0
    head_bias: bool = False
    tied_embeddings: bool = False
    scale_block: tuple[int, int] | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    @property
    def rope(self) -> Rope | None:
        """The rotation of the first layer that has one."""
        return next(filter(None, self.ropes), None)

    @property
    def stretch_length(self) -> int | None:
        """The length from which on sequences are rotated otherwise, if there is one."""
        lengths = {rope.stretched.length for rope in self.ropes if rope and rope.stretched}
        return min(lengths, default=None)

    @property
    def qkv_rows(self) -> tuple[int, int, int]:
        """Rows of the query, key and value projections."""
        kv = self.num_kv_heads * self.head_dim
        return self.num_heads * self.head_dim, kv, kv

    def cache_bytes(self, positions: int, *, element_bytes: int = 4) -> int:
        """Bytes of keys and values that `positions` positions take in all layers."""
        per_layer = 2 * self.num_kv_heads * self.head_dim
        return positions * self.num_layers * per_layer * element_bytes


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ConfigError: It can't be read, isn't JSON, or isn't an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_decoder(keys: Keys, **facts: Any) -> ModelConfig:
    """The keys that decoders share, by config.json's names; `facts` has the fields beyond them.

    Where `facts` has a field, it wins over the key.

    Raises:
        ConfigError: A key is missing, malformed or contradicts another.
    """
    hidden = keys.integer("hidden_size")
    heads = keys.integer("num_attention_heads")
    kv_heads = keys.integer("num_key_value_heads", heads)
    layers = keys.integer("num_hidden_layers")
    context = keys.integer("max_position_embeddings")
    head_dim = facts.get("head_dim", keys.optional_integer("head_dim"))
    if head_dim is None:
        if hidden % heads:
            raise ConfigError(
                f"{keys.source}: hidden_size {hidden} isn't a multiple of num_attention_heads "
                f"{heads}, and head_dim isn't given"
            )
        head_dim = hidden // heads
    if heads % kv_heads:
        raise ConfigError(
            f"{keys.source}: num_attention_heads {heads} isn't a multiple of "
            f"num_key_value_heads {kv_heads}"
        )
    fields: dict[str, Any] = {
        "vocab_size": keys.integer("vocab_size"),
        "context_length": context,
        "hidden_size": hidden,
        "intermediate_size": keys.integer("intermediate_size"),
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "attention_scale": head_dim**-0.5,
        "norm_eps": keys.positive("rms_norm_eps", 1e-6),
        "activation": keys.choice("hidden_act", ACTIVATIONS, "silu"),
        "tied_embeddings": keys.boolean("tie_word_embeddings", False),
        "bos_token_id": next(iter(keys.ids("bos_token_id")), None),
        "eos_token_ids": keys.ids("eos_token_id"),
        "windows": (0,) * layers,
        "sparse": (False,) * layers,
    }
    if "ropes" not in facts:
        fields["ropes"] = (read_rope_keys(keys, head_dim, context),) * layers
    return ModelConfig(**{**fields, **facts})


def read_attention_bias(keys: Keys, *, default: bool = False) -> dict[str, bool]:
    """Whether the projections into the attention and out of it have biases, as fields."""
    bias = keys.boolean("attention_bias", default)
    return {"qkv_bias": bias, "output_bias": bias}


def read_rope_keys(
    keys: Keys,
    head_dim: int,
    context_length: int,
    *,
    layer_type: str | None = None,
    ignored: Collection[str] = (),
) -> Rope:
    """Rope keys as transformers writes them: `rope_parameters`, before version 5 `rope_scaling`.

    Args:
        keys: The config.
        head_dim: Width of a head.
        context_length: The most positions.
        layer_type: The object of `rope_parameters` that counts, where it has one for each type.
        ignored: Keys of the parameters that are about something else.

    Raises:
        ConfigError: There are both, or something in them is missing, malformed or unknown.
    """
    shared: dict[str, object] = {"rope_theta": keys.number("rope_theta", 10000.0)}
    factor = keys.optional_number("partial_rotary_factor")
    if factor is not None:
        shared["partial_rotary_factor"] = factor
    original = keys.optional_integer("original_max_position_embeddings")
    given = [key for key in ("rope_parameters", "rope_scaling") if keys.get(key) is not None]
    if len(given) == 2:
        raise ConfigError(f"{keys.source}: has both rope_parameters and rope_scaling; keep one")
    parameters = keys.nested(given[0], shared) if given else Keys(shared, keys.source)
    if layer_type is not None:
        parameters = parameters.nested(layer_type, shared)
    parameters.rename("type", "rope_type")
    return read_rope(
        parameters,
        head_dim=head_dim,
        context_length=context_length,
        original=original,
        ignored=ignored,
    )


def read_layer_types(keys: Keys, num_layers: int) -> tuple[bool, ...] | None:
    """Whether each layer slides its window, by the key `layer_types`; None where it is absent."""
    types = keys.get("layer_types")
    if types is None:
        return None
    sliding = {"full_attention": False, "sliding_attention": True}
    if not isinstance(types, list) or len(types) != num_layers or not set(types) <= set(sliding):
        raise ConfigError(
            f"{keys.source}: key 'layer_types' must name full_attention or sliding_attention for "
            f"each of the {num_layers} layers, found {types!r}"
        )
    return tuple(sliding[type_] for type_ in types)


def read_windows(keys: Keys, *, default: int, full_period: int) -> tuple[int, ...]:
    """The window of each layer by `layer_types`, else of all but every `full_period`-th."""
    layers = keys.integer("num_hidden_layers")
    types = read_layer_types(keys, layers)
    if types is None:
        types = tuple((layer + 1) % full_period > 0 for layer in range(layers))
    window = keys.integer("sliding_window", default)
    return tuple(window if sliding else 0 for sliding in types)


def read_ropes_by_window(
    keys: Keys, windows: tuple[int, ...], *, local_theta: float
) -> tuple[Rope, ...]:
    """One rotation for layers with a window and one for the others.

    `rope_parameters` has an object for each kind. Before version 5 of transformers `rope_theta` and
    `rope_scaling` were those of layers without a window.

    Args:
        keys: The config.
        windows: Of each layer, 0 for none.
        local_theta: The base of layers with a window where there is no such object.
    """
    heads, context = keys.integer("num_attention_heads"), keys.integer("max_position_embeddings")
    head_dim = keys.integer("head_dim", keys.integer("hidden_size") // heads)
    if keys.get("rope_parameters") is None:
        theta: dict[str, object] = {"rope_theta": local_theta}
        sliding = read_rope_keys(Keys(theta, keys.source), head_dim, context)
        full = read_rope_keys(keys, head_dim, context)
    else:
        sliding, full = (
            read_rope_keys(keys, head_dim, context, layer_type=layer_type)
            for layer_type in ("sliding_attention", "full_attention")
        )
    return tuple(sliding if window else full for window in windows)


def unscaled_within_windows(config: ModelConfig, theta: float) -> ModelConfig:
    """The config with layers that have a window rotated by `theta`, without a scaling."""
    parameters: dict[str, object] = {"rope_theta": theta}
    sliding = read_rope(
        Keys(parameters, "rope"), head_dim=config.head_dim, context_length=config.context_length
    )
    layers = zip(config.ropes, config.windows, strict=True)
    return replace(config, ropes=tuple(sliding if window else rope for rope, window in layers))
