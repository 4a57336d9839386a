"""Neurons of snnTorch, SpikingJelly and Norse: equal to the originals, and whole in our models.

Each library is skipped where it is not installed; docs/extending.md says how to install it.
"""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeformers.energy import audit, energy_of
from spikeformers.errors import ConfigError
from spikeformers.models import WDSpikingformerConfig, WDSpikingformerForCausalLM
from spikeformers.neurons import (
    LIBRARIES,
    Neuron,
    from_norse,
    from_snntorch,
    from_spikingjelly,
    neurons_of,
    register_neuron,
)

SHAPE: dict[str, Any] = {
    **{"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"max_position_embeddings": 16, "initializer_range": 0.3, "steps": 3},
}
FROM = {"snntorch": from_snntorch, "spikingjelly": from_spikingjelly, "norse": from_norse}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("snntorch", "Leaky", {"beta": 0.9}),
    ("snntorch", "Leaky", {"beta": 0.7, "reset_mechanism": "zero", "reset_delay": False}),
    ("snntorch", "Leaky", {"beta": [0.1, 0.5, 0.6, 0.8, 0.9], "threshold": 0.5}),
    ("snntorch", "Leaky", {"beta": 0.8, "spike_grad": {"name": "fast_sigmoid", "slope": 5}}),
    ("snntorch", "Leaky", {"beta": 0.8, "graded_spikes_factor": 0.5}),
    ("snntorch", "Lapicque", {"beta": 0.8, "R": 2.0}),
    ("snntorch", "Synaptic", {"alpha": 0.5, "beta": 0.8}),
    ("snntorch", "Alpha", {"alpha": 0.8, "beta": 0.5}),
    ("spikingjelly", "IFNode", {}),
    ("spikingjelly", "IFNode", {"v_reset": None, "v_threshold": 0.8}),
    ("spikingjelly", "LIFNode", {"tau": 1.5}),
    ("spikingjelly", "LIFNode", {"tau": 3.0, "decay_input": False, "v_reset": None}),
    ("spikingjelly", "LIFNode", {"surrogate_function": {"name": "ATan", "alpha": 3.0}}),
    ("spikingjelly", "ParametricLIFNode", {"init_tau": 1.5}),
    ("spikingjelly", "QIFNode", {"v_c": 0.6, "v_rest": 0.0, "v_reset": 0.0}),
    ("spikingjelly", "EIFNode", {"v_rest": 0.0, "v_reset": 0.0, "theta_rh": 0.8}),
    ("norse", "LIFBoxCell", {"tau_mem_inv": 600.0, "v_th": 0.6}),
    ("norse", "LIFBoxCell", {"tau_mem_inv": 60.0, "dt": 0.01, "alpha": 10.0}),
    ("norse", "LIFCell", {"tau_mem_inv": 600.0, "tau_syn_inv": 500.0, "v_th": 0.5}),
    ("norse", "IAFCell", {"v_th": 0.9}),
]


