from __future__ import annotations

from pathlib import Path

import pytest

from spikeformers.errors import SpikeformersError
from spikeformers.evaluation.memory import resident_of_model


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(SpikeformersError, match=r"(?s)a measuring process failed: .*config\.json"):
        resident_of_model(tmp_path, 1)
