"""Thresholds per token in converted models of every source: maps, masks, files, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from spikeformers.conversion import convert, finish, make_plan, uncalibrated
from spikeformers.data import make_tokenizer
from spikeformers.errors import ConfigError
from spikeformers.models import NeurTransformerForCausalLM
from spikeformers.models.neurtransformer import neurtransformer_config

Dense = Callable[..., PreTrainedModel]
ARCHITECTURES = ("gpt2", "gpt_neox", "llama", "qwen2", "mistral", "qwen3", "gemma3_text")
ALL = ["ffn", "qkv", "out", "head"]


def spiking(model: PreTrainedModel, maps: list[str], **choices: Any) -> Any:
    """``model`` with thresholds per token at ``maps``, softmax kept."""
    ffn = "signed-if" if "ffn" in maps else "kept"
    plan = make_plan(
        model, threshold="token", attention="kept", ffn=ffn, spiking_maps=maps, **choices
    )
    return uncalibrated(model, plan)


def counts_of(x: Tensor, steps: int, reach: float) -> tuple[Tensor, Tensor]:
    """Whole counts and units, written out once more."""
    most = 2 ** (steps - 1) - 1
    mean = (x.double().abs().sum(-1, keepdim=True) / x.shape[-1]).float()
    unit = torch.minimum(x.abs().max(-1, keepdim=True).values, reach * mean) / most
    return x.sign() * (x.abs() / unit + 0.5).floor(), unit


@torch.no_grad()
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_what_is_kept_computes_what_the_source_does(
    dense: Dense, windows: Tensor, kind: str
) -> None:
    """Windows, norms of q and k, scaled embeddings: all of it is in the source's config."""
    model = dense(kind)
    config = neurtransformer_config(
        source=model.config.to_dict(), attention="kept", ffn="kept", steps=8
    )
    kept = NeurTransformerForCausalLM(config).eval()
    kept.model.load_state_dict(model.state_dict())
    torch.testing.assert_close(kept(windows).logits, model(windows).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("maps", [[name] for name in ALL] + [ALL])
def test_many_steps_come_close_and_few_do_not(
    dense: Dense, windows: Tensor, kind: str, maps: list[str]
) -> None:
    model = dense(kind)
    expected = model(windows).logits
    errors = [
        float(
            (spiking(model, maps, steps=steps)(windows).logits - expected).norm() / expected.norm()
        )
        for steps in (12, 3)
    ]
    assert 0 < errors[0] < 5e-3
    assert errors[1] > 20 * errors[0]


@torch.no_grad()
def test_the_head_reads_counts_times_one_unit_per_token(dense: Dense, windows: Tensor) -> None:
    model = dense("llama")
    hidden = model.model(windows).last_hidden_state
    counts, unit = counts_of(hidden, 4, 1.5)
    assert int((counts.abs() > 7).sum()) > 20  # far values among them
    expected = unit * (counts @ model.lm_head.weight.t())
    ours = spiking(model, ["head"], steps=4, token_reach=1.5)(windows).logits
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_q_k_and_v_read_the_same_spikes_and_out_its_own(dense: Dense, windows: Tensor) -> None:
    model = dense("qwen3")
    ours = spiking(model, ["qkv", "out"], steps=5)
    read: dict[str, Tensor] = {}
    for name, module in ours.named_modules():
        if name.endswith(("q_proj", "k_proj", "v_proj", "o_proj.inner")) and ".0." in name:
            module.register_forward_hook(
                lambda _, args, __, name=name: read.__setitem__(name.split(".")[-1], args[0])
            )
    ours(windows)
    x = model.model.layers[0].input_layernorm(model.model.embed_tokens(windows))
    counts, unit = counts_of(x, 5, 8.0)
    torch.testing.assert_close(read["q_proj"], counts * unit)
    assert torch.equal(read["q_proj"], read["k_proj"])
    assert torch.equal(read["q_proj"], read["v_proj"])
    decoded = read["inner"]
    unit = decoded.abs().amax(-1, keepdim=True) / 15  # of a row without far values
    near = decoded.abs().amax(-1) <= 8 * decoded.abs().mean(-1)
    ratio = (decoded / unit)[near]
    torch.testing.assert_close(ratio, ratio.round(), atol=1e-3, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma3_text"])
def test_a_saved_model_is_the_one_that_was_converted(
    dense: Dense, windows: Tensor, tmp_path: Path, kind: str
) -> None:
    model = dense(kind)
    before = model(windows).logits
    plan = make_plan(model, threshold="token", attention="kept", spiking_maps=ALL)
    result = convert(model, make_tokenizer("byte"), None, plan, tmp_path / "out")
    finish(tmp_path / "out")
    assert torch.equal(model(windows).logits, before)  # the source is untouched
    assert result.layers[0].keys() == {"module", "layer", "part", "method"}
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(loaded(windows).logits, result.model(windows).logits)
    head, embedding = loaded.get_output_embeddings(), loaded.get_input_embeddings()
    assert head.weight is embedding.weight
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert sum(name.endswith(("lm_head.weight", "embed_tokens.weight", "wte.weight"))
               for name in names) == 1  # fmt: skip
    assert sum(name.endswith("dead_zone") for name in names) == 2 * 4 + 1


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt_neox", "mistral", "gemma3_text"])
def test_cached_generation_equals_the_whole(dense: Dense, windows: Tensor, kind: str) -> None:
    model = spiking(dense(kind), ALL, steps=8)
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = model.generate(windows[:2], use_cache=True, **settings)
    assert cached.shape == (2, 17)
    assert torch.equal(cached, model.generate(windows[:2], use_cache=False, **settings))


def test_errors_are_measured_with_each_layers_mask_and_rotation(
    dense: Dense, windows: Tensor, tmp_path: Path
) -> None:
    """Gemma 3 has two kinds of both; with the wrong ones the error would be near 1."""
    model = dense("gemma3_text")
    plan = make_plan(model, threshold="token", attention="kept", spiking_maps=ALL, steps=12)
    layers = convert(model, make_tokenizer("byte"), windows, plan, tmp_path / "out").layers
    assert [(layer["layer"], layer["part"]) for layer in layers] == [
        *((0, "attention"), (0, "mlp"), (1, "attention"), (1, "mlp"))
    ]
    assert all(0 < layer["relative_error"] < 2e-3 for layer in layers)
    assert set(layers[0]["neurons"]) == {"fire", "inner.o_proj.fire"}
    assert layers[1]["neurons"]["fire_in"]["dead_zone"] == 0.0


def test_spiking_attention_takes_thresholds_per_token_at_its_maps(
    dense: Dense, windows: Tensor, tmp_path: Path
) -> None:
    model = dense("llama")
    plan = make_plan(model, threshold="token", attention="cwssa", wta="top_k", winners=2)
    assert plan.needs_calibration
    result = convert(model, make_tokenizer("byte"), windows, plan, tmp_path / "out")
    block = result.model.get_submodule("model.model.layers.0.self_attn")
    kinds = {name: type(module).__name__ for name, module in block.named_children()
             if name.startswith("fire")}  # fmt: skip
    assert kinds == {
        "fire_in": "TokenIF",
        "fire_query": "PhaseIF",
        "fire_key": "PhaseIF",
        "fire_value": "PhaseIF",
        "fire_out": "TokenIF",
    }
    result.model.train()(windows, labels=windows).loss.backward()
    for name in ("query.weight", "out.weight", "gain"):
        grad = block.get_parameter(name).grad
        assert grad is not None
        assert float(grad.abs().sum()) > 0


@torch.no_grad()
def test_unrolled_phases_give_the_same_feed_forward(dense: Dense, windows: Tensor) -> None:
    model = dense("llama")
    at_once = spiking(model, ["ffn"], steps=4, token_reach=2.0)
    phases = spiking(model, ["ffn"], steps=4, token_reach=2.0, unrolled=True)
    torch.testing.assert_close(
        phases(windows).logits, at_once(windows).logits, atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_bfloat16_models_run(dense: Dense, windows: Tensor) -> None:
    model = spiking(dense("llama"), ALL, steps=8)
    expected = model(windows).logits
    half = model.to(torch.bfloat16)(windows).logits
    assert half.dtype == torch.bfloat16
    assert float((half.float() - expected).norm() / expected.norm()) < 0.1


@torch.no_grad()
def test_a_resized_head_still_spikes(dense: Dense, windows: Tensor) -> None:
    model = spiking(dense("llama"), ["head"], steps=4)
    model.get_output_embeddings().fire.dead_zone.fill_(0.25)
    before = model(windows).logits
    model.resize_token_embeddings(64)
    assert float(model.get_output_embeddings().fire.dead_zone) == 0.25
    after = model(windows).logits
    assert after.shape[-1] == 64
    torch.testing.assert_close(after[..., :60], before)


@torch.no_grad()
def test_adapters_beside_a_map_read_its_spikes_and_the_heads_are_refused(
    dense: Dense, windows: Tensor
) -> None:
    def adapted(target: str) -> Any:
        model = spiking(dense("mistral"), ALL, steps=3)
        settings = LoraConfig(r=2, target_modules=[target], init_lora_weights=False)
        torch.manual_seed(1)
        return get_peft_model(model, settings).eval()

    model = adapted("inner.o_proj.inner")
    apart = model(windows).logits
    torch.testing.assert_close(model.merge_and_unload()(windows).logits, apart)
    with pytest.raises(ConfigError, match="the head has an adapter and neurons"):
        adapted("lm_head")(windows)


def test_a_plan_names_the_maps(dense: Dense) -> None:
    plan = make_plan(dense("llama"), threshold="token", attention="kept", spiking_maps=ALL)
    assert (plan.config.steps, plan.config.code) == (8, "phase")
    assert not plan.needs_calibration
    assert [(row.module, row.becomes) for row in plan.rows] == [
        ("model.layers.0.self_attn", "SpikingInput"),
        ("model.layers.0.mlp", "SpikingFeedForward"),
        ("model.layers.1.self_attn", "SpikingInput"),
        ("model.layers.1.mlp", "SpikingFeedForward"),
        ("lm_head", "SpikingHead"),
        ("embedding, norms, residual", "dense"),
    ]
    assert plan.rows[0].method == (
        "softmax kept, spikes at the input of q, k and v and the output map, thresholds per token, "
        "T = 8, phase-coded"
    )


def test_thresholds_per_channel_are_the_default(dense: Dense) -> None:
    config = make_plan(dense("llama"), attention="kept").config
    assert (config.threshold, config.maps, config.steps) == ("channel", (), 16)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"threshold": "row"}, "threshold='row' is unknown"),
        ({"spiking_maps": ["ffn"], "threshold": "channel"}, "is for threshold='token'"),
        ({"power_of_two_units": True, "threshold": "channel"}, "power_of_two_units is for"),
        ({"steps": 13}, "takes 2 to 12 steps, not 13"),
        ({"steps": 1}, "takes 2 to 12 steps, not 1"),
        ({"steps": 17}, "takes 2 to 12 steps, not 17"),
        ({"code": "rate"}, "is for code='phase'"),
        ({"ffn": "ni-lif"}, "is for code='phase' and ffn='signed-if' or 'kept'"),
        ({"token_reach": 0.0}, "token_reach must be a number above 0"),
        ({"spiking_maps": ["ffn", "hed"]}, "names 'hed'.*Did you mean 'head'"),
        ({"spiking_maps": ["head"]}, "leaves out 'ffn'"),
        ({"spiking_maps": ["ffn", "out"], "attention": "cwssa"}, "leaves out 'qkv'"),
        ({"spiking_maps": ["ffn"], "ffn": "kept"}, "but ffn='kept'"),
        ({"spiking_maps": ["ffn", "head"], "unrolled": True}, "unrolled=True"),
    ],
)
def test_configs_that_describe_nothing(choices: dict[str, Any], message: str) -> None:
    given = {"threshold": "token", "code": "phase", "attention": "kept", "steps": 8} | choices
    with pytest.raises(ConfigError, match=message):
        neurtransformer_config(**given)


def test_what_is_calibrated_needs_text(dense: Dense, tmp_path: Path) -> None:
    model = dense("llama")
    for plan, density in (
        (make_plan(model, attention="kept"), None),
        (make_plan(model, threshold="token", attention="cwssa"), None),
        (make_plan(model, threshold="token", attention="kept"), 0.8),
    ):
        with pytest.raises(ConfigError, match="give windows of token ids"):
            convert(model, make_tokenizer("byte"), None, plan, tmp_path / "out", density=density)
    with pytest.raises(ConfigError, match="density needs neurons with a threshold per token"):
        convert(
            model,
            make_tokenizer("byte"),
            torch.zeros(1, 4, dtype=torch.long),
            make_plan(model, attention="kept"),
            tmp_path / "out",
            density=0.8,
        )
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "gemma3_text"])
def test_spiking_attention_refuses_what_it_has_not(dense: Dense, kind: str) -> None:
    why = "norm per head" if kind == "qwen3" else "window of the keys"
    with pytest.raises(ConfigError, match=why):
        make_plan(dense(kind), threshold="token", attention="cwssa")
