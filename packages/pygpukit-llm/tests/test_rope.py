"""Rotary frequencies: transformers' values for each scaling, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pygpukit.llm import ConfigError
from pygpukit.llm.keys import Keys
from pygpukit.llm.rope import Rope, read_rope

DEFAULT = [1.0, 0.3162278, 0.1, 0.03162278, 0.01, 0.003162278, 0.001, 0.0003162278]


def rope(**parameters: Any) -> Rope:
    values = {"rope_theta": 10000.0, **parameters}
    return read_rope(Keys(values, "config.json"), head_dim=16, context_length=8192)


@pytest.mark.parametrize(
    ("parameters", "inv_freq", "attention_scale"),
    [
        ({}, DEFAULT, 1.0),
        ({"rope_type": "default"}, DEFAULT, 1.0),
        ({"rope_type": "dynamic", "factor": 2.0}, DEFAULT, 1.0),
        ({"rope_type": "linear", "factor": 4.0}, [frequency / 4 for frequency in DEFAULT], 1.0),
        (
            {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            [
                1,
                0.1939228,
                0.03760603,
                0.007292665,
                5.24846e-4,
                3.428102e-5,
                6.64787e-6,
                1.289173e-6,
            ],
            1.0,
        ),
        (
            {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 4.0,
                "original_max_position_embeddings": 2048,
            },
            [1, 0.1778279, 0.02371708, 0.002811707, 0.00025, 4.445699e-5, 7.905694e-6, 1.405853e-6],
            1.138629436111989,
        ),
        (
            {
                "rope_type": "yarn",
                "factor": 40.0,
                "original_max_position_embeddings": 4096,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 1.0,
                "mscale_all_dim": 0.707,
            },
            [1.0, 0.3162278, 0.1, 0.02391472, 0.005125, 0.0008498622, 2.5e-05, 7.905694e-06],
            1.0857263992561355,
        ),
        (
            {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 512,
                "truncate": False,
                "attention_factor": 0.9,
            },
            [1.0, 0.2989363, 0.06546508, 0.01151012, 0.00125, 0.0003952847, 0.000125, 3.952847e-05],
            0.9,
        ),
        ({"partial_rotary_factor": 0.5}, [1.0, 0.1, 0.01, 0.001], 1.0),
        ({"partial_rotary_factor": 0.2}, [1.0, 10 ** (-8 / 3)], 1.0),
    ],
)
def test_frequencies(
    parameters: dict[str, Any], inv_freq: list[float], attention_scale: float
) -> None:
    found = rope(**parameters)
    assert found.inv_freq == pytest.approx(inv_freq, rel=1e-6)
    assert found.attention_scale == pytest.approx(attention_scale, rel=1e-12)
    assert found.rotary_dim == 2 * len(inv_freq)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rope_type": "spiral"}, "rope type 'spiral' isn't supported; supported are default"),
        ({"rope_type": 3}, "'rope_type' must be a string"),
        ({"rope_type": "linear"}, "'factor' is missing"),
        ({"rope_type": "linear", "factor": 0}, "'factor' must be a number above 0"),
        ({"rope_type": "linear", "factor": "2"}, "'factor' must be a number"),
        ({"rope_type": "linear", "factor": 2.0, "bend": 1}, "'bend' not understood"),
        ({"rope_theta": -1.0}, "'rope_theta' must be a number above 0"),
        ({**LLAMA3, "high_freq_factor": 1.0}, "high_freq_factor 1.0 must exceed low_freq_factor"),
        ({**LLAMA3, "low_freq_factor": ...}, "'low_freq_factor' is missing"),
        ({"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.0}, "rope_theta must exceed 1"),
        ({"partial_rotary_factor": 0.05}, "rotary dimension 0 must be from 1"),
        ({"partial_rotary_factor": 1.5}, "rotary dimension 24"),
    ],
)
def test_what_is_refused(parameters: dict[str, Any], message: str) -> None:
    given = {key: value for key, value in parameters.items() if value is not ...}
    with pytest.raises(ConfigError, match=f"config.json: .*{message}"):
        rope(**given)


def test_divided_frequencies() -> None:
    divided = rope().divided([1, 1, 2, 2, 4, 4, 8, 8])
    expected = [f / d for f, d in zip(DEFAULT, [1, 1, 2, 2, 4, 4, 8, 8], strict=True)]
    assert divided.inv_freq == pytest.approx(expected, rel=1e-6)
