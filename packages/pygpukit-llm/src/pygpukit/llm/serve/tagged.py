"""Calls that are written in tags: the values of the arguments as they are, without quotes.

Qwen3-Coder writes `<function=name>`, a `<parameter=key>` with a value for each argument, and
`</function>`; GLM-4.5 the name and pairs of `<arg_key>` and `<arg_value>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = ["Schema", "tagged_call"]

Schema: TypeAlias = Mapping[str, Any]
"""The JSON schema of a function's parameters."""

_QWEN = re.compile(r"\s*<function=([^>\n]+)>(.*)</function>\s*", re.DOTALL)
_QWEN_ARGUMENT = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_GLM = re.compile(r"\s*([\w.-]+)\s*((?:<arg_key>.*</arg_value>)?)\s*", re.DOTALL)
_GLM_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_PYTHON = {"True": True, "False": False, "None": None}


def tagged_call(text: str, functions: Mapping[str, Schema]) -> tuple[str, str] | None:
    """The name and, in JSON, the arguments of the call that a text is as a whole, if it is one."""
    for whole, argument in ((_QWEN, _QWEN_ARGUMENT), (_GLM, _GLM_ARGUMENT)):
        if found := whole.fullmatch(text):
            name, rest = found.groups()
            if not rest and name not in functions:
                return None  # a word
            schema = functions.get(name, {})
            values = {key: _value(value, key, schema) for key, value in argument.findall(rest)}
            return name, json.dumps(values, ensure_ascii=False)
    return None


def _value(text: str, key: str, schema: Schema) -> Any:
    """What a value stands for: JSON, unless it is to be a text."""
    properties = schema.get("properties")
    wanted = properties.get(key) if isinstance(properties, Mapping) else None
    if isinstance(wanted, Mapping) and wanted.get("type") == "string":
        return text
    try:
        return _PYTHON[text] if text in _PYTHON else json.loads(text)
    except (ValueError, RecursionError):
        return text
