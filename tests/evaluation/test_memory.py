from __future__ import annotations

from pathlib import Path

import pytest

from spikeformers.errors import SpikeformersError
from spikeformers.evaluation.memory import resident_of_model
from spikeformers.models import WDSpikingformerConfig, build_model, control_of


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(SpikeformersError, match=r"(?s)a measuring process failed: .*config\.json"):
        resident_of_model(tmp_path, 1)


@pytest.mark.slow
def test_libraries_are_apart_from_the_model(tmp_path: Path) -> None:
    config = WDSpikingformerConfig(
        **{"vocab_size": 97, "hidden_size": 768, "num_hidden_layers": 2, "num_attention_heads": 12},
        max_position_embeddings=64,
    )
    twin = build_model(control_of(config))
    twin.save_pretrained(tmp_path)
    weights = 4 * sum(p.numel() for p in twin.parameters())
    resident = resident_of_model(tmp_path, 1)
    assert 64 << 20 < resident.libraries < resident.total - weights // 2
