"""The package as it is installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires, version

import pygpukit
import pytest
from pygpukit import llm

PACKAGES = ["pygpukit-core", "pygpukit-kernels", "pygpukit-tokenizer", "pygpukit-llm"]


def test_the_four_packages_have_one_version() -> None:
    assert {version(package) for package in PACKAGES} == {llm.__version__}


@pytest.mark.parametrize("name", ["pygpukit-core", "pygpukit-tokenizer", "pygpukit-llm"])
def test_the_modules_say_their_version(name: str) -> None:
    module = __import__(name.replace("-", "."), fromlist=["__version__"])
    assert module.__version__ == version(name)


def test_the_packages_require_one_another_at_that_version() -> None:
    required = requires("pygpukit-llm") or []
    for package in PACKAGES[:3]:
        assert f"{package}=={llm.__version__}" in required


def test_the_namespace_has_no_code_of_its_own() -> None:
    assert getattr(pygpukit, "__file__", None) is None


def test_every_public_name_is_there() -> None:
    assert sorted(llm.__all__) == sorted(dir(llm))
    for name in llm.__all__:
        assert getattr(llm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        llm.nothing  # noqa: B018


def test_errors_have_one_base() -> None:
    from pygpukit.core import PygpukitError

    errors = [name for name in llm.__all__ if name.endswith("Error")]
    assert len(errors) == 12
    for name in errors:
        error = getattr(llm, name)
        assert issubclass(error, PygpukitError)
        assert str(error("a message")) == "a message"


def test_heavy_modules_are_imported_only_when_needed() -> None:
    script = """
import sys
from pygpukit.llm import LLM
from pygpukit.llm.hub import bundled_model
llm = LLM.from_pretrained(bundled_model(), device="cpu")
assert len(llm.generate("Hello", max_new_tokens=2, ignore_eos=True)) == 2
print(*sorted({"numpy", "jinja2", "huggingface_hub"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, check=True)
    assert done.stdout.split() == []
