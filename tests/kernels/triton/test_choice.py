"""When Triton's kernels are chosen, and why not; these tests need no triton."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

from spikeformers import kernels
from spikeformers.attention import A2OS2A, SFSA, WTA, PowerOfTwoAttention
from spikeformers.errors import EngineUnavailable
from spikeformers.kernels import triton as gpu_kernels
from spikeformers.neurons import LIF, NILIF


def test_on_a_cpu_pytorch_runs_unless_triton_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    choice = kernels.choose(device="cpu")
    assert str(choice) == "torch (Triton's kernels are for GPUs, not for cpu)"
    monkeypatch.setenv(kernels.VARIABLE, "portable")  # of the engine: says nothing about tensors
    assert kernels.choose(device="cpu").name == "torch"
    assert not gpu_kernels.runs("cpu")


def test_a_choice_for_tensors_leaves_the_engines_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    engine = kernels.choose().name
    monkeypatch.setenv(kernels.VARIABLE, "torch")
    assert kernels.choose().name == engine
    assert kernels.choose(device="cuda") == kernels.Choice("torch", "asked for", {})


def test_triton_without_an_interpreter_or_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(EngineUnavailable, match="set TRITON_INTERPRET=1 before"):
        kernels.choose("triton", device="cpu")


def test_without_triton_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'spikeformers\[triton\]'"):
        kernels.choose("triton", device="cuda")
    choice = kernels.choose(device="cuda")
    assert choice.name == "torch"
    assert choice.refused["triton"].startswith("triton is not installed")


def test_a_call_that_a_kernel_cannot_take_is_refused_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(kernels.VARIABLE, "triton")
    q = torch.rand(1, 1, 1, 3, 4)
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    for core, bias, reason in (
        (WTA(1.0, "sparsemax"), None, "sparsemax sorts whole rows"),
        (WTA(1.0, "top_k", winners=9), None, "at most 8 winners, not 9"),
        (WTA(1.0), torch.zeros(1, 3, 3), "written out for every pair"),
        (SFSA(NILIF()), None, "LIF, not NILIF"),
        (SFSA(LIF(threshold_shape=(3, 3))), None, "one number per head"),
    ):
        with pytest.raises(EngineUnavailable, match=reason):
            core(q, q, q, mask, bias)
    with pytest.raises(EngineUnavailable, match=r"not in torch\.float64"):
        WTA(1.0)(q.double(), q.double(), q.double(), mask)
    monkeypatch.delenv(kernels.VARIABLE)
    choice = kernels.choose(device="cuda", unsupported="too wide")
    assert choice == kernels.Choice("torch", "runs everywhere", {"triton": "too wide"})


def test_cores_do_not_stream_while_operations_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv(kernels.VARIABLE, "triton")
    cores = (WTA(1.0), PowerOfTwoAttention(1.0), SFSA(LIF()), A2OS2A())
    assert all(core.streams("cpu") for core in cores)
    with gpu_kernels.suspended():
        assert not any(core.streams("cpu") for core in cores)


def test_cores_and_neurons_work_where_triton_cannot_be_imported() -> None:
    code = (
        "import sys; sys.modules['triton'] = None; import torch; "
        "from spikeformers.attention import WTA, Pairs; from spikeformers.neurons import LIF; "
        "x = torch.ones(2, 1, 1, 3, 4); "
        "assert WTA(1.0)(x, x, LIF()(x), Pairs(True)).sum() == 24"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
