"""Compiles cuda/*.cu with the CUDA compilers that PyPI has, without GPU, driver or toolkit.

NVRTC turns each file into PTX, for the oldest architecture that is supported and for those with
dependent launches; ptxas assembles machine code ("cubins") of it ahead of time. A driver loads the
cubin of its GPU, or compiles the PTX of an older architecture itself.

``python kernel_build.py`` compiles everything and prints the registers that each kernel takes.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: Virtual architectures that NVRTC compiles for, and the real ones assembled from each.
#: compute_90 differs from compute_80 by programmatic dependent launch; every newer GPU has it.
TARGETS = {
    "compute_80": ("sm_80", "sm_86", "sm_89"),
    "compute_90": ("sm_90a", "sm_100", "sm_120"),
}
#: The same for sources with Hopper's own instructions, which no other GPU has.
HOPPER_TARGETS = {"compute_90a": ("sm_90a",)}
HOPPER_SOURCES = ("_wgmma", "_tma", "_persistent")
#: Multiplications and additions are fused only where the source says so: the same source rounds
#: alike in every kernel that includes it.
NVRTC_OPTIONS = ("--std=c++17", "--device-as-default-execution-space", "--fmad=false")
PTXAS_OPTIONS = ("--opt-level=3", "--verbose", "--warn-on-spills")


class KernelBuildError(RuntimeError):
    """A compiler is missing, or refused a kernel."""


@dataclass(frozen=True)
class Resources:
    """What one kernel takes on one architecture."""

    kernel: str
    registers: int
    spilled_bytes: int
    stack_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Image:
    """One compiled file: all kernels of one source, for one architecture."""

    name: str
    target: str
    content: bytes
    resources: tuple[Resources, ...] = ()

    @property
    def file(self) -> str:
        """The name under which it is stored."""
        return f"{self.name}.{self.target}.{'ptx' if self.is_ptx else 'cubin'}"

    @property
    def is_ptx(self) -> bool:
        """Whether it is PTX, which the driver compiles when it loads it."""
        return self.target.startswith("compute_")


def package_directory(name: str) -> Path:
    """The directory of the module ``nvidia.<name>``.

    Raises:
        KernelBuildError: If it isn't installed.
    """
    try:
        spec = importlib.util.find_spec(f"nvidia.{name}")
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise KernelBuildError(
            f"the CUDA compiler nvidia.{name} isn't installed: NVIDIA publishes it for Linux and "
            "Windows on x86_64 only. Elsewhere install the pygpukit-kernels wheel, or build from "
            "its sdist, which carries the compiled kernels."
        )
    return Path(next(iter(spec.submodule_search_locations)))


class Nvrtc:
    """The CUDA C++ to PTX compiler, driven through its C interface."""

    def __init__(self) -> None:
        directory = package_directory("cuda_nvrtc")
        libraries = [
            *directory.glob("lib/libnvrtc.so.*"),
            *directory.glob("bin/nvrtc64_*[0-9].dll"),
        ]
        if not libraries:
            raise KernelBuildError(f"{directory} holds no NVRTC library")
        self._library = ctypes.CDLL(str(libraries[0]))
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def compile(self, source: Path, target: str, defines: Iterable[str] = ()) -> bytes:
        """Compile a file for a virtual architecture.

        Raises:
            KernelBuildError: With the compiler's log, if it refuses the source.
        """
        options = [f"--gpu-architecture={target}", *NVRTC_OPTIONS, f"-I{source.parent}"]
        options += [f"-D{define}" for define in defines]
        encoded = [option.encode() for option in options]
        program = ctypes.c_void_p()
        self._library.nvrtcCreateProgram(
            ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None
        )
        try:
            status = self._library.nvrtcCompileProgram(
                program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded)
            )
            log = self._read(program, "ProgramLog").decode(errors="replace").strip("\0\n")
            if status:
                raise KernelBuildError(f"NVRTC refused {source.name} for {target}:\n{log}")
            if log:
                print(log, file=sys.stderr)
            ptx = self._read(program, "PTX")[:-1]
            # Calls are counted over the life of the process, in comments.
            return re.sub(rb"// callseq \d+", b"// callseq", ptx)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self._library, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw


class Ptxas:
    """The PTX assembler, a command-line program."""

    def __init__(self) -> None:
        directory = package_directory("cuda_nvcc")
        names = ("bin/ptxas", "bin/ptxas.exe")
        programs = [path for path in map(directory.joinpath, names) if path.is_file()]
        if not programs:
            raise KernelBuildError(f"{directory} holds no ptxas")
        self._program = programs[0]
        output = subprocess.run(
            [self._program, "--version"], capture_output=True, text=True, check=True
        ).stdout
        version = re.search(r"V([\d.]+)", output)
        self.version = version.group(1) if version else "unknown"

    def assemble(self, name: str, ptx: bytes, target: str) -> Image:
        """Assemble PTX for a real architecture.

        Raises:
            KernelBuildError: With the assembler's log, if it refuses the PTX.
        """
        with tempfile.TemporaryDirectory() as directory:
            source, result = Path(directory, f"{name}.ptx"), Path(directory, f"{name}.cubin")
            source.write_bytes(ptx)
            # A fixed name in a directory of its own: no path of this machine may enter the cubin.
            done = subprocess.run(
                [
                    *(self._program, *PTXAS_OPTIONS, f"--gpu-name={target}"),
                    *(source.name, "--output-file", result.name),
                ],
                cwd=directory,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise KernelBuildError(f"ptxas refused {name} for {target}:\n{done.stderr}")
            return Image(name, target, result.read_bytes(), tuple(parse_resources(done.stderr)))


def parse_resources(log: str) -> Iterator[Resources]:
    """Read ptxas' report of each kernel (``--verbose``), in alphabetical order."""
    entry = re.compile(
        r"Compiling entry function '(?P<kernel>\w+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
        r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    for match in sorted(entry.finditer(log), key=lambda match: match["kernel"]):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        yield Resources(
            kernel=match["kernel"],
            registers=int(match["registers"]),
            spilled_bytes=int(match["stores"]) + int(match["loads"]),
            stack_bytes=int(match["stack"]),
            shared_bytes=int(shared.group(1)) if shared else 0,
        )


def sources(directory: Path) -> list[Path]:
    """The files that are compiled, one module each."""
    return sorted(directory.glob("*.cu"))


def targets_of(source: Path) -> dict[str, tuple[str, ...]]:
    """What a source is compiled for: virtual architectures, and the real ones of each."""
    return HOPPER_TARGETS if source.stem.endswith(HOPPER_SOURCES) else TARGETS


def build(directory: Path, *, cubins: bool = True) -> list[Image]:
    """Compile every kernel of ``directory`` for every target, to PTX and if asked to cubins.

    Raises:
        KernelBuildError: If a compiler is missing or refuses a kernel.
    """
    nvrtc = Nvrtc()
    ptxas = Ptxas() if cubins else None
    images, assembled = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # One after the other: of several files at a time NVRTC does not always make the same.
        for source in sources(directory):
            for virtual, targets in targets_of(source).items():
                ptx = nvrtc.compile(source, virtual)
                images.append(Image(source.stem, virtual, ptx))
                if ptxas:
                    assembled += [
                        pool.submit(ptxas.assemble, source.stem, ptx, real) for real in targets
                    ]
    images += [image.result() for image in assembled]
    return sorted(images, key=lambda image: image.file)


def input_hash(root: Path) -> str:
    """A hash of everything that the images are made from, apart from the compilers."""
    digest = hashlib.sha256()
    files = [*(root / "cuda").rglob("*.cu"), *(root / "cuda").rglob("*.cuh"), Path(__file__)]
    for path in sorted(files):
        name = path.relative_to(root).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()


def manifest(root: Path, images: list[Image], *, cubins: bool) -> dict[str, Any]:
    """What was built from what, with what: the content of manifest.json."""
    return {
        "inputs": input_hash(root),
        "tools": {"nvrtc": Nvrtc().version, "ptxas": Ptxas().version if cubins else None},
        "images": [
            {
                "module": image.name,
                "target": image.target,
                "file": image.file,
                "bytes": len(image.content),
                "sha256": hashlib.sha256(image.content).hexdigest(),
                "kernels": [asdict(resources) for resources in image.resources],
            }
            for image in images
        ],
    }


def is_current(root: Path, output: Path, *, cubins: bool = True) -> bool:
    """Whether ``output`` holds, undamaged, what the sources of ``root`` would be compiled to.

    Without ``cubins`` PTX alone will do.
    """
    path = output / "manifest.json"
    if not path.is_file():
        return False
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["inputs"] != input_hash(root) or (cubins and not content["tools"]["ptxas"]):
        return False
    files = {image["file"]: image["sha256"] for image in content["images"]}
    return all(
        (output / file).is_file()
        and hashlib.sha256((output / file).read_bytes()).hexdigest() == expected
        for file, expected in files.items()
    )


def write(root: Path, output: Path, *, cubins: bool = True) -> None:
    """Compile everything, then replace what ``output`` holds: a failure loses nothing.

    Raises:
        KernelBuildError: If a compiler is missing or refuses a kernel.
    """
    images = build(root / "cuda", cubins=cubins)
    content = manifest(root, images, cubins=cubins)
    output.mkdir(exist_ok=True)
    for stale in output.iterdir():
        stale.unlink()
    for image in images:
        (output / image.file).write_bytes(image.content)
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    (output / "manifest.json").write_text(text, encoding="utf-8", newline="\n")


def report(images: list[Image]) -> str:
    """A table of registers and spilled bytes: a row for each kernel, a column for each target."""
    targets = [target for reals in TARGETS.values() for target in reals]
    found = {
        (resources.kernel, image.target): resources
        for image in images
        for resources in image.resources
    }
    kernels = sorted({kernel for kernel, _ in found})
    width = max(map(len, kernels), default=6)
    lines = [f"{'registers (spilled bytes)':{width}}" + "".join(f"{t:>12}" for t in targets)]
    for kernel in kernels:
        cells = []
        for target in targets:
            used = found.get((kernel, target))
            if used is None:
                cells.append("-")
                continue
            spilled = f" ({used.spilled_bytes})" if used.spilled_bytes else ""
            cells.append(f"{used.registers}{spilled}")
        lines.append(f"{kernel:{width}}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Compile everything and print the report."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--fail-on-spills", action="store_true", help="exit with 1 if a kernel spills"
    )
    parser.add_argument(
        "--twice", action="store_true", help="compile twice; exit with 1 if it differs"
    )
    arguments = parser.parse_args()
    directory = Path(__file__).parent / "cuda"
    images = build(directory)
    print(report(images))
    if arguments.twice and build(directory) != images:
        sys.exit("compiled again, the kernels are others: the build isn't reproducible")
    for suffix in ("cubin", "ptx"):
        sizes = [len(image.content) for image in images if image.file.endswith(suffix)]
        print(f"{len(sizes)} {suffix} files, {sum(sizes) / 1e6:.2f} MB")
    spilling = {r.kernel for image in images for r in image.resources if r.spilled_bytes}
    if spilling and arguments.fail_on_spills:
        sys.exit(f"spilling: {', '.join(sorted(spilling))}")


if __name__ == "__main__":
    main()
