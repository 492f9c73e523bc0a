"""From a checkpoint's tensors to the model's weights, each in its final fused layout.

`plan` settles where every row comes from and accounts for every tensor of the file; `load`
allocates the weights and has the transfer engine fill their slices. Nothing is held twice.
"""

from __future__ import annotations

from pygpukit.llm.weights.load import ModelWeights, load
from pygpukit.llm.weights.plan import Placement, Plan, Source, plan
from pygpukit.llm.weights.slots import Slot, slots

__all__ = ["ModelWeights", "Placement", "Plan", "Slot", "Source", "load", "plan", "slots"]
