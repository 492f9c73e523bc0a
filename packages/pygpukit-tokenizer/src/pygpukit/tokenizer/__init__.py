"""Tokenizers in pure Python: tokenizer.json and GGUF, exactly as Hugging Face tokenizers does it.

>>> from pygpukit.tokenizer import Tokenizer
>>> tokenizer = Tokenizer.from_file("tokenizer.json")  # doctest: +SKIP
>>> tokenizer.decode(tokenizer.encode_ids("Hello"))  # doctest: +SKIP
'Hello'
"""

from pygpukit.tokenizer.added_tokens import AddedToken
from pygpukit.tokenizer.encoding import Encoding
from pygpukit.tokenizer.errors import TokenizerLoadError
from pygpukit.tokenizer.limits import Padding, Truncation
from pygpukit.tokenizer.streaming import DecodeStream
from pygpukit.tokenizer.tokenizer import Tokenizer

__all__ = [
    "AddedToken",
    "DecodeStream",
    "Encoding",
    "Padding",
    "Tokenizer",
    "TokenizerLoadError",
    "Truncation",
]
__version__ = "0.1.0"
