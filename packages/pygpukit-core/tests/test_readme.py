"""The README's examples, which the package's description holds, do what it says."""

from __future__ import annotations

import doctest
import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
from weight_files import entry, safetensors_file


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model.safetensors that the examples read, in the working directory."""
    embedding = np.arange(400, dtype=np.float32).tobytes()
    header = {
        "wte": entry("F32", [50, 8], 0, len(embedding)),
        "h.0.w": entry("BF16", [8, 24], len(embedding), len(embedding) + 8 * 24 * 2),
    }
    content = safetensors_file(header, embedding + bytes(8 * 24 * 2))
    (tmp_path / "model.safetensors").write_bytes(content)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("model")
def test_the_examples_do_what_the_readme_says():
    metadata = importlib.metadata.metadata("pygpukit-core")
    readme = str(metadata.get_payload())
    test = doctest.DocTestParser().get_doctest(readme, {}, "README.md", None, None)
    failures: list[str] = []
    result = doctest.DocTestRunner().run(test, out=failures.append)
    assert result.attempted > 10
    assert not result.failed, "".join(failures)
