"""Models for EleutherAI's lm-evaluation-harness: `pip install 'pygpukit-llm[eval]'`.

    from lm_eval import simple_evaluate
    from pygpukit.llm.eval import PygpukitLM

    simple_evaluate(PygpukitLM("model/"), tasks=["arc_easy"])

Importing the module also registers it, so that `model="pygpukit"` with `model_args={"model": …}`
finds it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from pygpukit.llm.llm import LLM, GenerationOptions

__all__ = ["PygpukitLM"]

_MAX_NEW_TOKENS = 256
"""As the harness's other models have it where a task doesn't say."""

_IGNORED = frozenset({"do_sample", "until", "max_gen_toks", "max_new_tokens", "max_tokens"})


@register_model("pygpukit")
class PygpukitLM(TemplateLM):
    """A pygpukit model as the harness asks for it.

    Args:
        model: An `LLM`, or what `LLM.from_pretrained` takes.
        pretrained: The same, by the name that the harness's own models have for it.
        device: Of a model that isn't loaded yet.
        batch_size: Prompts that are continued at once; doesn't change what comes out.
        **options: What else `LLM.from_pretrained` takes.
    """

    def __init__(
        self,
        model: LLM | str | os.PathLike[str] | None = None,
        *,
        pretrained: str | os.PathLike[str] | None = None,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        given = [each for each in (model, pretrained) if each is not None]
        if len(given) != 1:
            raise TypeError("PygpukitLM takes either model or pretrained, which mean the same")
        if isinstance(given[0], LLM):
            self.llm, self._name = given[0], given[0].config.architecture
        else:
            self.llm = LLM.from_pretrained(given[0], device=device or "auto", **options)
            self._name = os.fspath(given[0])
        automatic = batch_size is None or str(batch_size).startswith("auto")
        self._batch_size = max_batch_size or 8 if automatic else int(str(batch_size))

    @property
    def tokenizer_name(self) -> str:
        """What cached requests are told apart by."""
        return self._name

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text; the one that begins it where the model names none."""
        config = self.llm.config
        ends = config.eos_token_ids
        if ends:
            return ends[0]
        return 0 if config.bos_token_id is None else config.bos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it."""
        bos = self.llm.config.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """The ids of a text; the beginning-of-text token is never there twice."""
        if not string:
            return []
        return self.llm.encode(string, add_special_tokens=add_special_tokens is not False)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        return self._continuations([(context, ids) for _, context, ids in requests])

    def _continuations(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[tuple[float, bool]]:
        """The log-probability of ids after what of a context has room, and if they're greedy."""
        room = self.llm.config.context_length
        scored = [([*context, *ids][-room:], len(ids)) for context, ids in pairs if ids]
        texts = [text for text, _ in scored]
        given = [max(len(text) - count, 1) for text, count in scored]
        scores = iter(self.llm.score(texts, given=given) if texts else ())
        results = []
        for _, ids in pairs:
            score = next(scores) if ids else None
            results.append((score.total, all(score.greedy)) if score else (0.0, True))
        return results

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of each whole text, in windows as long as the context."""
        return [
            sum(logprob for logprob, _ in self._continuations(self._windows(request.args[0])))
            for request in requests
        ]

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text, add_special_tokens=False),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.llm.config.context_length - 1,
            context_len=1,
        )
        return list(map(make_disjoint_window, windows))

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The continuations of contexts, up to the tasks' stop texts."""
        texts = [""] * len(requests)
        alike: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            alike.setdefault(repr(request.args[1]), []).append(index)
        for indices in alike.values():
            options = _options(requests[indices[0]].args[1])
            for start in range(0, len(indices), self._batch_size):
                batch = indices[start : start + self._batch_size]
                prompts = [self._prompt(requests[index].args[0], options) for index in batch]
                for index, answer in zip(batch, self.llm.generate(prompts, **options), strict=True):
                    texts[index] = answer.text
        return texts

    def _prompt(self, context: str, options: GenerationOptions) -> list[int]:
        """The end of a context that leaves room for the answer."""
        ids = self.tok_encode(context) or [self.prefix_token_id]
        room = self.llm.config.context_length - (options["max_new_tokens"] or 0)
        return ids[-max(room, 1) :]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as the text that the model continues."""
        return self.llm.apply_chat_template(
            chat_history, add_generation_prompt=add_generation_prompt
        )


def _options(arguments: Mapping[str, Any]) -> GenerationOptions:
    """A task's arguments for generation in this package's terms; unless they say so, greedy."""
    stop = arguments.get("until") or ()
    limits = (arguments.get(key) for key in ("max_gen_toks", "max_new_tokens", "max_tokens"))
    options: dict[str, Any] = {
        "stop": [stop] if isinstance(stop, str) else list(stop),
        "max_new_tokens": next(filter(None, limits), _MAX_NEW_TOKENS),
        **{key: value for key, value in arguments.items() if key not in _IGNORED},
    }
    if not arguments.get("do_sample", False):
        options["temperature"] = 0.0
    return cast(GenerationOptions, options)
