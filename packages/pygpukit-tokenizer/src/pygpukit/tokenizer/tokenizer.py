"""The tokenizer itself: loading, encoding, decoding."""

from __future__ import annotations

from pygpukit.tokenizer.added_tokens import AddedToken, AddedVocabulary
from pygpukit.tokenizer.byte_alphabet import to_bytes
from pygpukit.tokenizer.collection import CollectionPaused
from pygpukit.tokenizer.decoders import ByteLevel, NoDecoder, build_decoder
from pygpukit.tokenizer.decoders.fusing import byte_of
from pygpukit.tokenizer.encoding import Encoding, merged
from pygpukit.tokenizer.errors import TokenizerLoadError
from pygpukit.tokenizer.limits import Padding, Truncation
from pygpukit.tokenizer.models import build_model
from pygpukit.tokenizer.normalizers import build_normalizer
from pygpukit.tokenizer.pipeline import Pipeline
from pygpukit.tokenizer.post_processors import build_post_processor
from pygpukit.tokenizer.pre_tokenizers import build_pre_tokenizer
from pygpukit.tokenizer.reading import parse_json
from pygpukit.tokenizer.spec import Spec
from pygpukit.tokenizer.streaming import DecodeStream
from pygpukit.tokenizer.token_texts import TokenTexts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from os import PathLike
    from typing import Any, TypeVar

    T = TypeVar("T")

_KEYS = (
    "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
    "post_processor", "decoder", "model",
)  # fmt: skip


