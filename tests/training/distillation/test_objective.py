"""The weighted sum, its gradients, and whole runs of distillation."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spikeformers.errors import ConfigError, TrainingDiverged
from spikeformers.models import load_model
from spikeformers.training import train
from spikeformers.training.checkpoint import checkpoints
from spikeformers.training.distillation import TERMS, Distillation, SpADConfig, losses
from spikeformers.training.journal import read_metrics

TIMES = ("seconds", "tokens_per_second")
OTHER = {"n_embd": 24, "n_layer": 3, "n_head": 3}  # unlike the student in every shape


@pytest.fixture
def task(fresh: Any, dense: Any) -> Callable[..., Distillation]:
    """``task(saa=0)`` distils a fresh WD-Spikingformer from a GPT-2 of other shapes."""

    def make(cache: str = "", seed: int = 0, shape: Any = OTHER, **choices: Any) -> Distillation:
        model, _, tokenizer = fresh("wd", seed=seed)
        return Distillation(model, dense(tokenizer, **shape), SpADConfig(**choices), 0, cache)

    return make


def ids_of(store: Any) -> torch.Tensor:
    return torch.from_numpy(store.split("train").tokens[:32].astype("int64")).view(2, 16)


def output_of(task: Distillation, store: Any) -> Any:
    ids = ids_of(store)
    torch.manual_seed(0)
    task.module.train()
    return task.module(input_ids=ids, labels=ids, teacher=task.teacher(ids, task.needs))


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def test_the_student_shows_what_alignment_needs(fresh: Any, causal: Any) -> None:
    model, store, _ = fresh("wd", steps=2, dropout=0.0)
    model.train()
    seen: list[torch.Tensor] = []
    model.model.embed_tokens.register_forward_hook(lambda *given: seen.append(given[2]))
    model.model.norm.register_forward_hook(lambda *given: seen.append(given[2]))
    out = model(input_ids=ids_of(store), output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == 3
    assert torch.equal(out.hidden_states[0], seen[0])  # the embedding, averaged over S
    assert torch.equal(out.hidden_states[-1], seen[1])  # after the final norm
    assert [tuple(tensor.shape) for tensor in out.attentions] == [(2, 2, 16, 16)] * 2
    sum(tensor.square().sum() for tensor in (*out.hidden_states, *out.attentions)).backward()
    grads = gradients(model)
    for layer in (0, 1):
        for part in ("query", "key"):
            assert grads[f"model.layers.{layer}.attention.{part}.weight"].abs().sum() > 0


def test_the_loss_is_the_weighted_sum_of_the_terms(task: Any, causal: Any) -> None:
    distilled = task(ea=0.5, saa=2.0, tau=3.0)
    output = output_of(distilled, causal.store)
    assert tuple(output.terms) == TERMS
    weights = {"ea": 0.5, "saa": 2.0, "sfa": 0.1, "sta": 0.3, "hta": 0.3}
    parts = {term: weights[term] * value.item() for term, value in output.terms.items()}
    assert all(value > 0 for value in parts.values())
    for term, value in output.contributions.items():
        assert value.item() == pytest.approx(parts[term])
    assert output.rate_loss.item() > 0
    assert output.loss.item() == pytest.approx(sum(parts.values()) + output.rate_loss.item())
    assert output.lm_loss is output.terms["hta"]


def test_the_terms_are_those_of_the_equations(task: Any, causal: Any) -> None:
    distilled = task(sfa_normalise_teacher=False, shape={}, sfa_project_always=False, tau=3.0)
    distilled.model.model.dropout.p = 0.0
    for block in distilled.model.model.layers:
        block.dropout.p = 0.0
    terms = output_of(distilled, causal.store).terms
    ids, rate = ids_of(causal.store), distilled.distilled.rate
    with torch.no_grad():
        student = distilled.model(ids, output_hidden_states=True, output_attentions=True)
        teacher = distilled.teacher.model(ids, output_hidden_states=True, output_attentions=True)
    expected = {
        "ea": (student.hidden_states[0] - teacher.hidden_states[0]).square().mean(),
        "saa": sum(
            (s - t).square().mean() + (s - rate(t)).square().mean()
            for s, t in zip(student.attentions, teacher.attentions, strict=True)
        ) / 2,
        "sfa": sum(
            (s - t).square().mean() + (rate(s) - rate(t)).square().mean()
            for s, t in zip(student.hidden_states[1:], teacher.hidden_states[1:], strict=True)
        ) / 2,
        "sta": losses.soft_targets(student.logits, teacher.logits, 3.0),
        "hta": losses.hard_targets(student.logits, ids),
    }  # fmt: skip
    for term, value in expected.items():
        assert terms[term].item() == pytest.approx(value.item(), rel=1e-5), term


def test_teacher_features_are_normalised_by_default(task: Any, causal: Any) -> None:
    plain = {"shape": {}, "sfa_project_always": False, "sfa_rate": 0}
    raw = output_of(task(sfa_normalise_teacher=False, **plain), causal.store).terms["sfa"]
    loss = output_of(task(**plain), causal.store).terms["sfa"]
    assert loss.item() != pytest.approx(raw.item(), rel=1e-3)


def test_gradient_reaches_every_projection_and_the_student(task: Any, causal: Any) -> None:
    distilled = task()
    output_of(distilled, causal.store).loss.backward()
    grads = gradients(distilled.module)
    projections = [name for name in grads if name.startswith("projections.")]
    assert len(projections) == 1 + 2 + 2 * 6  # embedding, heads, MLP and LayerNorm of two layers
    for name, _ in distilled.module.named_parameters():
        assert grads[name].abs().sum() > 0, name
    assert not gradients(distilled.teacher.model)


def test_a_student_like_its_teacher_has_no_loss_left_but_the_text(causal: Any, dense: Any) -> None:
    teacher = dense(causal.tokenizer)
    spad = SpADConfig(saa_rate=0, sfa_project_always=False, sfa_normalise_teacher=False)
    terms = output_of(Distillation(dense(causal.tokenizer), teacher, spad), causal.store).terms
    alike = [terms[term].item() for term in ("ea", "saa", "sfa", "sta")]
    assert alike == pytest.approx([0, 0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("term", TERMS)
def test_leaving_a_term_out_removes_it(term: str, task: Any, causal: Any) -> None:
    whole, less = task(), task(**{term: 0})
    everything, rest = output_of(whole, causal.store), output_of(less, causal.store)
    assert set(rest.terms) == set(TERMS) - {term}
    for name, value in rest.terms.items():
        assert torch.equal(value, everything.terms[name]), name
    own = {"ea": "embedding.", "saa": "heads.", "sfa": "features."}.get(term, "none")
    assert not any(f"projections.{own}" in n for n, _ in less.module.named_parameters())
    everything.loss.backward(retain_graph=True)
    total = gradients(whole.module)
    whole.module.zero_grad()
    everything.contributions[term].backward()
    share = gradients(whole.module)
    rest.loss.backward()
    for name, gradient in gradients(less.module).items():
        expected = total[name] - share.get(name, torch.zeros(()))
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


# --- whole runs


def run(task: Distillation, causal: Any, out: Path, config: Any, **more: Any) -> Any:
    return train(
        task.model, causal.store, causal.tokenizer, out, config, task=task, progress=False, **more
    )


def lines(out: Path) -> list[dict[str, Any]]:
    entries = read_metrics(out / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in TIMES} for line in entries]


def shard(out: Path) -> dict[str, torch.Tensor]:
    (file,) = checkpoints(out / "checkpoints")[-1].glob("*.safetensors")
    return load_file(file)


def interrupt_at(stop: int) -> Callable[[int, Mapping[str, float]], None]:
    def on_step(step: int, _: Mapping[str, float]) -> None:
        if step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    return on_step


@pytest.fixture(scope="module")
def whole(
    fresh: Any, dense: Any, causal: Any, config: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An uninterrupted run, with dropout."""
    out = tmp_path_factory.mktemp("distilled") / "run"
    model, _, tokenizer = fresh("wd")
    task = Distillation(model, dense(tokenizer, **OTHER), SpADConfig())
    result = run(task, causal, out, config())
    assert set(result.final_validation) == {
        *("loss", "perplexity", "bits_per_byte", "teacher_agreement", "teacher_kl"),
    }
    return out


