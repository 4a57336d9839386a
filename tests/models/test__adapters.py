"""Adapters of peft: each linear map of each family trains and merges right, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.pytorch_utils import Conv1D

from spikeformers.errors import ConfigError
from spikeformers.models import SpikingViTConfig, SpikingViTForImageClassification, load_model

Make = Callable[..., Any]
CLOSE = {"atol": 1e-9, "rtol": 1e-9}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "wd": ("wd", {}),
    "wd, lif in 3 steps": ("wd", {"neuron": "lif", "steps": 3}),
    "wd, ssa": ("wd", {"attention": "ssa", "attention_scale": 2.0}),
    "wd, a2os2a": ("wd", {"attention": "a2os2a"}),
    "wd, a2os2a by state": ("wd", {"attention": "a2os2a", "attention_order": "state"}),
    "we": ("we", {}),
    "we classifier": ("we-classifier", {}),
    "bispikclm": ("bispikclm", {}),
    "bispikclm, or": ("bispikclm", {"residual": "or", "spiking_head": True}),
    "gpt2, ssa": ("gpt2", {"attention": "ssa"}),
    "gpt2, kept attention": ("gpt2", {"attention": "kept"}),
    "gpt2, kept mlp": ("gpt2", {"attention": "cwssa", "ffn": "kept"}),
    "gpt_neox, qcfs": ("gpt_neox", {"attention": "cwssa", "ffn": "qcfs"}),
    "gpt_neox, kept attention": ("gpt_neox", {"attention": "kept"}),
    "gpt_neox, kept mlp": ("gpt_neox", {"ffn": "kept"}),
    "llama, phase": ("llama", {"attention": "cwssa", "code": "phase"}),
    "llama, top-2": (
        "llama",
        {"attention": "cwssa", "wta": "top_k", "winners": 2, "ffn": "ni-lif"},
    ),
    "llama, kept attention": ("llama", {"attention": "kept", "ffn": "qcfs"}),
    "qwen2, ssa": ("qwen2", {"attention": "ssa"}),
    "qwen2, kept mlp": ("qwen2", {"ffn": "kept"}),
}
STEPWISE: dict[str, tuple[str, dict[str, Any]]] = {
    "unrolled": ("llama", {"unrolled": True}),
    "unrolled, 3 steps": ("gpt2", {"unrolled": True, "steps": 3}),
    "unrolled phase": ("gpt_neox", {"unrolled": True, "code": "phase"}),
    "pipelined": ("gpt2", {"attention": "kept", "ffn": "qcfs", "schedule": "pipelined"}),
}


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))


def maps_of(model: nn.Module) -> list[str]:
    """Names of every linear map."""
    return [name for name, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))]


def adapted(model: Any, config: Any = None, **choices: Any) -> Any:
    """``model`` with a random low-rank adapter at every linear map, or as ``config`` says."""
    torch.manual_seed(3)
    if config is None:
        config = LoraConfig(
            **{"r": 2, "lora_alpha": 4, "target_modules": maps_of(model)} | choices,
            init_lora_weights=False,
        )
    adapter = get_peft_model(model, config).to(next(model.parameters()).dtype).eval()
    return adapter


@pytest.mark.parametrize("case", CASES)
def test_adapters_of_every_map_train_and_merge(make_family: Make, ids: Tensor, case: str) -> None:
    kind, choices = CASES[case]
    model = make_family(kind, **choices)
    maps = maps_of(model)
    before = model(input_ids=ids).logits.detach()
    peft = adapted(model)
    entered: dict[str, dict[str, Tensor]] = {}
    for name, module in peft.named_modules():
        if name.endswith((".base_layer", ".lora_A.default")):
            place, _, part = name.replace(".lora_A.default", ".lora_A").rpartition(".")
            module.register_forward_pre_hook(
                lambda _, args, place=place, part=part: entered.setdefault(place, {}).__setitem__(
                    part, args[0]
                )
            )
    logits = peft(input_ids=ids).logits
    assert {name.removeprefix("base_model.model.") for name in entered} == {*maps}
    for name, operands in entered.items():
        assert operands["lora_A"] is operands["base_layer"], name
    logits.square().sum().backward()
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().sum()) > 0, name
    merged = peft.merge_and_unload()
    assert maps_of(merged) == maps
    torch.testing.assert_close(merged(input_ids=ids).logits, logits, **CLOSE)
    assert float((logits - before).detach().abs().max()) > 1e-3


def test_adapters_of_a_vision_model_train_and_merge() -> None:
    torch.manual_seed(0)
    shape = {"image_size": 8, "num_channels": 1, "hidden_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "sps_stages": 2, "sps_pools": 1, "num_labels": 3}
    model = SpikingViTForImageClassification(SpikingViTConfig(**shape, **heads)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    pixels = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    before = model.eval()(pixels).logits.detach()
    peft = adapted(model, target_modules=[*maps_of(model), "conv"])
    logits = peft(pixel_values=pixels).logits
    logits.square().sum().backward()
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            assert float(parameter.grad.abs().sum()) > 0, name
    torch.testing.assert_close(peft.merge_and_unload()(pixels).logits, logits, **CLOSE)
    assert float((logits - before).detach().abs().max()) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", ["query", "key", "value", "up", "down", "out"])
def test_a_spiking_map_adds_the_adapter_to_what_its_spikes_say(
    make_family: Make, ids: Tensor, name: str
) -> None:
    """``W x + (alpha / r) B A x``, x the counts times the value of one by sign, written out."""
    model = make_family("llama", attention="ssa")
    block = model.model.model.layers[0]
    part = block.mlp if name in ("up", "down") else block.self_attn
    neuron = {"down": "fire_hidden", "out": "fire_out"}.get(name, "fire_in")
    seen: dict[str, Tensor] = {}
    getattr(part, neuron).register_forward_hook(lambda _, __, out: seen.__setitem__("counts", out))
    peft = adapted(model, target_modules=[f"layers.0.{place}.{name}" for place in
                                          ("mlp", "self_attn")])  # fmt: skip
    lora = getattr(part, name)
    lora.register_forward_hook(lambda _, __, out: seen.__setitem__("out", out))
    peft(input_ids=ids)
    theta = getattr(part, neuron).threshold / 4
    x = seen["counts"][0] * torch.where(seen["counts"][0] < 0, theta[1], theta[0])
    a, b = lora.lora_A["default"].weight, lora.lora_B["default"].weight
    expected = x @ lora.base_layer.weight.T + 2.0 * (x @ a.T @ b.T)
    torch.testing.assert_close(seen["out"][0], expected, **CLOSE)
    assert float((x @ a.T @ b.T).abs().max()) > 1e-3


MORE: dict[str, Callable[[list[str]], Any]] = {
    "dora": lambda maps: LoraConfig(r=2, target_modules=maps, use_dora=True),
    "rslora": lambda maps: LoraConfig(r=2, target_modules=maps, use_rslora=True),
    "ia3": lambda maps: IA3Config(target_modules=maps, feedforward_modules=["down"]),
    "loha": lambda maps: LoHaConfig(r=2, target_modules=maps),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["wd", "bispikclm", "gpt2", "llama"])
@pytest.mark.parametrize("method", MORE)
def test_other_adapters_merge(make_family: Make, ids: Tensor, kind: str, method: str) -> None:
    maps = ["query", "key", "value", "out", "up", "down"]
    peft = adapted(make_family(kind), MORE[method](maps))
    before = peft(input_ids=ids).logits
    for parameter in peft.parameters():
        if parameter.requires_grad:
            parameter.add_(0.3 * torch.randn_like(parameter))
    logits = peft(input_ids=ids).logits
    assert float((logits - before).abs().max()) > 1e-3
    torch.testing.assert_close(peft.merge_and_unload()(input_ids=ids).logits, logits, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["wd", "we", "bispikclm", "gpt2", "gpt_neox", "llama"])
def test_adapters_and_merged_models_are_saved_and_load(
    make_family: Make, ids: Tensor, tmp_path: Path, kind: str
) -> None:
    auto: Any = AutoModelForMaskedLM if kind == "we" else AutoModelForCausalLM
    make_family(kind, tied=True, dtype=torch.float32).save_pretrained(tmp_path / "base")

    def base() -> Any:
        return auto.from_pretrained(tmp_path / "base").eval()

    untouched = base()(input_ids=ids).logits
    peft = adapted(base(), target_modules=["query", "up", "down", "out"])
    logits = peft(input_ids=ids).logits
    assert float((logits - untouched).abs().max()) > 1e-3
    peft.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(base(), tmp_path / "adapter").eval()
    assert torch.equal(again(input_ids=ids).logits, logits)
    merged = again.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    loaded = auto.from_pretrained(tmp_path / "merged").eval()
    assert type(loaded) is type(base())
    assert torch.equal(loaded(input_ids=ids).logits, merged(input_ids=ids).logits)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "embedding"),
    [("wd", "embed_tokens"), ("we", "embed_tokens"), ("bispikclm", "embed_tokens"),
     ("gpt2", "wte"), ("llama", "embed_tokens")],
)  # fmt: skip
def test_a_tied_head_takes_an_adapter_once_it_has_a_weight_of_its_own(
    make_family: Make, ids: Tensor, tmp_path: Path, kind: str, embedding: str
) -> None:
    for name in (embedding, "lm_head"):
        with pytest.raises(ConfigError, match=rf"{name}, the (head|embedding), has an adapter"):
            adapted(make_family(kind, tied=True), target_modules=[name])(input_ids=ids)
    auto: Any = AutoModelForMaskedLM if kind == "we" else AutoModelForCausalLM
    tied = make_family(kind, tied=True, dtype=torch.float32)
    tied.save_pretrained(tmp_path / "tied")
    model = auto.from_pretrained(tmp_path / "tied", tie_word_embeddings=False)
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    head.weight.data = table.weight.data.clone()
    assert torch.equal(model(input_ids=ids).logits, tied(input_ids=ids).logits)
    peft = adapted(model.double(), target_modules=["lm_head", embedding])
    logits = peft(input_ids=ids).logits
    merged = peft.merge_and_unload()
    torch.testing.assert_close(merged(input_ids=ids).logits, logits, **CLOSE)
    merged.save_pretrained(tmp_path / "merged")
    loaded = auto.from_pretrained(tmp_path / "merged", dtype=torch.float64).eval()
    assert loaded.config.tie_word_embeddings is False
    torch.testing.assert_close(loaded(input_ids=ids).logits, logits, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "embedding"), [("wd", "embed_tokens"), ("gpt2", "wte")])
def test_head_and_embedding_that_were_trained_apart_stay_apart(
    make_family: Make, ids: Tensor, tmp_path: Path, kind: str, embedding: str
) -> None:
    """peft's modules_to_save unties them, on merging, and so must the saved folder."""
    peft = adapted(
        make_family(kind, tied=True),
        target_modules=["value"],
        modules_to_save=[embedding, "lm_head"],
    )
    for name, parameter in peft.named_parameters():
        if "modules_to_save" in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
    logits = peft(input_ids=ids).logits
    merged = peft.merge_and_unload()
    merged.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    torch.testing.assert_close(loaded(input_ids=ids).logits, logits, **CLOSE)


