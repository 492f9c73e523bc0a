"""What checkpoints call a model's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pygpukit.llm.config import ModelConfig

__all__ = [
    "GGUF_LLAMA_NAMES",
    "GGUF_NAMES",
    "LLAMA_NAMES",
    "NAMES_OF_NORMS_BEHIND",
    "NAMES_WITH_SHARED_EXPERTS",
    "Names",
    "RowOrder",
    "Sources",
    "renamed",
    "within",
]

Sources = tuple[tuple[str, ...], ...]
"""Ways to find a weight in a checkpoint; in each, the tensors whose rows follow one another."""

RowOrder = Callable[[ModelConfig, int, int], Sequence[int] | None]
"""Of a config, a tensor's index in its way and its rows: for each row which of the file's it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Names of a checkpoint's tensors, without their ending `.weight` or `.bias`.

    One that has no such ending has a dot behind it instead.

    Attributes:
        slots: For each slot of the model (see `weights/slots.py`) where its rows come from.
            `{layer}` stands for the number of a layer, `{expert}` for that of an expert; without
            the latter, experts are stacked along a tensor's first dimension. Where its bias isn't
            called as its weight is, that has a key of its own, with ".bias" behind it. A name
            that ends in "_blocks" is that of MXFP4 blocks, with their exponents in "_scales".
        prefix: What most names begin with, and what files saved from the bare model leave out.
        transposed: Slots whose matrices are stored (inputs, outputs).
        either_way: Slots of which some files store the matrices (inputs, outputs): shapes tell.
        by_head: Tensors that hold a matrix for each head, and whether those are (inputs, outputs).
        orders: Slots whose rows the file has in another order.
        ignored: Regular expressions of tensors that hold no weights, such as buffers.
    """

    slots: Mapping[str, Sources]
    prefix: str = ""
    transposed: frozenset[str] = frozenset()
    either_way: frozenset[str] = frozenset()
    by_head: Mapping[str, bool] = field(default_factory=dict)
    orders: Mapping[str, RowOrder] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


def renamed(names: Names, **slots: str | None) -> Names:
    """The same names but for some slots, given without "layers."; None leaves a slot out."""
    changed = dict(names.slots)
    for slot, name in slots.items():
        key = slot if slot in ("embedding", "norm", "lm_head") else f"layers.{slot}"
        changed.pop(key, None)
        if name is not None:
            changed[key] = (tuple(name.split()),)
    return replace(names, slots=changed)


def within(
    names: Names, prefixes: Mapping[str, Sequence[str]], *, ignored: Sequence[str] = ()
) -> Names:
    """The names of a model that is part of another.

    Args:
        names: Those that it has on its own.
        prefixes: What stands in place of a beginning of those, any of several.
        ignored: Patterns of the other parts.
    """

    def placed(name: str, choice: int) -> str:
        for old, new in prefixes.items():
            if name.startswith(old):
                return new[choice] + name.removeprefix(old)
        return name

    choices = range(max(len(new) for new in prefixes.values()))
    return replace(
        names,
        prefix="",
        slots={
            slot: tuple(
                tuple(placed(name, choice) for name in way) for choice in choices for way in ways
            )
            for slot, ways in names.slots.items()
        },
        ignored=(*names.ignored, *ignored),
    )


LLAMA_NAMES = Names(
    prefix="model.",
    slots={
        "embedding": (("model.embed_tokens",),),
        "layers.attention_norm": (("model.layers.{layer}.input_layernorm",),),
        "layers.qkv": (
            (
                "model.layers.{layer}.self_attn.q_proj",
                "model.layers.{layer}.self_attn.k_proj",
                "model.layers.{layer}.self_attn.v_proj",
            ),
            ("model.layers.{layer}.self_attn.qkv_proj",),
        ),
        "layers.q_norm": (("model.layers.{layer}.self_attn.q_norm",),),
        "layers.k_norm": (("model.layers.{layer}.self_attn.k_norm",),),
        "layers.output": (("model.layers.{layer}.self_attn.o_proj",),),
        "layers.mlp_norm": (("model.layers.{layer}.post_attention_layernorm",),),
        "layers.up": (
            ("model.layers.{layer}.mlp.gate_proj", "model.layers.{layer}.mlp.up_proj"),
            ("model.layers.{layer}.mlp.gate_up_proj",),
        ),
        "layers.down": (("model.layers.{layer}.mlp.down_proj",),),
        "layers.router": (("model.layers.{layer}.mlp.gate",),),
        "layers.experts_up": (
            (
                "model.layers.{layer}.mlp.experts.{expert}.gate_proj",
                "model.layers.{layer}.mlp.experts.{expert}.up_proj",
            ),
        ),
        "layers.experts_down": (("model.layers.{layer}.mlp.experts.{expert}.down_proj",),),
        "norm": (("model.norm",),),
        "lm_head": (("lm_head",),),
    },
    ignored=(r".*\.rotary_emb\.inv_freq",),
)
"""The names that most families took over from Llama."""

NAMES_OF_NORMS_BEHIND = renamed(
    LLAMA_NAMES,
    post_attention_norm="model.layers.{layer}.post_attention_layernorm",
    post_mlp_norm="model.layers.{layer}.post_feedforward_layernorm",
)
"""Those of families with norms behind attention and MLP only."""

_SHARED = "model.layers.{layer}.mlp.shared_experts."

NAMES_WITH_SHARED_EXPERTS = renamed(
    LLAMA_NAMES,
    correction="model.layers.{layer}.mlp.gate.e_score_correction_bias",
    shared_up=f"{_SHARED}gate_proj {_SHARED}up_proj",
    shared_down=f"{_SHARED}down_proj",
)
"""Those of families with experts for every token, and a correction to how the others are chosen."""

GGUF_NAMES = Names(
    slots={
        "embedding": (("token_embd",),),
        "position_embedding": (("position_embd",),),
        "layers.attention_norm": (("blk.{layer}.attn_norm",),),
        "layers.qkv": (
            ("blk.{layer}.attn_q", "blk.{layer}.attn_k", "blk.{layer}.attn_v"),
            ("blk.{layer}.attn_qkv",),
        ),
        "layers.q_norm": (("blk.{layer}.attn_q_norm",),),
        "layers.k_norm": (("blk.{layer}.attn_k_norm",),),
        "layers.output": (("blk.{layer}.attn_output",),),
        "layers.post_attention_norm": (("blk.{layer}.post_attention_norm",),),
        "layers.mlp_norm": (("blk.{layer}.ffn_norm",),),
        "layers.up": (("blk.{layer}.ffn_gate", "blk.{layer}.ffn_up"), ("blk.{layer}.ffn_up",)),
        "layers.down": (("blk.{layer}.ffn_down",),),
        "layers.router": (("blk.{layer}.ffn_gate_inp",),),
        "layers.experts_up": (
            ("blk.{layer}.ffn_gate_exps", "blk.{layer}.ffn_up_exps"),
            ("blk.{layer}.ffn_gate_up_exps",),
        ),
        "layers.experts_down": (("blk.{layer}.ffn_down_exps",),),
        "layers.shared_up": (("blk.{layer}.ffn_gate_shexp", "blk.{layer}.ffn_up_shexp"),),
        "layers.shared_down": (("blk.{layer}.ffn_down_shexp",),),
        "layers.shared_gate": (("blk.{layer}.ffn_gate_inp_shexp",),),
        "layers.correction": (("blk.{layer}.exp_probs_b.bias",),),
        "layers.post_mlp_norm": (("blk.{layer}.post_ffw_norm",),),
        "norm": (("output_norm",),),
        "lm_head": (("output",),),
    },
    ignored=(r"rope_(freqs|factors_(long|short))\.weight",),
)
"""The names that all architectures of GGUF files share: llama.cpp's `gguf-py/gguf/constants.py`."""


def _halves_of_pairs(config: ModelConfig, index: int, rows: int) -> Sequence[int] | None:
    """For each row of a query or key projection that of a file which pairs the halves of a head.

    The inverse of `permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    if index == 2:
        return None
    width = config.head_dim
    paired = rows if rows < sum(config.qkv_rows) else rows - config.qkv_rows[2]
    return [
        *(
            head + 2 * pair + half
            for head in range(0, paired, width)
            for half in range(2)
            for pair in range(width // 2)
        ),
        *range(paired, rows),  # values, where they are in one tensor with queries and keys
    ]


GGUF_LLAMA_NAMES = replace(GGUF_NAMES, orders={"layers.qkv": _halves_of_pairs})
"""Those of architectures whose converter interleaves the halves of query and key heads."""
