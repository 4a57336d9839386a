"""What SpAD takes and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from spikeformers.errors import ConfigError
from spikeformers.training.distillation import SpADConfig, without


def test_weights_of_zero_switch_terms_off() -> None:
    spad = SpADConfig()
    assert spad.weights == {"ea": 0.2, "saa": 0.1, "sfa": 0.1, "sta": 0.3, "hta": 0.3}
    spad = SpADConfig.from_dict({"hta": 1, **without(["saa", "ea"])})
    assert (spad.active, spad.hta) == (("sfa", "sta", "hta"), 1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hts": 1}, "Unknown distillation key 'hts'. Did you mean 'hta'?"),
        ({"ea": -0.1}, "ea is -0.1; it must be 0 or greater"),
        ({"sta": "much"}, "sta is 'much'; it must be a number"),
        ({"tau": 0}, "tau is 0.0; it must be greater than 0"),
        ({"rate_steps": 0}, "rate_steps is 0"),
        ({"rate_decay": 1.5}, "between 0 and 1"),
        ({"saa_heads": "mean"}, "must be learned or fixed"),
        ({"layer_map": 3}, "must be a list of teacher layers"),
        ({"layer_map": [1, -2]}, "must be a list of teacher layers"),
        (without(["ea", "saa", "sfa", "sta", "hta"]), "All weights are 0"),
    ],
)
def test_values_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        SpADConfig.from_dict(values)
    assert message in str(raised.value)


def test_an_unknown_term() -> None:
    with pytest.raises(ConfigError, match=r"Unknown term 'saaa'.*Did you mean 'saa'\?"):
        without(["hta", "saaa"])


def test_it_survives_json() -> None:
    spad = SpADConfig(layer_map=(0, 2), saa=0)
    assert SpADConfig.from_dict(spad.as_dict()) == spad
    assert spad.as_dict()["layer_map"] == [0, 2]
