"""Attention transfer: the loss by hand, what it trains, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from spikeformers.conversion import calibration_windows, convert, make_plan
from spikeformers.errors import ConfigError
from spikeformers.models import NeurTransformerConfig, NeurTransformerForCausalLM
from spikeformers.training import TrainConfig, train
from spikeformers.training.journal import read_metrics
from spikeformers.training.transfer import AttentionTransfer

CONFIG = TrainConfig(
    steps=12, batch_size=2, context=16, learning_rate=1e-3, eval_batches=1, log_every=1
)


def source(causal: Any, **changes: Any) -> GPT2Config:
    values = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "resid_pdrop": 0.0}
    return GPT2Config(vocab_size=len(causal.tokenizer), **(values | changes))


def pair(causal: Any, **choices: Any) -> tuple[NeurTransformerForCausalLM, GPT2LMHeadModel]:
    """A spiking model of random weights, and a dense one of others."""
    torch.manual_seed(0)
    values = {"steps": 4, "attention": "cwssa"} | choices
    config = NeurTransformerConfig(source=source(causal).to_dict(), **values)
    return NeurTransformerForCausalLM(config), GPT2LMHeadModel(source(causal)).eval()


def test_loss_by_hand(causal: Any) -> None:
    student, teacher = pair(causal)
    task = AttentionTransfer(student, teacher)
    ids = torch.randint(0, 200, (2, 16), generator=torch.Generator().manual_seed(1))
    gpt = teacher.transformer
    with torch.no_grad():
        stream, errors = gpt.wte(ids) + gpt.wpe(torch.arange(16)), []
        for dense, block in zip(gpt.h, student.model.transformer.h, strict=True):
            x = dense.ln_1(stream)
            target, output = dense.attn(x)[0], block.attn(x)[0]
            errors.append(float(((output - target) ** 2).sum() / (target**2).sum()))
            stream = stream + target
            stream = stream + dense.mlp(dense.ln_2(stream))
    part = SimpleNamespace(to=lambda _: {"input_ids": ids, "labels": ids})
    output = task.module(**task.inputs(part, torch.device("cpu")))
    assert output.loss.item() == pytest.approx(sum(errors) / 2, rel=1e-5)
    by_layer = {"0": errors[0], "1": errors[1]}
    assert task.measured()["error_by_layer"] == pytest.approx(by_layer, rel=1e-5)


def test_gradients_stay_in_their_block(causal: Any) -> None:
    student, teacher = pair(causal)
    task = AttentionTransfer(student, teacher)
    ids = torch.arange(16).view(1, 16)
    records = task.teacher_records(ids)
    del records[1]
    task.module(ids, ids, records).loss.backward()
    first, second = (block.attn for block in student.model.transformer.h)
    assert all(parameter.grad is not None for parameter in first.parameters())
    assert all(parameter.grad is None for parameter in second.parameters())


def test_trains_the_attention_and_resumes(causal: Any, tmp_path: Path) -> None:
    def run(folder: str, steps: int, **more: Any) -> tuple[Any, list[float]]:
        teacher = pair(causal)[1]
        for tensor in teacher.parameters():  # scores that differ, not a mean over all keys
            tensor.data.mul_(4)
        windows = calibration_windows(causal.store.split("train"), 16, 128)
        plan = make_plan(teacher, attention="cwssa", steps=4)
        out = tmp_path / f"converted-{folder}-{len(more)}"
        student = convert(teacher, causal.tokenizer, windows, plan, out).model
        before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
        losses: dict[int, float] = {}

        def on_step(step: int, metrics: Any) -> None:
            losses[step] = metrics["loss"]
            if step == steps:
                raise_signal()

        result = train(
            student, causal.store, causal.tokenizer, tmp_path / folder, CONFIG,
            task=AttentionTransfer(student, teacher), progress=False, on_step=on_step, **more,
        )  # fmt: skip
        state = student.state_dict()
        changed = {name for name, tensor in state.items() if not torch.equal(tensor, before[name])}
        assert all(".attn." in name for name in changed)
        for tensor in read_metrics(tmp_path / folder / "metrics.jsonl"):
            if tensor["kind"] == "train":
                assert sum(tensor["error_by_layer"].values()) / 2 == pytest.approx(tensor["loss"])
        if not result.interrupted:
            assert "perplexity" in result.final_validation
        return state, [losses[step] for step in sorted(losses)]

    whole, losses = run("whole", 0)
    assert sum(losses[-4:]) / 4 < 0.85 * losses[0]
    run("parts", 5)
    again, rest = run("parts", 0, resume=True)
    assert rest == losses[5:]
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def raise_signal() -> None:
    import signal

    signal.raise_signal(signal.SIGINT)


def test_rotary_positions_and_layers_left_dense(causal: Any) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(causal.tokenizer), hidden_size=16, intermediate_size=24,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=32,
    )  # fmt: skip
    teacher = LlamaForCausalLM(config).eval()
    values = {"steps": 4, "attention": "ssa", "dense": ["1.attention"]}
    student = NeurTransformerForCausalLM(NeurTransformerConfig(source=config.to_dict(), **values))
    task = AttentionTransfer(student, teacher)
    ids = torch.arange(8).view(1, 8)
    records = task.teacher_records(ids)
    assert sorted(records) == [0, 2]
    hidden = teacher.model.embed_tokens(ids)
    cos, sin = teacher.model.rotary_emb(hidden, torch.arange(8)[None])
    for record in records.values():
        assert record.rotary is not None
        assert torch.equal(record.rotary[0], cos)
        assert torch.equal(record.rotary[1], sin)
    assert torch.equal(records[0].input, teacher.model.layers[0].input_layernorm(hidden))
    assert task.module(ids, ids, records).loss.item() > 0


def test_refusals(causal: Any) -> None:
    student, teacher = pair(causal)
    with pytest.raises(ConfigError, match="converted from a gpt2, and the teacher is a llama"):
        AttentionTransfer(student, LlamaForCausalLM(LlamaConfig(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=2,
        )))  # fmt: skip
    with pytest.raises(ConfigError, match="layers of the teacher differ"):
        AttentionTransfer(student, GPT2LMHeadModel(source(causal, n_layer=1)))
    with pytest.raises(ConfigError, match="kept its softmax attention"):
        AttentionTransfer(pair(causal, attention="kept")[0], teacher)
    task = AttentionTransfer(student, teacher)
    world: Any = SimpleNamespace(strategy="fsdp")
    with pytest.raises(ConfigError, match="FSDP does not gather"):
        task.start(causal.store, CONFIG, world)
    alone: Any = SimpleNamespace(strategy="single", device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="takes at most 32 tokens"):
        task.start(causal.store, TrainConfig(context=64), alone)
