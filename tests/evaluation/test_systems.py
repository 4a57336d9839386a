from __future__ import annotations

import pytest

from spikeformers.errors import ConfigError
from spikeformers.evaluation.systems import time_systems


class Recorder:
    def __init__(self) -> None:
        self.calls: list[object] = []

    def begin(self, ids):
        self.calls.append(list(ids))

    def step(self, token):
        self.calls.append(token)


def test_all_systems_do_the_same_work_in_turns():
    one, other = Recorder(), Recorder()
    prefill, decode = time_systems(
        {"one": one, "other": other}, [5, 6, 7, 8], prompt_tokens=2, repeats=2, warmup=1
    )
    assert one.calls == other.calls == [[5, 6], 7, 8] * 3
    assert set(prefill) == set(decode) == {"one", "other"}
    assert decode["one"].tokens_per_second > 0


def test_without_new_tokens_nothing_is_decoded():
    prefill, decode = time_systems({"one": Recorder()}, [1, 2], prompt_tokens=2)
    assert prefill["one"].milliseconds["p50"] >= 0
    assert decode == {}


@pytest.mark.parametrize(("prompt", "repeats"), [(0, 1), (3, 1), (1, 0)])
def test_what_cannot_be_timed(prompt, repeats):
    with pytest.raises(ConfigError, match="at least one repeat"):
        time_systems({"one": Recorder()}, [1, 2], prompt_tokens=prompt, repeats=repeats)
