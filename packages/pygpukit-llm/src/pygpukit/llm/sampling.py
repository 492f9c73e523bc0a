"""How the next token is chosen and when generation stops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

from pygpukit.llm.errors import ConfigError, SamplingError
from pygpukit.llm.keys import Keys

__all__ = ["SamplingParams", "read_generation_config"]

_INT32_MAX = 2**31 - 1
_FLOAT32_MAX = 3.4028234663852886e38


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """What `LLM.generate` takes besides the prompt.

    The logits are penalised, changed by what follows `logprobs` below, divided by the temperature,
    and cut by top-k, top-p and min-p in this order; the token is drawn from what is left. Draws
    depend on `seed` and the position only, so a run repeats exactly.

    Attributes:
        max_new_tokens: The most tokens to generate; None is up to the end of the context.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Keeps the k likeliest tokens; 0 keeps all.
        top_p: Keeps the likeliest tokens whose probabilities first sum to this much (at least one);
            1 keeps all.
        min_p: Keeps tokens at least this probable relative to the likeliest; 0 keeps all.
        repetition_penalty: Divides a positive logit, multiplies a negative one, of tokens in prompt
            or output (CTRL, arXiv:1909.05858); 1 is none.
        presence_penalty: Subtracted from the logits of tokens in the output.
        frequency_penalty: Subtracted once for each time that a token is in the output.
        seed: Of the draws, from 0 to 2**63 - 1.
        stop: Strings that end the output when they appear in it; they are cut from the text.
        stop_token_ids: Ids that end the output beside the model's own.
        ignore_eos: Whether to go on past the model's own end-of-text ids.
        logprobs: How many of the likeliest tokens to report at each step beside the chosen one's
            log-probability, from the logits before penalties; None reports nothing.
        logit_bias: Added to the logits of ids; also a mapping.
        min_new_tokens: The fewest tokens to generate: until then none of the ids that end the
            output may come. Stop strings end it nevertheless.
        min_length: Likewise of prompt and output together.
        no_repeat_ngram_size: No run of so many ids, in prompt or output, may come again; 0 is
            any may.
        suppress_tokens: Ids that may not come.
        begin_suppress_tokens: Ids that the output may not begin with.
        bad_words_ids: Sequences of ids that may not come; by itself an id that ends the output may.
        forced_eos_token_id: The id, or one of the ids, that the last of `max_new_tokens` must be.

    Raises:
        SamplingError: A value is out of its range; the error names the argument.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_new_tokens: int = 0
    min_length: int = 0
    no_repeat_ngram_size: int = 0
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    forced_eos_token_id: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        checked = {
            "top_k": _whole("top_k", self.top_k),
            "seed": _whole("seed", self.seed, maximum=2**63 - 1),
            "temperature": _number("temperature", self.temperature, minimum=0.0),
            "top_p": _number("top_p", self.top_p, minimum=0.0, maximum=1.0),
            "min_p": _number("min_p", self.min_p, minimum=0.0, maximum=1.0),
            "repetition_penalty": _number("repetition_penalty", self.repetition_penalty, above=0.0),
            "presence_penalty": _number("presence_penalty", self.presence_penalty),
            "frequency_penalty": _number("frequency_penalty", self.frequency_penalty),
            "stop": _stop_strings(self.stop),
            "logit_bias": _biases(self.logit_bias),
            "bad_words_ids": _words(self.bad_words_ids),
        }
        for name in ("min_new_tokens", "min_length", "no_repeat_ngram_size"):
            checked[name] = _whole(name, getattr(self, name))
        for name in _IDS:
            checked[name] = _ids(name, getattr(self, name))
        if self.max_new_tokens is not None:
            checked["max_new_tokens"] = _whole("max_new_tokens", self.max_new_tokens, minimum=1)
        if self.logprobs is not None:
            checked["logprobs"] = _whole("logprobs", self.logprobs, maximum=100)
        if not isinstance(self.ignore_eos, bool):
            raise SamplingError(f"ignore_eos must be True or False, got {self.ignore_eos!r}")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def updated(self, arguments: Mapping[str, Any]) -> SamplingParams:
        """The same parameters with those of `arguments` that aren't None.

        Raises:
            SamplingError: An argument is unknown or out of its range.
        """
        known = {field.name for field in fields(self)}
        for name in arguments:
            if name not in known:
                raise SamplingError(
                    f"unknown generation argument {name!r}; known are {', '.join(sorted(known))}"
                )
        return replace(
            self, **{key: value for key, value in arguments.items() if value is not None}
        )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always the one taken."""
        return self.temperature == 0 or self.top_k == 1 or self.top_p == 0 or self.min_p == 1

    @property
    def ruled(self) -> bool:
        """Whether some tokens may not come, or are made likelier, whatever came before."""
        return any(getattr(self, name) for name in _RULES)

    @property
    def penalized(self) -> bool:
        """Whether any penalty changes the logits."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )


