"""Rotary position embeddings: the frequencies of each scaling, from a config's parameters.

Su et al., "RoFormer" (arXiv:2104.09864). Dimension pair `i` of `rotary_dim / 2` turns by
`position * inv_freq[i]`, with `inv_freq[i] = theta ** (-2i / rotary_dim)` unless a scaling changes
it. The formulas are those of transformers' `modeling_rope_utils.py`, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from pygpukit.llm.errors import ConfigError

if TYPE_CHECKING:
    from pygpukit.llm.keys import Keys

__all__ = ["Rope", "read_rope"]

Frequencies = list[float]

_SECTIONS = ("mrope_section", "mrope_interleaved")
"""Which dimensions turn by which position of an image's part; those of a text are all the same."""


class Stretched(NamedTuple):
    """How sequences longer than `length` positions are rotated, all of their positions alike."""

    length: int
    inv_freq: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Rope:
    """How queries and keys are rotated.

    Attributes:
        type: The scaling's name: "default", "linear", "dynamic", "llama3", "yarn" or
            "longrope".
        theta: The base of the frequencies.
        inv_freq: Radians per position for each of the `rotary_dim / 2` dimension pairs.
        attention_scale: What cosine and sine are multiplied with.
        stretched: Other frequencies for long sequences, where there are (LongRoPE).
        magnitude: Of YaRN by `mscale_all_dim`: DeepSeek's scores are multiplied with its square.
    """

    type: str
    theta: float
    inv_freq: tuple[float, ...]
    attention_scale: float = 1.0
    stretched: Stretched | None = None
    magnitude: float = 1.0

    @property
    def rotary_dim(self) -> int:
        """How many of a head's dimensions are rotated."""
        return 2 * len(self.inv_freq)

    def divided(self, factors: Sequence[float]) -> Rope:
        """The same rotation with each frequency divided by its factor (GGUF's rope_freqs)."""
        return replace(self, inv_freq=tuple(_divided(list(self.inv_freq), factors)))


class _Context(NamedTuple):
    """What a scaling may need beside its own parameters: the context now, and as trained first."""

    length: int
    original: int | None


def read_rope(
    keys: Keys,
    *,
    head_dim: int,
    context_length: int,
    original: int | None = None,
    ignored: Collection[str] = (),
) -> Rope:
    """Builds the rotation from rope parameters: `rope_theta`, `rope_type` and the type's own keys.

    Args:
        keys: The parameters.
        head_dim: Width of a head.
        context_length: The most positions.
        original: `original_max_position_embeddings` where it stands outside the parameters; it
            wins over the one within.
        ignored: Keys that are about something else.

    Raises:
        ConfigError: The type is unknown, or one of its parameters is missing, malformed or unknown.
    """
    theta = keys.positive("rope_theta")
    rotary_dim = int(head_dim * keys.number("partial_rotary_factor", 1.0))
    # An odd one is rounded up where dimensions are rotated, but not in the frequencies.
    if not 0 < rotary_dim + rotary_dim % 2 <= head_dim:
        raise ConfigError(
            f"{keys.source}: rotary dimension {rotary_dim} must be from 1 to the head dimension "
            f"{head_dim}, and even if it is the whole head"
        )
    rope_type = keys.text("rope_type", "default")
    scale = _SCALINGS.get(rope_type)
    if scale is None:
        raise ConfigError(
            f"{keys.source}: rope type {rope_type!r} isn't supported; supported are "
            f"{', '.join(_SCALINGS)}"
        )
    unscaled = [theta ** (-dimension / rotary_dim) for dimension in range(0, rotary_dim, 2)]
    inner = keys.optional_integer("original_max_position_embeddings")
    scaled = scale(keys, unscaled, _Context(context_length, original or inner))
    keys.finish({*ignored, *_SECTIONS})
    return Rope(
        rope_type,
        theta,
        tuple(scaled.inv_freq),
        scaled.attention_scale,
        scaled.stretched,
        scaled.magnitude,
    )


class _Scaled(NamedTuple):
    inv_freq: Frequencies
    attention_scale: float = 1.0
    stretched: Stretched | None = None
    magnitude: float = 1.0