def theirs_snntorch(kind: str, options: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    snn = importlib.import_module("snntorch")
    surrogate = importlib.import_module("snntorch.surrogate")
    options = dict(options)
    if "spike_grad" in options:
        options["spike_grad"] = surrogate.fast_sigmoid(slope=5)
    if isinstance(options.get("beta"), list):
        options["beta"] = torch.tensor(options["beta"])
    neuron = getattr(snn, kind)(**options)

    def run(current: Tensor) -> Tensor:
        state: list[Tensor] = []
        steps = []
        for now in current:
            spikes, *state = neuron(now, *state)
            steps.append(spikes)
        return torch.stack(steps)

    return run


def theirs_spikingjelly(kind: str, options: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    base = "spikingjelly.activation_based"
    options = dict(options)
    if "surrogate_function" in options:
        options["surrogate_function"] = importlib.import_module(f"{base}.surrogate").ATan(alpha=3.0)
    neuron = getattr(importlib.import_module(f"{base}.neuron"), kind)(**options, step_mode="m")

    def run(current: Tensor) -> Tensor:
        importlib.import_module(f"{base}.functional").reset_net(neuron)
        return neuron(current)

    return run


def theirs_norse(kind: str, options: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    norse = importlib.import_module("norse.torch")
    names = {"LIFBoxCell": "LIFBoxParameters", "LIFCell": "LIFParameters"}
    timing = {key: value for key, value in options.items() if key == "dt"}
    numbers = {key: torch.tensor(value) for key, value in options.items() if key != "dt"}
    parameters = getattr(norse, names.get(kind, "IAFParameters"))(**numbers)
    cell = getattr(norse, kind)(p=parameters, **timing)

    def run(current: Tensor) -> Tensor:
        state, steps = None, []
        for now in current:
            spikes, state = cell(now, state)
            steps.append(spikes)
        return torch.stack(steps)

    return run


THEIRS = {
    "snntorch": theirs_snntorch,
    "spikingjelly": theirs_spikingjelly,
    "norse": theirs_norse,
}


def installed(library: str) -> None:
    """Skip the test unless the library's neurons can be imported."""
    kind: Any = LIBRARIES[library]
    pytest.importorskip(kind.module, exc_type=ImportError)


def gradient(run: Callable[[Tensor], Tensor], current: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes of ``current``, and the gradient of their weighted sum."""
    leaf = current.clone().requires_grad_()
    spikes = run(leaf)
    weights = torch.linspace(-1, 2, spikes.numel()).view_as(spikes)
    (spikes * weights).sum().backward()
    assert leaf.grad is not None
    return spikes.detach(), leaf.grad


@pytest.mark.parametrize(("library", "kind", "options"), CASES)
def test_spikes_and_gradient_are_those_of_the_original(
    library: str, kind: str, options: dict[str, Any]
) -> None:
    installed(library)
    current = torch.randn(12, 3, 5, generator=torch.Generator().manual_seed(0)) * 1.2 + 0.5
    ours: Neuron = FROM[library](kind, **options)()
    expected, slope = gradient(THEIRS[library](kind, options), current)
    spikes, own = gradient(ours, current)
    assert torch.equal(spikes, expected)
    assert torch.equal(own, slope)
    assert 10 < int((spikes != 0).sum()) < 170  # neither silent nor always on
    assert float(own.abs().sum()) > 0
    assert set(spikes.unique().tolist()) == {0.0, ours.unit}
    carry, steps = None, []
    for now in current:
        each, carry = ours.step(now, carry)
        steps.append(each)
    assert torch.equal(torch.stack(steps), expected)
    assert torch.equal(ours(current), expected)  # the second call starts from rest as well
    assert torch.equal(ours(current[:1]), expected[:1])
    copy.deepcopy(ours)  # no graph of a former call stays inside


CHOICES: dict[str, dict[str, Any]] = {
    "snntorch": {"class": "Leaky", "beta": 0.8, "learn_beta": True, "threshold": 0.5},
    "spikingjelly": {"class": "ParametricLIFNode", "init_tau": 1.5, "v_threshold": 0.5},
    "norse": {"class": "LIFBoxCell", "tau_mem_inv": 800.0, "v_th": 0.4, "alpha": 10.0},
}


def model_of(library: str) -> WDSpikingformerForCausalLM:
    torch.manual_seed(0)
    options = {"neuron": library, "neuron_options": CHOICES[library]}
    return WDSpikingformerForCausalLM(WDSpikingformerConfig(**SHAPE, **options))


def ids() -> Tensor:
    return torch.randint(0, 31, (4, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("library", CHOICES)
def test_a_model_trains_and_is_saved_and_loaded_by_its_config(library: str, tmp_path: Path) -> None:
    installed(library)
    model, tokens = model_of(library), ids()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        out = model(input_ids=tokens, labels=tokens)
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(out.lm_loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert out.rate_loss is not None
    model.eval().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["neuron"] == library
    assert saved["neuron_options"] == CHOICES[library]
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".py"}
    again = WDSpikingformerForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(input_ids=tokens).logits, model(input_ids=tokens).logits)
    learned = {key: value for key, value in model.state_dict().items() if ".inner." in key}
    for name, value in again.state_dict().items():
        if name in learned:
            assert torch.equal(value, learned[name])
    if library != "norse":  # its parameters are not learned
        fresh = model_of(library).state_dict()
        assert any(not torch.equal(fresh[name], value) for name, value in learned.items())


@pytest.mark.parametrize("library", CHOICES)
def test_its_energy_is_counted_and_its_spikes_are_audited(library: str) -> None:
    installed(library)
    model = model_of(library).eval()
    energy = energy_of(model, [ids()])
    assert 0 < energy.density < 1
    hidden = energy.neurons["model.layers.0.mlp.fire_hidden.neuron"]
    assert hidden.kind == "binary"
    products = audit(model, [ids()]).products()
    maps = [row for name, row in products.items() if name.endswith(("up", "down", "query"))]
    assert len(maps) == 6
    assert {row.verdict for row in maps} == {"binary"}


def test_the_arithmetic_is_that_of_the_update_equation() -> None:
    installed("snntorch")
    neuron = from_snntorch("Synaptic", alpha=0.5, beta=0.8)()
    # J = alpha J + I; U = beta U + J - reset: three additions, two products, one comparison.
    assert neuron.operations(10, 2) == {"compare": 10, "add": 30, "mult": 20}


@pytest.mark.parametrize("library", CHOICES)
def test_the_engine_refuses_it_by_name(library: str) -> None:
    from spikeformers.export import pack

    installed(library)
    title: str = LIBRARIES[library].title  # type: ignore[attr-defined]
    name = f"the engine does not run {title}'s {CHOICES[library]['class']}"
    with pytest.raises(ConfigError, match=name):
        pack(model_of(library), None, "fp32")


def test_a_registered_one_needs_no_options() -> None:
    installed("snntorch")
    snn = importlib.import_module("snntorch")
    register_neuron("slow-leak", from_snntorch(snn.Leaky, beta=0.95))
    config = WDSpikingformerConfig(**SHAPE, neuron="slow-leak")
    kinds = {
        type(part).__name__ for part in neurons_of(WDSpikingformerForCausalLM(config)).values()
    }
    assert kinds == {"SNNTorchLeaky"}
    config.neuron_options = {"beta": 0.5}
    with pytest.raises(ConfigError, match="options of snnTorch's Leaky were fixed"):
        WDSpikingformerForCausalLM(config)


def test_a_program_does_not_accumulate_neurons_of_snntorch() -> None:
    installed("snntorch")
    snn = importlib.import_module("snntorch")
    before = len(snn.SpikingNeuron.instances)
    from_snntorch("Leaky", beta=0.5)()
    assert len(snn.SpikingNeuron.instances) == before


@pytest.mark.parametrize(
    ("library", "options", "message"),
    [
        ("snntorch", {}, "needs neuron_options with 'class', one of Leaky, Lapicque"),
        ("snntorch", {"class": "Leeky", "beta": 1.0}, "Did you mean 'Leaky'"),
        ("snntorch", {"class": "RLeaky", "beta": 1.0}, "'RLeaky' is not supported"),
        ("snntorch", {"class": "Leaky"}, r"Leaky\(\) cannot be built.*beta"),
        ("snntorch", {"class": "Leaky", "beta": 1.0, "gain": 2}, "gain=2.*cannot be built"),
        ("snntorch", {"class": "Leaky", "beta": 1.0, "init_hidden": True}, "init_hidden of snn"),
        ("snntorch", {"class": "Leaky", "beta": 1.0, "spike_grad": "stun"}, "no surrogate 'stun'"),
        ("snntorch", {"class": "Leaky", "beta": 1.0, "spike_grad": 3}, "a config holds plain"),
        ("snntorch", {"class": "Leaky", "beta": 1.0, "spike_grad": "torch"}, "no surrogate 'tor"),
        ("spikingjelly", {"class": "LIFNode", "step_mode": "m"}, "step_mode of SpikingJelly"),
        ("spikingjelly", {"class": "LIFNode", "tau": "long"}, "cannot be built"),
        ("norse", {"class": "LIFBoxCell", "v_thr": 1.0}, "Did you mean 'v_th'"),
    ],
)
def test_wrong_options_are_refused_with_the_reason(
    library: str, options: dict[str, Any], message: str
) -> None:
    installed(library)
    config = WDSpikingformerConfig(**SHAPE, neuron=library, neuron_options=options)
    with pytest.raises(ConfigError, match=message):
        WDSpikingformerForCausalLM(config)


def test_a_missing_package_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("spikeformers.neurons._adapter.importlib.import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install --no-deps norse\). Missing: norse.torch"):
        from_norse("LIFBoxCell")