def test_what_is_logged(whole: Path) -> None:
    first = lines(whole)[0]
    weights = SpADConfig().weights
    total = sum(weight * first[f"loss/{term}"] for term, weight in weights.items())
    assert first["loss"] == pytest.approx(total + first["rate_loss"])
    assert first["lm_loss"] == first["loss/hta"]
    assert all(first[f"grad_norm/{term}"] > 0 for term in TERMS)
    assert len(first["density_by_layer"]) == 15
    assert all(not name.startswith("student.") for name in first["density_by_layer"])
    last = lines(whole)[-1]
    assert last["kind"] == "validation"
    assert 0 <= last["teacher_agreement"] <= 1
    assert last["teacher_kl"] > 0
    record = json.loads((whole / "run.json").read_text())["task"]
    assert (record["hta"], record["rate_steps"], len(record["teacher_sha256"])) == (0.3, 4, 64)


def test_the_norm_of_a_term_is_that_of_its_weighted_gradient(
    whole: Path, task: Any, causal: Any, config: Any
) -> None:
    from spikeformers.training.batches import TrainBatches, make_objective
    from spikeformers.training.distributed import World
    from spikeformers.training.gradients import _seed_step

    distilled, alone = task(), World(0, 1, torch.device("cpu"), "single")
    objective = make_objective(distilled.model, causal.tokenizer, config())
    (part,) = TrainBatches(causal.store.split("train"), objective, config(), alone).of(0)
    distilled.module.train()
    for term in TERMS:
        distilled.module.zero_grad()
        inputs = distilled.inputs(part, torch.device("cpu"))
        _seed_step(0, 0, 0)
        distilled.module(**inputs).contributions[term].backward()
        flat = torch.cat([g.double().flatten() for g in gradients(distilled.module).values()])
        assert lines(whole)[0][f"grad_norm/{term}"] == pytest.approx(flat.norm().item(), rel=1e-5)


