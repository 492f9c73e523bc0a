"""Weight-file loader, device memory, transfers, kernel dispatch and host kernels of pygpukit."""

from ._core import (
    LoadError,
    Metadata,
    MissingFileError,
    PygpukitError,
    TensorMap,
    TensorView,
    UnknownTensorError,
    load_gguf,
    load_safetensors,
    load_tensors,
)

__all__ = [
    "LoadError",
    "Metadata",
    "MissingFileError",
    "PygpukitError",
    "TensorMap",
    "TensorView",
    "UnknownTensorError",
    "load_gguf",
    "load_safetensors",
    "load_tensors",
]
