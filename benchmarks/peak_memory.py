"""The most memory that this process has had."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_memory() -> float:
    """Bytes; 0 where nothing tells."""
    status = Path("/proc/self/status")
    if status.exists():
        # Unlike getrusage's, this doesn't count what the process was forked from.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024.0
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
