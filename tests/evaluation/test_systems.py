from __future__ import annotations

import pytest
import torch

from spikeformers.errors import ConfigError
from spikeformers.evaluation.systems import TorchSystem, time_systems
from spikeformers.models import WDSpikingformerConfig, build_model, control_of


class Recorder:
    def __init__(self) -> None:
        self.calls: list[object] = []

    def begin(self, ids):
        self.calls.append(list(ids))

    def step(self, token):
        self.calls.append(token)


def test_all_systems_do_the_same_work_in_turns():
    first, second = Recorder(), Recorder()
    prefill, decode = time_systems(
        {"one": first, "other": second}, [5, 6, 7, 8], prompt_tokens=2, repeats=2, warmup=1
    )
    assert first.calls == second.calls == [[5, 6], 7, 8] * 3
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


@pytest.mark.parametrize("dense", [False, True])
def test_the_pytorch_baseline_reads_one_token_a_step_from_its_cache(dense):
    """Without its cache a baseline would be slow, and every ratio beside it flattering."""
    config = WDSpikingformerConfig(
        **{"vocab_size": 67, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    model = build_model(control_of(config) if dense else config).eval()
    ids = list(range(3, 23))
    with torch.inference_mode():
        whole = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    read: list[int] = []
    logits: list[torch.Tensor] = []

    def note(_: object, __: object, kwargs: dict, out: object) -> None:
        read.append(kwargs["input_ids"].shape[1])
        logits.append(out.logits[0, -1])

    model.register_forward_hook(note, with_kwargs=True)
    system = TorchSystem(model)
    for _ in range(2):  # a second text starts from the beginning
        system.begin(ids[:8])
        for token in ids[8:]:
            system.step(token)
    assert read == ([8] + [1] * 12) * 2
    torch.testing.assert_close(torch.stack(logits), whole[7:].repeat(2, 1), atol=1e-5, rtol=0)