class Tokenizer:
    """A tokenizer.json, or a GGUF file's tokenizer, exactly as Hugging Face tokenizers runs it.

    Encoding and decoding are safe to call from any number of threads; ``enable_*`` and ``no_*``
    change the tokenizer and are not meant to run beside them.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        """Load from the parsed JSON; see :meth:`from_dict`."""
        spec = Spec("", dict(data) if isinstance(data, dict) else data)
        unknown = [key for key in spec.mapping() if key not in _KEYS]
        if unknown:
            raise TokenizerLoadError(f"{unknown[0]}: unknown field")
        if spec.get("version", str, "1.0") != "1.0":
            raise spec.child("version").error(f"unknown version {spec.value['version']!r}")
        self._model = build_model(spec.child("model"))
        # The merges, much the biggest part of many files, are kept in the model's own form only.
        model = {key: value for key, value in spec.value["model"].items() if key != "merges"}
        self._data = {**spec.value, "model": model}
        self._normalizer = _optional(spec.child("normalizer"), build_normalizer)
        added = spec.items("added_tokens") if "added_tokens" in spec.value else []
        self._added = AddedVocabulary(
            map(AddedToken.from_spec, added),
            self._model,
            None if self._normalizer is None else self._normalizer.normalize,
        )
        pre_tokenizer = _optional(spec.child("pre_tokenizer"), build_pre_tokenizer)
        self._pipeline = Pipeline(self._added, self._normalizer, pre_tokenizer, self._model)
        self._post_processor = _optional(spec.child("post_processor"), build_post_processor)
        self._frame = self._post_processor.frame() if self._post_processor else ([], [])
        self._decoder = _optional(spec.child("decoder"), build_decoder) or NoDecoder()
        # What is decoded of the token in front of one whose bytes are asked for.
        self._before: str | None = None
        self.truncation = Truncation.from_spec(spec.child("truncation"))
        self.padding = Padding.from_spec(spec.child("padding"))
        # With special tokens and without.
        self._texts = tuple(
            TokenTexts(self._model, self._added, skip_special_tokens=skip) for skip in (False, True)
        )

    # Loading and saving --------------------------------------------------------------------------

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Tokenizer:
        """Load a tokenizer.json.

        Raises:
            OSError: the file can't be read.
            TokenizerLoadError: it isn't valid, or has something this package doesn't support.
        """
        try:
            with CollectionPaused():
                return cls(parse_json(_read(path)))
        except UnicodeDecodeError as error:
            raise TokenizerLoadError(f"{path}: not UTF-8: {error}") from None
        except TokenizerLoadError as error:
            raise TokenizerLoadError(f"{path}: {error}") from None

    @classmethod
    def from_str(cls, text: str) -> Tokenizer:
        """Load the contents of a tokenizer.json.

        Raises:
            TokenizerLoadError: not valid, or not supported.
        """
        with CollectionPaused():
            return cls(parse_json(text))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tokenizer:
        """Load from the parsed JSON, which must not be changed afterwards.

        Raises:
            TokenizerLoadError: not valid, or not supported.
        """
        return cls(data)

    @classmethod
    def from_pretrained(cls, name: str | PathLike[str], revision: str | None = None) -> Tokenizer:
        """Load from a model's folder, the path of a tokenizer.json, or a model's id on the hub.

        An id, such as ``"organisation/model"``, is looked up where there is no such path, with the
        package huggingface-hub, which isn't installed with this one; ``revision`` is a branch, tag
        or commit there.

        Raises:
            FileNotFoundError: there is neither such a path nor, as far as is known, such a model.
            TokenizerLoadError: not valid, or not supported.
        """
        import os

        path = os.fspath(name)
        if os.path.isdir(path):
            return cls.from_file(os.path.join(path, "tokenizer.json"))
        if os.path.exists(path):
            return cls.from_file(path)
        return cls.from_file(_from_hub(path, revision))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """Load from the ``tokenizer.ggml.*`` metadata of a GGUF file.

        ``metadata`` maps the keys to plain values; arrays may be any sequences.

        Raises:
            TokenizerLoadError: a key is missing or wrong, or names something unsupported.
        """
        from pygpukit.tokenizer.gguf import tokenizer_data

        with CollectionPaused():
            return cls(tokenizer_data(metadata))

    def to_dict(self) -> dict[str, Any]:
        """The tokenizer as a tokenizer.json has it. The model's part is shared, not copied."""
        data = {"version": "1.0", **self._data}
        data["model"] = {**data["model"], **self._model.to_spec()}
        data["truncation"] = self.truncation and self.truncation.to_spec()
        data["padding"] = self.padding and self.padding.to_spec()
        tokens = sorted(self._added.by_id.values(), key=lambda token: token.id)
        data["added_tokens"] = [token.to_spec() for token in tokens]
        return data

    def to_str(self, *, pretty: bool = False) -> str:
        """The contents of a tokenizer.json."""
        import json

        layout: dict[str, Any] = {"indent": 2} if pretty else {"separators": (",", ":")}
        return json.dumps(self.to_dict(), ensure_ascii=False, **layout)

    def save(self, path: str | PathLike[str], *, pretty: bool = True) -> None:
        """Write a tokenizer.json."""
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(self.to_str(pretty=pretty))

    # Encoding ------------------------------------------------------------------------------------

    def encode(
        self,
        text: str,
        pair: str | None = None,
        add_special_tokens: bool = True,
        parse_special: bool = True,
    ) -> Encoding:
        """Encode a text, or two texts that belong together.

        Args:
            text: the text.
            pair: a second text.
            add_special_tokens: let the post-processor add its special tokens.
            parse_special: turn the texts of added tokens, special or not, into those tokens.
                Without, they are plain text, so that untrusted input can't inject any.

        Raises:
            UnicodeEncodeError: the text has lone surrogates.
            ValueError: truncation can't be done as it is set.
        """
        encoding = self._processed(text, pair, add_special_tokens, parse_special)
        if self.padding is not None:
            self.padding.apply([encoding])
        return encoding

    def encode_ids(
        self, text: str, add_special_tokens: bool = True, parse_special: bool = True
    ) -> list[int]:
        """The ids that :meth:`encode` gives, several times as fast."""
        if self.truncation is not None or self.padding is not None:
            return self.encode(text, None, add_special_tokens, parse_special).ids
        if self._frame is None:
            return self.encode(text, None, add_special_tokens, parse_special).ids
        if not add_special_tokens:
            return self._pipeline.ids(text, parse_special=parse_special)
        before, after = self._frame
        return before + self._pipeline.ids(text, parse_special=parse_special) + after

    def encode_batch(
        self,
        texts: Iterable[str | tuple[str, str]],
        add_special_tokens: bool = True,
        parse_special: bool = True,
    ) -> list[Encoding]:
        """Encode several texts or pairs of texts; padding goes to the longest of them."""
        encodings = []
        for item in texts:
            text, pair = (item, None) if isinstance(item, str) else item
            encodings.append(self._processed(text, pair, add_special_tokens, parse_special))
        if self.padding is not None:
            self.padding.apply(encodings)
        return encodings

    def _processed(
        self, text: str, pair: str | None, add_special_tokens: bool, parse_special: bool
    ) -> Encoding:
        encode = self._pipeline.encode
        first = encode(text, type_id=0, parse_special=parse_special)
        second = None if pair is None else encode(pair, type_id=1, parse_special=parse_special)
        if self.truncation is not None:
            processor = self._post_processor
            special = processor.added(pair=pair is not None) if processor else 0
            first, second = self.truncation.apply(
                first, second, special if add_special_tokens else 0
            )
        encodings = [first] if second is None else [first, second]
        if self._post_processor is not None:
            for sequence, encoding in enumerate(encodings):
                encoding.set_sequence(sequence, sequence)
                for part in encoding.overflowing:
                    part.set_sequence(sequence)
            encodings = self._post_processor.process(
                encodings, add_special_tokens=add_special_tokens
            )
        elif second is not None:
            first.set_sequence(0)
            second.set_sequence(1)
        return encodings[0] if len(encodings) == 1 else merged(encodings)

    # Decoding ------------------------------------------------------------------------------------

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ids; ids that stand for no token are left out."""
        return self._decoder.decode(self._texts[skip_special_tokens].of(ids))

    def decode_batch(
        self, sequences: Iterable[Iterable[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """The texts of several lists of ids."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def decode_stream(self, skip_special_tokens: bool = True) -> DecodeStream:
        """Decode ids as they come; each stream has a state of its own."""
        return DecodeStream(self._decoder.step(), self._texts[skip_special_tokens])

    # Vocabulary ----------------------------------------------------------------------------------

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, or None."""
        id = self._added.ids.get(token)
        return self._model.vocab.get(token) if id is None else id

    def id_to_token(self, id: int) -> str | None:
        """The token of an id, or None. Added tokens are in the form that decoding uses."""
        token = self._added.decoded.get(id)
        return self._model.id_to_token(id) if token is None else token

    def token_bytes(self, id: int) -> bytes | None:
        """The bytes that an ordinary token adds to a text in whose midst it is.

        They may be part of a character. None for special tokens and ids that stand for no token.
        """
        token = self._texts[True][id]
        if token is None:
            return None
        if isinstance(self._decoder, ByteLevel):
            return to_bytes(token)
        # Decoders treat the beginning of a text differently.
        if self._before is None:
            self._before = self._decoder.decode(["a"])
        text = self._decoder.decode(["a", token])[len(self._before) :]
        byte = byte_of(token)
        return text.encode() if byte is None or text != "\ufffd" else bytes([byte])

    @property
    def vocab(self) -> dict[str, int]:
        """A copy of all tokens and their ids, added ones included."""
        return {**self._model.vocab, **self._added.ids}

    @property
    def vocab_size(self) -> int:
        """The number of tokens, added ones included."""
        known = self._model.vocab
        return self._model.size + sum(token not in known for token in self._added.ids)

    def get_added_tokens(self) -> Sequence[AddedToken]:
        """The added tokens in the order of their ids."""
        return sorted(self._added.by_id.values(), key=lambda token: token.id)

    # Truncation and padding ----------------------------------------------------------------------

    def enable_truncation(
        self,
        max_length: int,
        stride: int = 0,
        strategy: str = "longest_first",
        direction: str = "right",
    ) -> None:
        """Cut encodings to ``max_length`` tokens; see :class:`Truncation`.

        Raises:
            ValueError: an argument is out of range.
        """
        truncation = Truncation(max_length, stride, strategy, direction)
        special = self._post_processor.added(pair=False) if self._post_processor else 0
        if stride and stride >= max_length - special:
            raise ValueError(
                f"stride {stride} must be less than max_length {max_length} without the "
                f"{special} special tokens"
            )
        self.truncation = truncation

    def no_truncation(self) -> None:
        """Keep encodings whole."""
        self.truncation = None

    def enable_padding(
        self,
        length: int | None = None,
        pad_id: int = 0,
        pad_token: str = "[PAD]",
        pad_type_id: int = 0,
        direction: str = "right",
        pad_to_multiple_of: int | None = None,
    ) -> None:
        """Fill encodings up to ``length`` tokens, or to the longest of a batch."""
        self.padding = Padding(
            length, pad_id, pad_token, pad_type_id, direction, pad_to_multiple_of
        )

    def no_padding(self) -> None:
        """Don't fill encodings up."""
        self.padding = None

    def __repr__(self) -> str:
        model = type(self._model).__name__
        return f"Tokenizer({model}, {self.vocab_size} tokens, {len(self._added.ids)} added)"


def _optional(spec: Spec, build: Callable[[Spec], T]) -> T | None:
    return None if spec.value is None else build(spec)


def _read(path: str | PathLike[str]) -> str:
    # The bytes are gone when this returns, the text when it is parsed: both may be big.
    with open(path, "rb") as file:
        return file.read().decode()


def _from_hub(name: str, revision: str | None) -> str:
    """The path of a model's tokenizer.json, downloaded if it wasn't yet.

    Raises:
        FileNotFoundError: ``name`` isn't the id of a model, or can't be looked up.
    """
    import re

    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise FileNotFoundError(f"{name}: no such file or folder")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise FileNotFoundError(
            f"{name}: no such file or folder; if it is a model's id on the hub, install "
            "huggingface-hub to download its tokenizer.json"
        ) from None
    try:
        return str(hf_hub_download(name, "tokenizer.json", revision=revision))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise FileNotFoundError(
            f"{name}: no such file or folder, nor found on the hub: {error}"
        ) from error
