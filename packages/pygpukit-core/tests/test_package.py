"""What is installed: its dependencies, exports, documentation and exceptions."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pygpukit.core as core
import pytest
from pygpukit.core import _core

PACKAGE = Path(core.__file__).parent


def test_numpy_is_the_only_requirement():
    requires = importlib.metadata.requires("pygpukit-core") or []
    assert [re.split(r"[<>=!~;\s]", requirement)[0] for requirement in requires] == ["numpy"]


def test_the_module_has_the_version_of_its_distribution():
    assert core.__version__ == importlib.metadata.version("pygpukit-core")


def test_the_namespace_is_left_to_its_packages():
    assert not (PACKAGE.parent / "__init__.py").exists()
    assert (PACKAGE / "py.typed").exists()


def test_everything_native_is_exported():
    assert sorted(core.__all__) == sorted(_core.__all__)
    assert all(getattr(core, name) is getattr(_core, name) for name in core.__all__)


def test_nothing_else_is_imported_before_it_is_needed():
    code = (
        "import sys, pygpukit.core; print([m for m in ('numpy', 'ml_dtypes') if m in sys.modules])"
    )
    run = [sys.executable, "-I", "-c", code]
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip() == "[]"


def stubs() -> list[tuple[str, str | None]]:
    """The public names of the stub, methods as `Class.method`, and their docstrings."""
    module = ast.parse((PACKAGE / "_core.pyi").read_text(encoding="utf-8"))
    found = []
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append((node.name, ast.get_docstring(node)))
        if isinstance(node, ast.ClassDef):
            methods = [member for member in node.body if isinstance(member, ast.FunctionDef)]
            # Of an overloaded method the first has the docstring; a setter has none.
            unique = {method.name: method for method in reversed(methods)}.values()
            found += [
                (f"{node.name}.{method.name}", ast.get_docstring(method)) for method in unique
            ]
    return [(name, doc) for name, doc in found if not name.split(".")[-1].startswith("__")]


@pytest.mark.parametrize(("name", "doc"), stubs(), ids=[name for name, _ in stubs()])
def test_help_and_editors_say_the_same(name: str, doc: str | None):
    member: object = _core
    for part in name.split("."):
        member = inspect.getattr_static(member, part)
    if isinstance(member, staticmethod):
        member = member.__func__
    assert doc is not None
    assert " ".join(doc.split()) == " ".join((inspect.getdoc(member) or "").split())


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (core.DeviceError, RuntimeError),
        (core.OutOfMemoryError, MemoryError),
        (core.TransferError, ValueError),
        (core.LaunchError, ValueError),
        (core.KernelError, RuntimeError),
        (core.LoadError, ValueError),
        (core.MissingFileError, FileNotFoundError),
        (core.MissingFileError, core.LoadError),
        (core.UnknownTensorError, KeyError),
        (core.UnknownTensorError, core.LoadError),
    ],
)
def test_errors_are_ours_and_the_builtin_kind(error: type[Exception], builtin: type[Exception]):
    assert issubclass(error, core.PygpukitError)
    assert issubclass(error, builtin)
    restored = pickle.loads(pickle.dumps(error("what happened")))
    assert type(restored) is error
    # Not quoted, as a KeyError's would be.
    assert str(restored) == "what happened"
