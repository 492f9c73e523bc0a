"""The operations of a language model over the tensors of `pygpukit.core`.

Shapes: T tokens of all sequences of a step, one after another; S sequences; H query heads, KV
key/value heads, D head_dim; K inputs and N outputs of a layer; V vocab_size. Weights are
float32, float16 or bfloat16. Activations and the cache of keys and values are float32 or bfloat16,
on "cuda" also float16; there 16-bit activations are multiplied with matrices of their own type.
Logits are float32, and so are all sums.

Every operation launches one kernel of its own name through `device.controller`, writes its result
into `out` if that is given and else into a new tensor of its input's pool, and raises `LaunchError`
naming the kernel and the argument when dtypes, shapes or devices don't fit. Within
`device.controller.capture()` the launch is recorded, not run.
"""

from pathlib import Path as _Path

from pygpukit.core import register_kernel_images as _register_kernel_images

from ._attention import append_kv, attention, rope_angles
from ._elementwise import activation, add, soft_cap
from ._experts import ClampedSwiGLU, combine_experts, expert_linear, route, route_by_group
from ._linear import linear
from ._norm import Norm, layer_norm, rms_norm
from ._rows import embedding, gather_rows
from ._sampling import advance, argmax, penalize, sample, top_logprobs

__all__ = [
    "ClampedSwiGLU",
    "Norm",
    "activation",
    "add",
    "advance",
    "append_kv",
    "argmax",
    "attention",
    "combine_experts",
    "embedding",
    "expert_linear",
    "gather_rows",
    "layer_norm",
    "linear",
    "penalize",
    "rms_norm",
    "rope_angles",
    "route",
    "route_by_group",
    "sample",
    "soft_cap",
    "top_logprobs",
]

_IMAGES = _Path(__file__).parent / "_cuda"
# A wheel built where there is no CUDA compiler has none: it is for the CPU.
if _IMAGES.is_dir():
    _register_kernel_images(_IMAGES)
