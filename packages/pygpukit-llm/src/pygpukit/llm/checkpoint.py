"""Everything that is read of a model before its weights: one view of a folder or a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pygpukit.core import Tensor, TensorMap, load_gguf, load_safetensors
from pygpukit.llm.chat import ChatTemplate
from pygpukit.llm.config import ModelConfig, read_json
from pygpukit.llm.errors import ConfigError
from pygpukit.llm.gguf import ROPE_FACTORS, config_from_gguf, names_in_gguf
from pygpukit.llm.models import FAMILIES, config_from_json
from pygpukit.llm.models.names import Names
from pygpukit.llm.sampling import SamplingParams, read_generation_config

if TYPE_CHECKING:
    from pygpukit.tokenizer import Tokenizer

__all__ = ["Checkpoint", "open_checkpoint", "read_chat_template"]

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model's files, opened but for the weights' bytes.

    Attributes:
        path: The folder or the .gguf file.
        config: What the model computes.
        tensors: The weights, mapped.
        names: What the file calls them.
        defaults: How tokens are chosen unless the caller says otherwise.
        special_tokens: Texts of `bos_token`, `eos_token` …, as far as the model names them.
        template: The chat template, if the model has one.
    """

    path: Path
    config: ModelConfig
    tensors: TensorMap
    names: Names
    defaults: SamplingParams
    special_tokens: Mapping[str, str]
    template: ChatTemplate | None

    def tokenizer(self) -> Tokenizer | None:
        """Builds the tokenizer; None where the folder has none.

        Raises:
            TokenizerLoadError: It isn't understood, or can't be read.
        """
        from pygpukit.tokenizer import Tokenizer, TokenizerLoadError

        in_gguf = self.path.is_file()
        file = self.path if in_gguf else self.path / "tokenizer.json"
        if not file.exists():
            return None
        try:
            if in_gguf:
                return Tokenizer.from_gguf(self.tensors.metadata)
            tokenizer = Tokenizer.from_file(file)
        except (OSError, TokenizerLoadError) as error:
            raise TokenizerLoadError(f"{file}: {error}") from error
        # What the file cuts and pads to was meant for training batches.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def end_ids(self, tokenizer: Tokenizer | None) -> frozenset[int]:
        """Every id that ends a text: of all configs, of the tokenizer, of a turn in a chat."""
        ids = set(self.config.eos_token_ids)
        if tokenizer is not None:
            ends = [self.special_tokens.get("eos_token", "")]
            if self.template is not None:
                ends += self.template.turn_ends()
            ids |= {id_ for token in ends if (id_ := tokenizer.token_to_id(token)) is not None}
        return frozenset(ids)


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a folder with config.json and safetensors, or a .gguf file.

    Raises:
        ConfigError: A config isn't understood.
        LoadError: A weight file is missing, truncated or damaged.
    """
    return _open_gguf(path) if path.is_file() else _open_folder(path)


def _open_folder(folder: Path) -> Checkpoint:
    config = config_from_json(folder / "config.json")
    generation_file = folder / "generation_config.json"
    generation = read_json(generation_file) if generation_file.is_file() else {}
    defaults, ends = read_generation_config(generation, str(generation_file))
    tokenizer_config = _tokenizer_config(folder)
    return Checkpoint(
        path=folder,
        config=replace(config, eos_token_ids=(*config.eos_token_ids, *ends)),
        tensors=load_safetensors(folder),
        names=FAMILIES[config.architecture].names,
        defaults=defaults,
        special_tokens=_special_tokens(tokenizer_config),
        template=read_chat_template(folder),
    )


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, over special_tokens_map.json, which older folders have beside it."""
    files = (folder / "special_tokens_map.json", folder / "tokenizer_config.json")
    found = [read_json(file) for file in files if file.is_file()]
    return {
        key: value
        for values in found
        for key, value in values.items()
        if value is not None or key not in _SPECIAL_TOKENS
    }


def _special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    texts = {name: _token_text(tokenizer_config.get(name)) for name in _SPECIAL_TOKENS}
    return {name: text for name, text in texts.items() if text is not None}


def _open_gguf(path: Path) -> Checkpoint:
    tensors = load_gguf(path)
    shapes = {name: tuple(tensors[name].shape) for name in tensors}
    factors = {
        name: Tensor.from_safetensor(tensors[name], dtype="float32").tolist()
        for name in ROPE_FACTORS
        if name in tensors
    }
    config = config_from_gguf(tensors.metadata, shapes, factors, str(path))
    special_tokens = _gguf_special_tokens(tensors.metadata)
    templates = _gguf_templates(tensors.metadata)
    return Checkpoint(
        path=path,
        config=config,
        tensors=tensors,
        names=names_in_gguf(tensors.metadata, config),
        defaults=SamplingParams(),
        special_tokens=special_tokens,
        template=ChatTemplate(templates, special_tokens, str(path)) if templates else None,
    )


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """The templates of tokenizer_config.json, chat_template.jinja and additional_chat_templates.

    What a file of its own has wins.

    Raises:
        ConfigError: A file can't be read, or isn't what it should be.
    """
    origin, file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    tokenizer_config = _tokenizer_config(folder)
    sources = _template_sources(tokenizer_config.get("chat_template"), origin)
    files = {"default": file} if file.is_file() else {}
    files |= {
        more.stem: more for more in sorted((folder / "additional_chat_templates").glob("*.jinja"))
    }
    for name, origin in files.items():
        try:
            sources[name] = origin.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{origin}: can't be read: {error}") from error
    special_tokens = _special_tokens(tokenizer_config)
    return ChatTemplate(sources, special_tokens, str(origin)) if sources else None


def _template_sources(value: Any, file: Path) -> dict[str, str]:
    """One template, or a list of named ones."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    try:
        return {str(entry["name"]): str(entry["template"]) for entry in value}
    except (TypeError, KeyError) as error:
        raise ConfigError(
            f"{file}: chat_template must be a string or a list of objects with name and template"
        ) from error


def _token_text(value: object) -> str | None:
    """A special token's text, written as a string or as an object with its content."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _gguf_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The default template, and those with a name behind its key."""
    key = "tokenizer.chat_template"
    # Not `items`, which would make Python's objects of the whole vocabulary.
    names = [name for name in metadata if name == key or name.startswith(f"{key}.")]
    return {
        name.removeprefix(key).removeprefix(".") or "default": source
        for name in names
        if isinstance(source := metadata[name], str) and source
    }


def _gguf_special_tokens(metadata: Mapping[str, Any]) -> dict[str, str]:
    vocabulary = metadata.get("tokenizer.ggml.tokens", ())
    ids = {
        name: metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"))
    }
    return {
        name: vocabulary[id_]
        for name, id_ in ids.items()
        if id_ is not None and id_ < len(vocabulary)
    }
