"""The names of the reference models."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent.parent / "reference_models"
NAMES = sorted(
    file.parent.relative_to(HERE).as_posix() for file in HERE.rglob("reference.safetensors")
)
