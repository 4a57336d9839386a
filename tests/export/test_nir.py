"""NIR files: read by snnTorch and by Norse, they give the spikes of our own modules.

The package ``nir`` and each reader are skipped where they are not installed.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeformers.errors import ConfigError, UsageError
from spikeformers.export.nir import COVERAGE, export_nir, written_by_nir
from spikeformers.export.nir_graphs import DT, Graph
from spikeformers.models import (
    BiSpikCLMConfig,
    BiSpikCLMForCausalLM,
    SpikingViTConfig,
    SpikingViTForImageClassification,
    WDSpikingformerConfig,
    WDSpikingformerForCausalLM,
)
from spikeformers.neurons import LIF, NILIF, TLIF

TEXT: dict[str, Any] = {
    **{"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"max_position_embeddings": 16, "projection_norm": False},
}
IMAGES: dict[str, Any] = {
    **{"image_size": 8, "num_channels": 1, "hidden_size": 16, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "sps_stages": 3, "sps_pools": 2, "num_labels": 3, "steps": 3},
}
READERS = ["snntorch", "norse"]
Steps = Callable[[Tensor], Tensor]


def scattered(model: Any) -> Any:
    """``model`` in eval mode with random parameters and statistics."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.is_floating_point():
                value.add_(0.4 * torch.randn_like(value))
    return model.eval()


def vision(**changes: Any) -> Any:
    return scattered(SpikingViTForImageClassification(SpikingViTConfig(**IMAGES | changes)))


def text(**changes: Any) -> Any:
    return scattered(WDSpikingformerForCausalLM(WDSpikingformerConfig(**TEXT | changes)))


def read_back(path: Path, reader: str) -> Steps:
    """A NIR file run over inputs ``[S, N, ...]`` by the library's own importer."""
    nir = pytest.importorskip("nir")
    pytest.importorskip("nirtorch")
    graph = nir.read(path)
    if reader == "norse":
        norse = pytest.importorskip("norse.torch", exc_type=ImportError)
        network = norse.from_nir(graph, dt=DT)
    else:
        pytest.importorskip("snntorch")
        network = importlib.import_module("snntorch.import_nir").import_from_nir(graph)

    def run(inputs: Tensor) -> Tensor:
        state, steps = None, []
        for now in inputs:
            # snnTorch's neurons keep their state themselves.
            out, state = network(now, state) if reader == "norse" else network(now)
            steps.append(out)
        return torch.stack(steps).detach()

    return run