@pytest.mark.parametrize("case", STEPWISE)
def test_neurons_that_run_step_by_step_merge_but_do_not_train(
    make_family: Make, ids: Tensor, case: str
) -> None:
    kind, choices = STEPWISE[case]
    peft = adapted(make_family(kind, **choices))
    with pytest.raises(ConfigError, match=r"step by step .* pass no gradient; train"):
        peft.train()(input_ids=ids, labels=ids)
    with torch.no_grad():
        logits = peft.eval()(input_ids=ids).logits
        merged = peft.merge_and_unload()
        torch.testing.assert_close(merged(input_ids=ids).logits, logits, **CLOSE)


def test_an_adapter_is_merged_before_spikes_are_expanded(make_family: Make) -> None:
    peft = adapted(make_family("wd"), target_modules=["value"])
    model = peft.base_model.model
    with pytest.raises(ConfigError, match=r"maps have an adapter .*merge_and_unload"):
        model.expand_to_binary()
    peft.merge_and_unload().expand_to_binary()


@torch.no_grad()
def test_a_folder_with_model_and_adapter_loads_both(
    make_family: Make, ids: Tensor, byte_tokenizer: Any, tmp_path: Path
) -> None:
    model = make_family("gpt2", tied=True, dtype=torch.float32)
    model.resize_token_embeddings(len(byte_tokenizer))
    model.save_pretrained(tmp_path)
    byte_tokenizer.save_pretrained(tmp_path)
    peft = adapted(load_model(tmp_path)[0], target_modules=["value"])
    peft.save_pretrained(tmp_path)
    model, _ = load_model(tmp_path)
    assert torch.equal(model(input_ids=ids).logits, peft(input_ids=ids).logits)