def _whole(name: str, value: object, *, minimum: int = 0, maximum: int = _INT32_MAX) -> int:
    """The value as an int, whichever library's number it is."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if minimum <= number <= maximum:
            return number
    raise SamplingError(f"{name} must be a whole number from {minimum} to {maximum}, got {value!r}")


def _number(
    name: str,
    value: object,
    *,
    minimum: float = -_FLOAT32_MAX,
    maximum: float = _FLOAT32_MAX,
    above: float | None = None,
) -> float:
    """The value as a float, whichever library's number it is."""
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        if minimum <= number <= maximum and (above is None or number > above):
            return number
    if above is not None:
        bounds = f"a finite number above {above:g}"
    elif minimum == -_FLOAT32_MAX:
        bounds = "a finite number"
    elif maximum == _FLOAT32_MAX:
        bounds = f"a finite number of at least {minimum:g}"
    else:
        bounds = f"a number from {minimum:g} to {maximum:g}"
    raise SamplingError(f"{name} must be {bounds}, got {value!r}")


def _stop_strings(value: object) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else value
    texts = []
    for string in strings:
        if not isinstance(string, str) or not string:
            raise SamplingError(f"stop must be a non-empty string or a list of them, got {value!r}")
        texts.append(string)
    return tuple(texts)


_IDS = ("stop_token_ids", "suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id")
_RULES = (
    *("logit_bias", "min_new_tokens", "min_length", "no_repeat_ngram_size", "suppress_tokens"),
    *("begin_suppress_tokens", "bad_words_ids", "forced_eos_token_id"),
)


def _ids(name: str, value: object) -> tuple[int, ...]:
    ids = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else value
    return tuple(_whole(name, id_) for id_ in ids)


def _words(value: object) -> tuple[tuple[int, ...], ...]:
    words = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    found = []
    for word in words:
        if isinstance(word, str) or not isinstance(word, Iterable):
            raise SamplingError(f"bad_words_ids must be a list of lists of ids, got {value!r:.80}")
        found.append(_ids("bad_words_ids", word))
        if not found[-1]:
            raise SamplingError("bad_words_ids must be lists of at least one id, got an empty one")
    return tuple(found)


def _biases(value: object) -> tuple[tuple[int, float], ...]:
    try:
        pairs = [*dict(value).items()]  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise SamplingError(
            f"logit_bias must be a mapping from ids to numbers, got {value!r:.80}"
        ) from None
    return tuple((_whole("logit_bias", id_), _number("logit_bias", bias)) for id_, bias in pairs)


_IGNORED = frozenset({
    "_from_model_config", "assistant_confidence_threshold", "assistant_early_exit",
    "assistant_lookbehind", "bos_token_id", "cache_config", "cache_implementation",
    "decoder_start_token_id", "disable_compile", "early_stopping", "is_assistant",
    "low_memory", "max_length", "max_matching_ngram_size", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "output_attentions", "output_hidden_states",
    "output_logits", "output_scores", "pad_token_id", "prompt_lookup_num_tokens",
    "return_dict_in_generate", "target_lookbehind", "transformers_version",
    "trust_remote_code", "use_cache",
})  # fmt: skip
"""Keys of generation_config.json that don't change which tokens are chosen."""


def read_generation_config(
    values: Mapping[str, object], source: str
) -> tuple[SamplingParams, tuple[int, ...]]:
    """The defaults and the end-of-text ids of a generation_config.json.

    Without `do_sample` the defaults are greedy, whatever else the file says: that is what it means.

    Raises:
        ConfigError: A value is malformed, or a key asks for a way to choose that isn't supported.
    """
    keys = Keys(values, source)
    for key, neutral in _NEUTRAL.items():
        keys.expect(key, neutral)
    arguments: dict[str, Any] = {
        "max_new_tokens": keys.optional_integer("max_new_tokens"),
        "repetition_penalty": keys.number("repetition_penalty", 1.0),
        "stop": keys.get("stop_strings") or (),
        "bad_words_ids": keys.get("bad_words_ids") or (),
        "suppress_tokens": keys.ids("suppress_tokens"),
        "begin_suppress_tokens": keys.ids("begin_suppress_tokens"),
        "forced_eos_token_id": keys.ids("forced_eos_token_id"),
        "min_new_tokens": keys.integer("min_new_tokens", 0, minimum=0),
        "min_length": keys.integer("min_length", 0, minimum=0),
        "no_repeat_ngram_size": keys.integer("no_repeat_ngram_size", 0, minimum=0),
    }
    sampled = {
        "temperature": keys.number("temperature", 1.0),
        "top_k": keys.integer("top_k", 50, minimum=0),
        "top_p": keys.number("top_p", 1.0),
        "min_p": keys.number("min_p", 0.0),
    }
    if keys.boolean("do_sample", False):
        arguments |= sampled
    end_ids = keys.ids("eos_token_id")
    keys.finish(_IGNORED)
    try:
        return SamplingParams(**arguments), end_ids
    except SamplingError as error:
        raise ConfigError(f"{source}: {error}") from error


_NEUTRAL: Mapping[str, object] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "length_penalty": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "encoder_repetition_penalty": 1.0,
    "num_return_sequences": 1,
    "penalty_alpha": 0.0,
    "guidance_scale": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "token_healing": False,
    **dict.fromkeys((
        "constraints", "dola_layers", "exponential_decay_length_penalty", "force_words_ids",
        "forced_bos_token_id", "max_time", "sequence_bias", "watermarking_config",
    )),
}  # fmt: skip
"""Ways to choose that aren't supported, each with the value that leaves the choice alone."""
