"""Hatchling's hook: compiles the CUDA kernels into the wheel when it is built."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Pinned exactly: the same compilers make the same bytes. NVRTC 12.0 is the oldest that knows
# Hopper; its PTX loads with every driver from 525 on. ptxas from 12.8 on knows Blackwell.
NVRTC = "nvidia-cuda-nvrtc-cu12==12.0.140"
PTXAS = "nvidia-cuda-nvcc-cu12==12.9.86"
# NVIDIA publishes them for these platforms only. Elsewhere the wheel is built from an sdist, which
# carries what was compiled, or it is for the CPU alone.
HAS_COMPILERS = sys.platform in ("linux", "win32") and os.environ.get(
    "PROCESSOR_ARCHITECTURE", "" if sys.platform == "win32" else os.uname().machine
) in ("x86_64", "AMD64")
#: Set to compile machine code too, for every architecture: a minute, where PTX takes seconds.
CUBINS = "PYGPUKIT_CUBINS"


class CudaKernelsHook(BuildHookInterface[Any]):
    """Puts what cuda/*.cu are compiled to where the package looks for it."""

    def dependencies(self) -> list[str]:
        """The compilers, where there are any."""
        if not HAS_COMPILERS:
            return []
        return [NVRTC, PTXAS] if os.environ.get(CUBINS) else [NVRTC]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless the compiled kernels are there and are those of the sources."""
        sys.path.insert(0, self.root)
        try:
            import kernel_build
        finally:
            sys.path.remove(self.root)
        root = Path(self.root)
        output = root / "src/pygpukit/kernels/_cuda"
        cubins = bool(os.environ.get(CUBINS))
        if kernel_build.is_current(root, output, cubins=cubins):
            self.app.display_info("the CUDA kernels are up to date")
        elif HAS_COMPILERS:
            kernel_build.write(root, output, cubins=cubins)
        else:
            self.app.display_warning(
                "no CUDA compiler for this platform: this wheel is for the CPU. For an NVIDIA GPU "
                "install the published wheel of pygpukit-kernels, or build from its sdist."
            )
        build_data["artifacts"].append("src/pygpukit/kernels/_cuda/*")