def test_an_interrupted_run_ends_bit_for_bit_as_the_uninterrupted_one(
    whole: Path, task: Any, causal: Any, config: Any, tmp_path: Path
) -> None:
    assert run(task(), causal, tmp_path, config(), on_step=interrupt_at(3)).interrupted
    again = run(task(seed=8), causal, tmp_path, config(log_every=2), resume=True)
    assert again.steps == 6
    expected, resumed = (
        load_file(whole / "model.safetensors"),
        load_file(tmp_path / "model.safetensors"),
    )
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())
    moments, exact = shard(tmp_path), shard(whole)
    assert moments.keys() == exact.keys()
    assert all(torch.equal(moments[name], value) for name, value in exact.items())
    assert any(name.startswith("optimizer.projections.features") for name in exact)


def test_only_the_student_is_exported(whole: Path, fresh: Any) -> None:
    model, _ = load_model(whole)
    assert type(model) is type(fresh("wd")[0])
    assert {f"model.student.{name}" for name, _ in model.named_parameters()} <= shard(whole).keys()
    assert not any("projections" in name for name in load_file(whole / "model.safetensors"))


def test_cross_entropy_alone_is_pretraining_bit_for_bit(
    task: Any, causal: Any, config: Any, fresh: Any, tmp_path: Path
) -> None:
    run(task(ea=0, saa=0, sfa=0, sta=0, hta=1), causal, tmp_path / "hta", config())
    train(*fresh("wd"), tmp_path / "plain", config(), progress=False)
    mine, plain = (load_file(tmp_path / n / "model.safetensors") for n in ("hta", "plain"))
    assert all(torch.equal(mine[name], value) for name, value in plain.items())
    distilled, other = lines(tmp_path / "hta")[-1], lines(tmp_path / "plain")[-1]
    assert distilled["loss"] == other["loss"]


def test_a_resumed_run_must_be_the_same_distillation(
    whole: Path, task: Any, causal: Any, config: Any, fresh: Any
) -> None:
    with pytest.raises(ConfigError, match=r"another task: hta was 0\.3, now 0\.5"):
        run(task(hta=0.5), causal, whole, config(), resume=True)
    with pytest.raises(ConfigError, match="another task: teacher_sha256 was"):
        run(task(shape=OTHER | {"n_layer": 2}), causal, whole, config(), resume=True)
    with pytest.raises(ConfigError, match="another task"):
        train(*fresh("wd"), whole, config(), resume=True, progress=False)


def test_accumulation_changes_only_rounding(
    task: Any, causal: Any, config: Any, tmp_path: Path
) -> None:
    for parts in (1, 4):
        whole = task()
        for module in whole.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        out = tmp_path / str(parts)
        run(whole, causal, out, config(gradient_accumulation=parts, steps=2))
    first, parted = lines(tmp_path / "1")[0], lines(tmp_path / "4")[0]
    for key in ("loss", "grad_norm", *(f"loss/{term}" for term in TERMS)):
        assert parted[key] == pytest.approx(first[key], rel=1e-4), key


def test_enormous_and_infinite_gradients(
    task: Any, causal: Any, config: Any, tmp_path: Path
) -> None:
    seen: list[float] = []
    run(
        task(hta=1e30, ea=0, saa=0, sfa=0, sta=0), causal, tmp_path / "huge", config(steps=2),
        on_step=lambda _, metrics: seen.append(metrics["grad_norm"]),
    )  # fmt: skip
    assert min(seen) > 1e28  # its square does not fit float32, and the run continued
    assert all(v.isfinite().all() for v in load_file(tmp_path / "huge/model.safetensors").values())
    with pytest.raises(TrainingDiverged, match=r"loss is inf at step 1"):
        run(task(hta=1e39, ea=0, saa=0, sfa=0, sta=0), causal, tmp_path / "inf", config())


def test_a_context_beyond_the_teachers_positions(
    fresh: Any, dense: Any, causal: Any, config: Any, tmp_path: Path
) -> None:
    model, _, tokenizer = fresh("wd", max_position_embeddings=64)
    task = Distillation(model, dense(tokenizer), SpADConfig())
    with pytest.raises(ConfigError, match="context is 48; the teacher takes at most 32 tokens"):
        run(task, causal, tmp_path / "run", config(context=48))
    assert not (tmp_path / "run").exists()
