"""`pygpukit info`: what there is to run on, and what a model would need."""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter
from importlib.metadata import version
from typing import Any

from pygpukit import kernels
from pygpukit.core import Device, DeviceError, Tensor
from pygpukit.llm.cache import PAGE_SIZE, page_bytes
from pygpukit.llm.checkpoint import Checkpoint, open_checkpoint
from pygpukit.llm.cli.loading import model_path
from pygpukit.llm.device import choose_device
from pygpukit.llm.errors import ModelNotFoundError
from pygpukit.llm.weights import plan

__all__ = ["run"]

_PACKAGES = (
    "pygpukit-core",
    "pygpukit-kernels",
    "pygpukit-tokenizer",
    "pygpukit-llm",
    "numpy",
)


def run(arguments: argparse.Namespace) -> None:
    """Prints devices, versions and the model's facts; no weights are read."""
    facts: dict[str, Any] = {
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
        "devices": _devices(arguments.device),
    }
    try:
        checkpoint = open_checkpoint(model_path(arguments.model, arguments.revision))
        facts["model"] = _model(checkpoint, choose_device(arguments.device).device, arguments.dtype)
    except ModelNotFoundError as error:
        if arguments.model is not None:
            raise
        facts["model"] = str(error)
    if arguments.json:
        print(json.dumps(facts, ensure_ascii=False))
    else:
        _print(facts)


def _devices(name: str) -> dict[str, Any]:
    devices: dict[str, Any] = {}
    for candidate in ("cuda", "cpu") if name == "auto" else (name,):
        try:
            device = Device(candidate)
        except DeviceError as error:
            if name != "auto":
                raise
            devices[candidate] = f"not available: {error}"
            continue
        info = device.info()
        devices[device.name] = {
            "name": info.name,
            "cores": info.cores,
            "total_memory": info.total_memory,
            "available_memory": info.available_memory,
        }
        if info.compute_capability is not None:
            devices[device.name] |= {
                "compute_capability": ".".join(map(str, info.compute_capability)),
                "driver_cuda_version": ".".join(map(str, info.cuda_version or ())),
                "kernels": _kernels(device),
            }
    return devices


def _kernels(device: Device) -> str:
    """What a GPU runs: machine code made for it, or the text that its driver compiles."""
    kernels.activation(Tensor.zeros((1, 8), "float32", device=device), "identity")
    loaded = sorted({"".join(file.suffixes[-2:]) for file in device.controller.images().values()})
    return ", ".join(name.lstrip(".") for name in loaded)


def _model(checkpoint: Checkpoint, device: Device, dtype: str | None) -> dict[str, Any]:
    """What a model is, and what it would need on a device."""
    config = checkpoint.config
    weights = plan(config, checkpoint.tensors, checkpoint.names).on(device, dtype)
    per_page = page_bytes(config, weights.dtype)
    cache = per_page * config.context_length // PAGE_SIZE
    return {
        "path": str(checkpoint.path),
        "architecture": config.architecture,
        "parameters": weights.parameters,
        "layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "vocabulary": config.vocab_size,
        "context_tokens": config.context_length,
        "stored_types": _counted(view.dtype for view in checkpoint.tensors.values()),
        "stored_bytes": checkpoint.tensors.nbytes,
        "held_types": _counted(placement.dtype for placement in weights.placements),
        "weights_bytes": weights.nbytes,
        "activation_type": weights.dtype,
        "cache_bytes_per_token": per_page // PAGE_SIZE,
        "cache_bytes_full_context": cache,
        "memory_needed_full_context": weights.nbytes + cache,
        "chat_template": checkpoint.template is not None,
    }


def _counted(names: Any) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _print(facts: dict[str, Any], indent: str = "") -> None:
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{indent}{name}:")
            _print(value, indent + "  ")
        else:
            print(f"{indent}{name}: {_shown(name, value)}")


def _shown(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int):
        return str(value)
    if ("bytes" in name or "memory" in name) and value >= 1e6:
        return f"{value:,} ({value / 1e6:,.1f} MB)"
    return f"{value:,}"