def _default(keys: Keys, inv_freq: Frequencies, context: _Context) -> _Scaled:
    return _Scaled(inv_freq)


def _linear(keys: Keys, inv_freq: Frequencies, context: _Context) -> _Scaled:
    """Position interpolation, Chen et al. (arXiv:2306.15595)."""
    factor = keys.positive("factor")
    return _Scaled([frequency / factor for frequency in inv_freq])


def _dynamic(keys: Keys, inv_freq: Frequencies, context: _Context) -> _Scaled:
    """NTK-aware scaling, which changes nothing up to the context length: the most that is run."""
    keys.positive("factor")
    return _Scaled(inv_freq)


def _llama3(keys: Keys, inv_freq: Frequencies, context: _Context) -> _Scaled:
    """Llama 3.1: long wavelengths are divided by the factor, short ones kept, between blended."""
    factor = keys.positive("factor")
    low, high = keys.positive("low_freq_factor"), keys.positive("high_freq_factor")
    original = context.original or context.length
    if high <= low:
        raise ConfigError(
            f"{keys.source}: high_freq_factor {high} must exceed low_freq_factor {low}"
        )

    def scaled(frequency: float) -> float:
        turns = original * frequency / (2 * math.pi)
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        return _blend(frequency, frequency / factor, kept)

    return _Scaled([scaled(frequency) for frequency in inv_freq])


def _yarn(keys: Keys, inv_freq: Frequencies, context: _Context) -> _Scaled:
    """YaRN, Peng et al. (arXiv:2309.00071), with the extensions of DeepSeek's configs."""
    original = context.original or context.length
    if "factor" in keys:  # null means how far the context was stretched
        keys.default("factor", context.length / original)
    factor = keys.positive("factor")
    fast, slow = keys.positive("beta_fast", 32.0), keys.positive("beta_slow", 1.0)
    theta, dim = keys.positive("rope_theta"), 2 * len(inv_freq)
    if theta <= 1:
        raise ConfigError(f"{keys.source}: rope_theta must exceed 1 for yarn, found {theta}")

    def dimension(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = dimension(fast), dimension(slow)
    if keys.boolean("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    width = (last - first) or 0.001

    def scaled(pair: int, frequency: float) -> float:
        kept = 1 - min(max((pair - first) / width, 0.0), 1.0)
        return _blend(frequency, frequency / factor, kept)

    frequencies = [scaled(pair, frequency) for pair, frequency in enumerate(inv_freq)]
    mscale_all = keys.number("mscale_all_dim", 0.0)
    return _Scaled(
        frequencies,
        _yarn_attention_scale(keys, factor),
        magnitude=_magnitude(factor, mscale_all) if mscale_all else 1.0,
    )


def _longrope(keys: Keys, inv_freq: Frequencies, context: _Context) -> _Scaled:
    """LongRoPE, Ding et al. (arXiv:2402.13753), as Phi-3 has it: a divisor for each frequency."""
    original = context.original or context.length
    factor = keys.positive("factor", context.length / original)
    given = keys.optional_number("attention_factor")
    scale = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    short, long = (
        _divided(inv_freq, keys.numbers(name, len(inv_freq)))
        for name in ("short_factor", "long_factor")
    )
    stretched = Stretched(original, tuple(long)) if context.length > original else None
    return _Scaled(short, scale if given is None else given, stretched)


def _divided(inv_freq: Frequencies, divisors: Sequence[float]) -> Frequencies:
    return [frequency / divisor for frequency, divisor in zip(inv_freq, divisors, strict=True)]


def _blend(frequency: float, interpolated: float, kept: float) -> float:
    return kept * frequency + (1 - kept) * interpolated


def _yarn_attention_scale(keys: Keys, factor: float) -> float:
    given = keys.optional_number("attention_factor")
    mscale, mscale_all = keys.number("mscale", 0.0), keys.number("mscale_all_dim", 0.0)

    if given is not None:
        return given
    if mscale and mscale_all:
        return _magnitude(factor, mscale) / _magnitude(factor, mscale_all)
    return _magnitude(factor, 1.0)


def _magnitude(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


_Scaling = Callable[["Keys", Frequencies, _Context], _Scaled]
_SCALINGS: dict[str, _Scaling] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
    "mrope": _default,
}
