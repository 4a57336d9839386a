"""Fine-tuning of a converted model: what is trained, and that nothing else moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from spikeformers.errors import ConfigError
from spikeformers.models import NeurTransformerConfig, NeurTransformerForCausalLM
from spikeformers.training import TrainConfig, train
from spikeformers.training.tune_converted import ConvertedTuning, DistilledTuning, train_only

CONFIG = TrainConfig(steps=4, batch_size=2, context=16, learning_rate=1e-2, eval_batches=1)


def source(causal: Any) -> GPT2Config:
    return GPT2Config(
        vocab_size=len(causal.tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=32,
        resid_pdrop=0.1,
    )  # fmt: skip


def converted(causal: Any, **choices: Any) -> NeurTransformerForCausalLM:
    torch.manual_seed(0)
    values = {"steps": 4, "attention": "cwssa"} | choices
    return NeurTransformerForCausalLM(
        NeurTransformerConfig(source=source(causal).to_dict(), **values)
    )


def moved(before: dict[str, torch.Tensor], model: Any) -> set[str]:
    return {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }


def test_the_parts(causal: Any) -> None:
    model = converted(causal)
    attention = train_only(model, "attention")
    trained = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    assert all(".attn." in name for name in trained)
    assert "model.transformer.h.0.attn.query.weight" in trained
    assert "model.transformer.h.1.attn.fire_value.threshold" in trained
    norms = train_only(model, "norms")
    # two LayerNorms of 16 + 16 a block, and the last one
    assert norms - attention == 5 * 32
    assert train_only(model, "everything") == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("how", ["lm", "kd"])
def test_only_the_attention_moves(causal: Any, tmp_path: Path, how: str) -> None:
    model = converted(causal)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    task: Any = ConvertedTuning(model, "attention")
    if how == "kd":
        torch.manual_seed(1)
        task = DistilledTuning(model, GPT2LMHeadModel(source(causal)), "attention", 0.5, 2.0)
    result = train(
        model, causal.store, causal.tokenizer, tmp_path / "run", CONFIG, task=task, progress=False
    )
    changed = moved(before, model)
    assert changed
    assert all(".attn." in name for name in changed)
    assert any("query.weight" in name for name in changed)
    assert ("teacher_kl" in result.final_validation) == (how == "kd")


def test_resumes_to_the_same_weights(causal: Any, tmp_path: Path) -> None:
    def run(folder: str, **changes: Any) -> Any:
        model = converted(causal)
        stop = changes.pop("stop", None)

        def on_step(step: int, _: Any) -> None:
            if step == stop:
                signal_self()

        train(
            model, causal.store, causal.tokenizer, tmp_path / folder, CONFIG,
            task=ConvertedTuning(model, "norms"), progress=False, on_step=on_step, **changes,
        )  # fmt: skip
        return model.state_dict()

    complete = run("whole")
    run("parts", stop=2)
    assert not (tmp_path / "parts/config.json").exists()
    again = run("parts", resume=True)
    assert all(torch.equal(complete[name], again[name]) for name in complete)
    model = converted(causal)
    with pytest.raises(ConfigError, match="trains was 'norms', now 'attention'"):
        train(
            model, causal.store, causal.tokenizer, tmp_path / "parts", CONFIG,
            task=ConvertedTuning(model, "attention"), progress=False, resume=True,
        )  # fmt: skip


def signal_self() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGINT)


def test_what_cannot_be_trained(causal: Any) -> None:
    with pytest.raises(ConfigError, match="kept its softmax attention"):
        train_only(converted(causal, attention="kept"), "attention")
    with pytest.raises(ConfigError, match="no gradient passes"):
        train_only(converted(causal, unrolled=True), "attention")
    with pytest.raises(ConfigError, match="no gradient passes"):
        train_only(converted(causal, ffn="qcfs", schedule="pipelined"), "everything")
    with pytest.raises(ConfigError, match="gpt2 is not a converted model"):
        train_only(GPT2LMHeadModel(source(causal)), "attention")
    with pytest.raises(ConfigError, match=r"'atention' is not a part.*Did you mean 'attention'"):
        train_only(converted(causal), "atention")
    with pytest.raises(ConfigError, match=r"must lie in \(0, 1\], not 0"):
        DistilledTuning(converted(causal), converted(causal), "attention", 0.0, 2.0)


def test_qcfs_thresholds_learn(causal: Any) -> None:
    """The loss of one batch falls when thresholds alone are trained."""
    model = converted(causal, ffn="qcfs", attention="kept")
    ids = torch.randint(0, 256, (4, 16), generator=torch.Generator().manual_seed(0))
    thresholds = [tensor for name, tensor in model.named_parameters() if "threshold" in name]
    optimizer = torch.optim.Adam(thresholds, lr=0.05)
    losses = []
    model.eval()
    for _ in range(12):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) < losses[0] - 0.01
