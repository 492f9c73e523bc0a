"""`LLM`: a model, ready to generate."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

from pygpukit.core import Device, SchedulerShare
from pygpukit.llm.chat import ChatTemplate, Message
from pygpukit.llm.checkpoint import Checkpoint, open_checkpoint
from pygpukit.llm.config import ModelConfig
from pygpukit.llm.decoder import Decoder
from pygpukit.llm.device import choose_device, warn_no_gpu
from pygpukit.llm.engine import Engine, EngineConfig
from pygpukit.llm.errors import ChatTemplateError, PromptError, SamplingError
from pygpukit.llm.generation import (
    Generation,
    Score,
    ShowingDecoder,
    TextDecoder,
    TextStream,
)
from pygpukit.llm.grammar import Grammars
from pygpukit.llm.hub import locate
from pygpukit.llm.output import Output, Stream
from pygpukit.llm.prompts import Prompt, PromptEncoder, is_batch
from pygpukit.llm.rules import TokenRules
from pygpukit.llm.sampling import SamplingParams
from pygpukit.llm.scoring import Scorer
from pygpukit.llm.weights import load, plan

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from pygpukit.tokenizer import Tokenizer

__all__ = ["LLM", "GenerationOptions"]


SCORED_TOGETHER = 4096
"""Tokens of texts that are scored at once: bounds the memory, and changes no bit of the results."""


class GenerationOptions(TypedDict, total=False):
    """The keyword arguments of `generate`, `stream`, `chat` and `chat_stream`.

    Each is described at `SamplingParams`; what isn't given, or is None, comes from the model's
    generation_config, else is neutral.
    """

    max_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    logprobs: int | None
    logit_bias: Mapping[int, float] | None
    min_new_tokens: int | None
    min_length: int | None
    no_repeat_ngram_size: int | None
    suppress_tokens: Sequence[int] | None
    begin_suppress_tokens: Sequence[int] | None
    bad_words_ids: Sequence[Sequence[int]] | None
    forced_eos_token_id: int | Sequence[int] | None


class LLM:
    """A language model on a device, from `LLM.from_pretrained`.

    Attributes:
        config: What the model computes.
        device: Where it runs.
        tokenizer: Text to ids and back; None where the model came without one.
        defaults: How tokens are chosen where the caller doesn't say.
    """

    def __init__(self, checkpoint: Checkpoint, decoder: Decoder, device: Device) -> None:
        """Puts a loaded model together; `LLM.from_pretrained` is the usual way."""
        self.config: ModelConfig = decoder.config
        self.device = device
        self.tokenizer: Tokenizer | None = checkpoint.tokenizer()
        self.defaults: SamplingParams = checkpoint.defaults
        self._template = checkpoint.template
        self._decoder = decoder
        self._engine = Engine(decoder, device)
        self._scorer = Scorer(decoder, device)
        self._end_ids = checkpoint.end_ids(self.tokenizer)
        self._prompts = PromptEncoder(
            self.tokenizer,
            vocab_size=self.config.vocab_size,
            context_length=self.config.context_length,
            bos_token=checkpoint.special_tokens.get("bos_token"),
        )

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        device: str = "auto",
        dtype: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> LLM:
        """Loads a model.

        Args:
            model: A folder with config.json and safetensors, a .gguf file, or a hub id
                (`owner/name`), which is downloaded once.
            device: "cuda", "cuda:N", "cpu", or "auto" for a GPU where there is one.
            dtype: Of activations: "float32", "bfloat16", on a GPU also "float16". By default
                float32 on the CPU, where weights that GGUF has in Q8_0, Q4_0 or Q4_1 then stay so
                in memory, and on a GPU the type of the weights. Beside bfloat16 a GPU has queries,
                keys and values in float16, which rounds less. With float32 a GPU is as exact as the
                CPU, but slow; with bfloat16 a CPU is faster at prompts, if it has instructions for
                that type.
            revision: A branch, tag or commit of a hub id.
            token: What the hub asks for private and gated models; by default the one that
                `hf auth login` has stored, or HF_TOKEN.
            local_files_only: Whether a hub id must have been downloaded before, as with
                HF_HUB_OFFLINE=1.
            progress: Called with bytes loaded and bytes in all; without it weights go on loading
                while the first prompt is being prepared.

        Raises:
            ModelNotFoundError: There is no such model.
            ConfigError: Its config isn't understood.
            WeightsError: Its tensors don't fit the config.
            LoadError: A weight file is missing, truncated or damaged.
            TokenizerLoadError: Its tokenizer isn't understood.
            DeviceError: There is no such device.
            OutOfMemoryError: The device can't hold it.
            DtypeError: The device has no activations of that dtype.
        """
        chosen, no_gpu = choose_device(device)
        path = locate(model, revision=revision, token=token, local_files_only=local_files_only)
        checkpoint = open_checkpoint(path)
        tensors = checkpoint.tensors
        planned = plan(checkpoint.config, tensors, checkpoint.names).on(chosen, dtype)
        if no_gpu is not None:
            warn_no_gpu(no_gpu)
        weights = load(planned, tensors, chosen, progress)
        dtypes = planned.dtype, planned.attention_dtype
        return cls(checkpoint, Decoder(planned.config, weights, chosen, *dtypes), chosen)

    @overload
    def generate(
        self, prompt: list[str] | list[list[int]], **options: Unpack[GenerationOptions]
    ) -> list[Generation]: ...
    @overload
    def generate(self, prompt: Prompt, **options: Unpack[GenerationOptions]) -> Generation: ...
    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        **options: Unpack[GenerationOptions],
    ) -> Generation | list[Generation]:
        """Continues a prompt, or each of a list of prompts at once.

        Args:
            prompt: A text, a sequence of token ids, or a list of either.
            **options: How tokens are chosen and when to stop: see `SamplingParams`.

        Returns:
            The new ids with text, finish reason, log-probabilities and usage; a list of them for a
            list of prompts. Each is the same, to the bit, as it would be alone.

        Raises:
            PromptError: A prompt is empty, malformed, or text where there is no tokenizer.
            ContextLengthError: A prompt is longer than the context.
            SamplingError: An option is out of its range.
            LogitsError: The model computed a NaN or infinite logit.
        """
        params = self.defaults.updated(options)
        batch = is_batch(prompt)
        prompts: Sequence[Any] = prompt if batch else [prompt]
        names = [f"prompt[{index}]" for index in range(len(prompts))] if batch else ["the prompt"]
        results = self._generate(
            [
                self._prompts.encode(single, name=name)
                for single, name in zip(prompts, names, strict=True)
            ],
            params,
        )
        return results if batch else results[0]

    def stream(self, prompt: Prompt, **options: Unpack[GenerationOptions]) -> Stream:
        """Continues a prompt, giving the text piece by piece as it comes.

        Raises:
            PromptError: As `generate`; and the model has no tokenizer.
        """
        return self._stream(self._prompts.encode(prompt), self.defaults.updated(options))

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template_options: Mapping[str, Any] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Generation:
        """The model's answer to a conversation.

        Args:
            messages: `{"role": "user", "content": "…"}` and so on.
            tools: JSON schemas of functions that the model may call.
            documents: For retrieval-augmented templates.
            template_options: What else the chat template reads, such as `enable_thinking`.
            **options: As for `generate`.

        Raises:
            ChatTemplateError: The model has no chat template, or it refuses the messages.
        """
        params = self.defaults.updated(options)
        ids = self.encode_chat(
            messages, tools=tools, documents=documents, template_options=template_options
        )
        return self._generate([ids], params)[0]

    def chat_stream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template_options: Mapping[str, Any] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Stream:
        """The model's answer to a conversation, piece by piece; arguments as for `chat`."""
        ids = self.encode_chat(
            messages, tools=tools, documents=documents, template_options=template_options
        )
        return self._stream(ids, self.defaults.updated(options))

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The text that a conversation becomes; arguments as for `ChatTemplate.render`.

        Raises:
            ChatTemplateError: The model has no chat template, or it refuses the messages.
        """
        if self._template is None:
            raise ChatTemplateError(
                "the model has no chat template; use generate with a prompt written out"
            )
        return self._template.render(
            messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )

    @property
    def dtype(self) -> str:
        """Of activations; those inside the attention may round less: see `from_pretrained`."""
        return self._decoder.dtype

    @property
    def engine(self) -> Engine:
        """What runs all generations of this model."""
        return self._engine

    def configure(self, config: EngineConfig, *, share: SchedulerShare | None = None) -> None:
        """Says how much runs at once, and how much memory is kept between requests.

        It changes no bit of the results. Generations that are under way end as they began.

        Args:
            config: How much.
            share: What gives the model its quota among others on the device: see `SharedDevice`.

        Raises:
            OutOfMemoryError: The device can't hold the pages that the cache is to have.
            ValueError: The share has no room for the pages, or they are to have no fixed number.
        """
        self._engine = Engine(self._decoder, self.device, config, share=share)

    @functools.cached_property
    def grammars(self) -> Grammars:
        """Constraints for outputs, which `Output.constrain` takes.

        Raises:
            GrammarError: llguidance isn't installed, or no token ends the output.
            PromptError: The model has no tokenizer.
        """
        if self.tokenizer is None:
            raise PromptError("the model has no tokenizer, which grammars need")
        return Grammars(self.tokenizer, self.config.vocab_size, self._end_ids)

    @property
    def template(self) -> ChatTemplate | None:
        """The chat template; None where the model has none."""
        return self._template

    @property
    def has_chat_template(self) -> bool:
        """Whether `chat` can be used."""
        return self._template is not None

    def encode(self, prompt: Prompt, *, add_special_tokens: bool = True) -> list[int]:
        """The ids that a prompt becomes, checked but for their number.

        Args:
            prompt: A text, or ids.
            add_special_tokens: Whether a text gets the tokens that the tokenizer puts around it; a
                beginning-of-text token that is there already isn't put there again.

        Raises:
            PromptError: It is empty, malformed, has an id that the model lacks, or is text where
                there is no tokenizer.
        """
        return self._prompts.encode(prompt, add_special_tokens=add_special_tokens, limited=False)

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template_options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The ids that a conversation becomes; arguments as for `chat`.

        Raises:
            ChatTemplateError: The model has no chat template, or it refuses the messages.
            ContextLengthError: They are more than the model's context.
        """
        # The template writes every special token itself, so the tokenizer adds none.
        text = self.apply_chat_template(messages, tools, documents, **(template_options or {}))
        return self._prompts.encode(text, add_special_tokens=False)

    def logits(self, ids: Prompt) -> npt.NDArray[np.float32]:
        """The logits of the next token at every position.

        Args:
            ids: Token ids, or a text.

        Returns:
            (len(ids), vocab_size), float32.
        """
        return self._scorer.logits(self._prompts.encode(ids))

    @overload
    def score(
        self, text: list[str] | list[list[int]], *, given: int | Sequence[int] = 1
    ) -> list[Score]: ...
    @overload
    def score(self, text: Prompt, *, given: int | Sequence[int] = 1) -> Score: ...
    def score(
        self, text: Prompt | Sequence[Prompt], *, given: int | Sequence[int] = 1
    ) -> Score | list[Score]:
        """How likely the model finds a text: the log-probability of each token after the first.

        Args:
            text: A text, a sequence of at least two token ids, or a list of either.
            given: How many tokens, one at least, are given instead of scored: the context whose
                continuation is scored. For a list also one number for each.

        Raises:
            PromptError: A text is no longer than what is given; or as for `generate`.
            ContextLengthError: It is longer than the context.
            LogitsError: The model computed a NaN or infinite logit.
        """
        batch = is_batch(text)
        texts: Sequence[Any] = text if batch else [text]
        names = [f"text[{index}]" for index in range(len(texts))] if batch else ["the text"]
        counts = [given] * len(texts) if isinstance(given, int) else list(given)
        if len(counts) != len(texts):
            raise PromptError(f"given has {len(counts)} numbers for {len(texts)} texts")
        encoded = [
            self._prompts.encode(single, name=name)
            for single, name in zip(texts, names, strict=True)
        ]
        for ids, count, name in zip(encoded, counts, names, strict=True):
            if not 1 <= count < len(ids):
                raise PromptError(
                    f"{name} has {len(ids)} tokens, of which {count} can't be given; give at least "
                    f"one and score at least one"
                )
        scores: list[Score] = []
        for group in _groups(encoded):
            part = slice(len(scores), len(scores) + len(group))
            found = self._scorer.score(group, counts[part])
            scores += [
                Score(tuple(ids), tuple(logprobs), tuple(greedy))
                for ids, (logprobs, greedy) in zip(group, found, strict=True)
            ]
        return scores if batch else scores[0]

    def _generate(self, prompts: Sequence[list[int]], params: SamplingParams) -> list[Generation]:
        outputs = [self.prepare(ids, params) for ids in prompts]
        for _ in self._engine.run([output.request for output in outputs if output.has_room]):
            pass
        return [output.result() for output in outputs]

    def _stream(self, ids: list[int], params: SamplingParams) -> Stream:
        output = self.prepare_stream(ids, params)
        return Stream(output, self._pieces(output))

    def prepare(
        self,
        ids: Sequence[int],
        params: SamplingParams,
        shown: Mapping[int, str] = MappingProxyType({}),
    ) -> Output:
        """What the engine is given to continue ids, and what it will have produced.

        Args:
            ids: The prompt.
            params: How tokens are chosen and when to stop.
            shown: Special tokens that the text is to show, and as what.

        Raises:
            ContextLengthError: The ids are more than the model's context.
            SamplingError: Stop strings need a tokenizer, or an option has ids that the model
                doesn't have.
        """
        # Most have been encoded here, but they may be anybody's.
        ids = self._prompts.encode(ids)
        if params.stop and self.tokenizer is None:
            raise SamplingError("stop needs a tokenizer, which the model lacks; use stop_token_ids")
        room = self.config.context_length - len(ids)
        if params.max_new_tokens is None:
            # Who doesn't say how much is wanted gets what there can be.
            count = min(room, max(self._engine.longest - len(ids), 1))
        else:
            count = min(room, params.max_new_tokens)
        decoder: TextDecoder | None = None
        if self.tokenizer is not None:
            decoder = self.tokenizer.decode_stream()
            decoder = ShowingDecoder(decoder, shown) if shown else decoder
        ends = frozenset() if params.ignore_eos else self._end_ids
        ends |= frozenset(params.stop_token_ids)
        output = Output(ids, len(ids) + count, params, TextStream(decoder, params.stop), ends)
        if params.ruled:
            output.constrain(TokenRules(output.request, ends, self.config.vocab_size))
        return output

    def prepare_stream(self, ids: Sequence[int], params: SamplingParams) -> Output:
        """`prepare`, for an output whose text is wanted as it comes.

        Raises:
            PromptError: The model has no tokenizer.
        """
        if self.tokenizer is None:
            raise PromptError("the model has no tokenizer to stream text with; use generate")
        return self.prepare(ids, params)

    def _pieces(self, output: Output) -> Generator[str, None, None]:
        """Generates, yielding the text as it comes."""
        if output.has_room:
            for _ in self._engine.run([output.request]):
                yield output.take().text


def _groups(texts: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """The texts in order, as many at once as have some tokens together."""
    group: list[list[int]] = []
    for ids in texts:
        if group and sum(map(len, group)) + len(ids) > SCORED_TOGETHER:
            yield group
            group = []
        group.append(ids)
    if group:
        yield group