def traced(model: Any, batch: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
    """What enters and leaves the modules of a graph, ``[S, N, ...]`` without steps and batch."""
    ends: dict[str, Tensor] = {}
    first, last = graph.modules[0], graph.modules[-1]
    handles = [
        first.module.register_forward_pre_hook(lambda _, args: ends.update(first=args[0])),
        last.module.register_forward_hook(lambda _, __, out: ends.update(last=out)),
    ]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    steps = max(1, max(link.steps for link in graph.modules))
    values, out = ends["first"].reshape(-1, *graph.shape), ends["last"]
    if len(values) == len(batch):  # an image, the same at every step
        values = values.expand(steps, *values.shape)
    if len(graph.out) == 3 and type(last.module).__name__ == "BatchNorm":  # channels come last
        out = out.movedim(-1, -3)
    own = (graph.out[0] // graph.levels, *graph.out[1:])
    return values.reshape(steps, -1, *graph.shape), out.reshape(steps, -1, *own)


def check(model: Any, batch: Tensor, folder: Path, reader: str, names: set[str]) -> None:
    """Each written graph gives what its modules give; ``names`` are those that must exist."""
    graphs, _ = written_by_nir(model)
    assert names <= {graph.name for graph in graphs}
    export_nir(model, folder)
    for graph in graphs:
        inputs, expected = traced(model, batch, graph)
        out = read_back(folder / f"{graph.name}.nir", reader)(inputs)
        own = out.unflatten(2, (graph.levels, -1)).sum(2) * graph.unit
        if graph.nodes[-1][0] in ("LIF", "IF"):
            assert set(out.unique().tolist()) == {0.0, 1.0}, graph.name
            assert torch.equal(own, expected), graph.name
        else:
            torch.testing.assert_close(own, expected, atol=2e-4, rtol=2e-4, msg=graph.name)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("decay", [0.5, 0.8])
def test_the_stem_and_blocks_of_a_vision_model_read_back(
    tmp_path: Path, reader: str, decay: float
) -> None:
    pytest.importorskip("nir")
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    names = {
        "model.embeddings.stage1-stage2-stage3",  # with a pool of spikes in its middle
        "model.embeddings.position_neuron-position",
        "model.layers.0.mlp.up-down",
        "model.layers.0.attention.query",
        "head",
    }
    check(vision(decay=decay), images, tmp_path / "nir", reader, names)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("levels", [1, 3, 4])
def test_integer_neurons_read_back_as_binary_units(
    tmp_path: Path, reader: str, levels: int
) -> None:
    pytest.importorskip("nir")
    tokens = torch.arange(12).view(2, 6)
    names = {"model.layers.0.mlp.up-down", "model.layers.0.attention.value", "head_neuron-lm_head"}
    model = text(levels=levels)
    check(model, tokens, tmp_path / "nir", reader, names)
    coverage = json.loads((tmp_path / "nir" / COVERAGE).read_text())
    assert 0 < coverage["written"] < coverage["parameters"] == model.num_parameters()


@pytest.mark.parametrize("reader", READERS)
def test_a_hard_reset_reads_back_over_steps(tmp_path: Path, reader: str) -> None:
    pytest.importorskip("nir")
    model = text(neuron="lif", reset="hard", steps=4, decay=0.6)
    check(model, torch.arange(12).view(2, 6), tmp_path / "nir", reader, {"head_neuron-lm_head"})


def test_a_neuron_without_leak_is_an_if_node(tmp_path: Path) -> None:
    pytest.importorskip("nir")
    model = text(neuron="lif", reset="hard", steps=3, decay=1.0)
    (mlp,) = (g for g in written_by_nir(model)[0] if g.name == "model.layers.0.mlp.up-down")
    assert [kind for kind, _ in mlp.nodes] == ["Affine", "IF", "Affine", "IF", "Affine"]
    # snnTorch reads IF as a neuron that leaks, so that only Norse gives the spikes.
    check(model, torch.arange(12).view(2, 6), tmp_path / "nir", "norse", {"head_neuron-lm_head"})


def test_the_list_names_what_nir_cannot_say_and_why() -> None:
    _, coverage = written_by_nir(text(neuron="lif", steps=2, norm="rms", projection_norm=True))
    reasons = {row.module: row.reason for row in coverage.rows if not row.file}
    assert "soft reset subtracts" in reasons["model.layers.0.mlp.fire_in.neuron"]
    assert "statistic of its input" in reasons["model.layers.0.mlp.fire_hidden.norm"]
    assert "product of two spike trains" in reasons["model.layers.0.attention.core"]
    assert "table" in reasons["model.embed_tokens"]
    assert reasons["model.relative.0"] == "it is not in a sequence of maps and neurons."
    files = {row.module: row.file for row in coverage.rows if row.file}
    assert files["model.layers.0.mlp.up"] == "model.layers.0.mlp.up-down.nir"
    assert files["model.layers.0.mlp.down"] == "model.layers.0.mlp.up-down-2.nir"


def test_a_bispikclm_writes_its_projections() -> None:
    shape = {key: value for key, value in TEXT.items() if key != "projection_norm"}
    model = BiSpikCLMForCausalLM(BiSpikCLMConfig(**shape)).eval()
    graphs, coverage = written_by_nir(model)
    assert {"model.layers.0.attention.out", "model.layers.0.mlp.up-down"} <= {
        g.name for g in graphs
    }
    delayed = [row.reason for row in coverage.rows if row.module.endswith("fire_out.neuron")]
    assert len(delayed) == 2
    assert "delayed reset" in delayed[0]


def test_units_of_neurons_by_hand() -> None:
    # round(U) >= 1 where U > 0.5 (a half rounds to even, 0), >= 2 where U >= 1.5, >= 3 where > 2.5.
    decay, thresholds, unit = NILIF(levels=3).binary_units(1)
    assert (decay, unit) == (0.0, 1 / 3)
    u = torch.tensor([0.5, 0.51, 1.499, 1.5, 2.5, 2.6, 9.0])
    fired = sum((u > threshold).int() for threshold in thresholds)
    assert fired.tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert fired.tolist() == (NILIF(levels=3)(u[None])[0] * 3).tolist()
    decay, (threshold,), unit = LIF(0.7, 1.0, "hard").binary_units(4)
    assert (decay, unit) == (0.7, 1.0)
    assert (torch.tensor([0.9999999, 1.0]) > threshold).tolist() == [False, True]
    assert LIF(0.7, 1.0, "soft").binary_units(1).decay == 0.0
    for neuron, steps in ((LIF(reset="soft"), 2), (NILIF(), 2), (TLIF(), 1)):
        with pytest.raises(ConfigError):
            neuron.binary_units(steps)


def test_a_folder_with_files_and_a_model_without_chains_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("nir")
    (tmp_path / "note").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        export_nir(vision(), tmp_path)
    transformers = importlib.import_module("transformers")
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 8, "vocab_size": 11}
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape))
    with pytest.raises(UsageError, match="NIR can say no part of a GPT2LMHeadModel"):
        export_nir(gpt2, tmp_path / "none")
    assert not (tmp_path / "none").exists()
