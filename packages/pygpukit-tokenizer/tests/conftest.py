"""Hypothesis profiles, and the folders of modules that the tests share.

The default profile repeats the same examples in every run. ``PYGPUKIT_HYPOTHESIS_PROFILE=nightly``
draws new ones, many more of them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "scripts")]

# Building a tokenizer twice takes its time on a busy machine; that is no fault of the example.
COMMON = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", COMMON, max_examples=100, derandomize=True)
settings.register_profile(
    "nightly",
    COMMON,
    max_examples=int(os.environ.get("PYGPUKIT_HYPOTHESIS_EXAMPLES", "20000")),
    print_blob=True,
)
settings.load_profile(os.environ.get("PYGPUKIT_HYPOTHESIS_PROFILE", "default"))
