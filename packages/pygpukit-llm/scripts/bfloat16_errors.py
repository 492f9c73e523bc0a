"""How far transformers is off in bfloat16: makes tests/reference_models/bfloat16_errors.json.

    uv run --no-project --with torch --with transformers scripts/bfloat16_errors.py

For each reference model the root mean square of the logits' errors over their standard deviation.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

MODELS = Path(__file__).parent.parent / "tests/reference_models"


@torch.inference_mode()
def error(folder: Path) -> float:
    """The error of the model in a folder."""
    reference = load_file(folder / "reference.safetensors")
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="eager"
    )
    ids = torch.tensor(reference["prompt_ids"].astype(np.int64))[None]
    difference = model(ids).logits[0].float().numpy() - reference["logits"]
    return float(np.sqrt(np.mean(difference**2)) / reference["logits"].std())


def main() -> None:
    """Write the file."""
    folders = sorted(file.parent for file in MODELS.rglob("reference.safetensors"))
    errors = {folder.relative_to(MODELS).as_posix(): round(error(folder), 4) for folder in folders}
    text = json.dumps(errors, indent=1) + "\n"
    (MODELS / "bfloat16_errors.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
