"""Other programs, where they are installed."""

from __future__ import annotations

import importlib.util

import pytest

from spikeformers.evaluation.peers import PEERS, builds, running, usable
from spikeformers.evaluation.systems import time_systems
from spikeformers.models import WDSpikingformerConfig

SHAPE = {"vocab_size": 67, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIG = WDSpikingformerConfig(
    **SHAPE, hidden_size=64, intermediate_size=128, max_position_embeddings=32
)


def test_a_peer_is_used_where_it_is_installed_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: module)
    assert all(usable(peer, CONFIG) for peer in PEERS)
    odd = WDSpikingformerConfig(**SHAPE, hidden_size=40, intermediate_size=128)
    blocks = [peer for peer in PEERS if not usable(peer, odd)]
    assert blocks == [peer for peer in PEERS if peer.startswith("llama.cpp")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    assert not any(usable(peer, CONFIG) for peer in PEERS)
    with running(CONFIG, 1) as result:
        assert result == {}


def test_peers_read_a_prompt_and_go_on() -> None:
    with running(CONFIG, 1) as peers:
        if not peers:
            pytest.skip("no peer is installed")
        reading, stepping = time_systems(
            peers, list(range(30)), prompt_tokens=8, repeats=2, warmup=0
        )
    assert set(reading) == set(stepping) == set(peers)
    assert set(builds()) == {PEERS[peer].modules[0] for peer in peers}
    assert all(timing.tokens_per_second > 0 for timing in stepping.values())
