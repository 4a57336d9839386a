"""Precision is chosen by the device, with a reason, and never changed quietly."""

from __future__ import annotations

import pytest
import torch

from spikeformers.errors import ConfigError
from spikeformers.training.precision import choose_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def cuda_card(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old Card")


def test_auto_is_fp32_on_the_cpu() -> None:
    assert choose_precision("auto", CPU).name == "fp32"


@pytest.mark.parametrize(("bf16", "name"), [(True, "bf16"), (False, "fp32")])
def test_auto_follows_the_card(monkeypatch: pytest.MonkeyPatch, bf16: bool, name: str) -> None:
    cuda_card(monkeypatch, bf16)
    chosen = choose_precision("auto", CUDA)
    assert chosen.name == name
    assert ("Old Card has no bf16" in chosen.reason) is not bf16


def test_bf16_on_a_card_without_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_card(monkeypatch, False)
    with pytest.raises(ConfigError, match=r"Old Card has no bf16. Use precision=auto"):
        choose_precision("bf16", CUDA)


def test_autocast_computes_in_the_type_it_names() -> None:
    x = torch.ones(2, 2)
    with choose_precision("bf16", CPU).autocast():
        assert (x @ x).dtype == torch.bfloat16
    with choose_precision("fp32", CPU).autocast():
        assert (x @ x).dtype == torch.float32
