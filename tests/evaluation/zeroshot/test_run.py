"""Tasks over local files: the definition's own prompts and metrics, and the controls beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")

from spikeformers.errors import ConfigError, DataError, OfflineError
from spikeformers.evaluation.zeroshot import resolve
from spikeformers.evaluation.zeroshot.baselines import at_chance, baselines, standard_error
from spikeformers.evaluation.zeroshot.run import Zeroshot, means
from spikeformers.evaluation.zeroshot.tasks import load_task


def runner(setup: Any, **options: Any) -> Zeroshot:
    return Zeroshot("small", *setup, cache_dir=None, **options)


@pytest.mark.parametrize(
    ("task", "documents", "split", "chance", "majority", "norm"),
    [
        ("arc_easy", 7, "test", 0.25, 3 / 7, True),
        ("hellaswag", 5, "validation", 0.25, 2 / 5, True),
        ("boolq", 5, "validation", 0.5, 4 / 5, False),
        ("piqa", 5, "validation", 0.5, 3 / 5, True),
        ("winogrande", 6, "validation", 0.5, 0.5, False),
        ("headqa_en", 4, "test", 0.25, 0.5, True),
        ("lambada_openai", 4, "test", 0.0, None, False),
        ("copa", 4, "validation", 0.5, 0.5, False),
        ("blimp_causative", 3, "train", 0.5, None, False),
        ("wsc", 4, "validation", 0.5, 0.5, False),
        ("wsc273", 4, "test", 0.5, 0.5, False),
        ("social_iqa", 4, "validation", 1 / 3, 0.5, False),
        ("truthfulqa_mc1", 3, "validation", 1 / 3, None, False),
    ],
)
def test_every_kind_of_file(
    small: Any, sets: Path, task: str, documents: int, split: str,
    chance: float, majority: float | None, norm: bool,
) -> None:  # fmt: skip
    report = runner(small("wd")).run(task, data_dir=sets)
    assert (report.documents, report.available, report.split) == (documents, documents, split)
    assert report.official_split == split
    assert len(report.docs_sha256) == 64
    acc = report.metrics["acc"]
    assert acc["value"] == sum(report.samples["acc"]) / documents
    assert acc["chance"] == pytest.approx(chance)
    if task != "lambada_openai":
        assert acc["majority"] == (None if majority is None else pytest.approx(majority))
    assert ("acc_norm" in report.metrics) == norm


def test_a_split_that_is_not_the_official_one_is_reported(small: Any, sets: Path) -> None:
    report = runner(small("twin")).run("sciq", data_dir=sets)
    assert (report.split, report.official_split) == ("validation", "test")
    assert report.metrics["acc"]["majority"] is None  # the answer is always the last option


def test_a_score_that_is_not_an_accuracy_has_no_chance(small: Any, sets: Path) -> None:
    acc = runner(small("twin")).run("truthfulqa_mc2", data_dir=sets).metrics["acc"]
    assert 0 < acc["value"] < 1
    assert acc["chance"] is acc["majority"] is acc["at_chance"] is None


def test_the_definition_is_the_official_one(sets: Path) -> None:
    loaded = load_task("arc_easy", sets)
    doc = loaded.task.eval_docs[0]
    assert loaded.task.doc_to_text(doc) == f"Question: {doc['question']}\nAnswer:"
    assert loaded.task.doc_to_choice(doc) == doc["choices"]["text"]
    assert loaded.task.config.doc_to_target == "{{choices.label.index(answerKey)}}"
    assert loaded.files == ("arc_easy.jsonl",)
    hella = load_task("hellaswag", sets).task
    row = hella.eval_docs[0]
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    assert hella.doc_to_text(row) == context  # its own process_docs ran


def test_scores_of_a_task_are_the_harness_own(small: Any, sets: Path) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = small("twin")
    report = runner((model, tokenizer), batch_size=4).run("hellaswag", data_dir=sets)
    task = load_task("hellaswag", sets).task
    task.set_config("num_fewshot", 0)
    backend = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)
    expected = evaluate(backend, {"tasks": {"hellaswag": task}}, bootstrap_iters=1)
    for metric in ("acc", "acc_norm"):
        assert report.metrics[metric]["value"] == expected["results"]["hellaswag"][f"{metric},none"]
        error = expected["results"]["hellaswag"][f"{metric}_stderr,none"]
        assert report.metrics[metric]["stderr"] == pytest.approx(error, rel=1e-12)


def test_limit_and_result(small: Any, sets: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    scorer = runner(small("wd"), progress=lambda *moved: seen.append(moved))
    report = scorer.run("piqa", data_dir=sets, limit=2)
    assert (report.documents, report.available, report.limit) == (2, 5, 2)
    assert seen[-1] == ("piqa", 4, 4)
    result = scorer.result([report])
    assert result["tasks"]["piqa"]["samples"]["acc"] == report.samples["acc"]
    assert result["model"]["model_type"] == "wd_spikingformer"
    assert len(result["model"]["weights_sha256"]) == 64
    assert {"torch", "lm_eval", "spikeformers"} <= set(result["versions"])
    assert result["settings"]["num_fewshot"] == 0
    assert result["means"] == {}


def test_baselines_by_hand() -> None:
    assert baselines([(0, 2), (1, 4), (1, 4), (1, 2)]) == (pytest.approx(0.375), 0.75)
    assert baselines([(0, 2), (0, 2)]) == (0.5, None)
    assert baselines([(" a", 1), (" b", 1), (" a", 1)]) == (0.0, pytest.approx(2 / 3))
    assert baselines([([0, 1], 4)]) == (None, None)
    assert baselines([]) == (None, None)
    assert standard_error([0.0, 1.0, 1.0, 1.0]) == pytest.approx(0.25)
    assert at_chance(0.29, 0.02, 0.25)
    assert not at_chance(0.30, 0.02, 0.25)
    assert not at_chance(0.20, 0.02, 0.25)
    assert at_chance(0.3, 0.02, None) is None


def test_means_of_complete_groups() -> None:
    def score(value: float, error: float, chance: float) -> dict[str, Any]:
        return {"value": value, "stderr": error, "chance": chance, "majority": chance + 0.01}

    norm = {"acc": score(0.2, 0.03, 0.25), "acc_norm": score(0.3, 0.03, 0.25)}
    plain = {"acc": score(0.5, 0.06, 0.5)}
    group_means = means({"hellaswag": norm, "piqa": norm, "winogrande": plain, "boolq": plain})
    assert list(group_means) == ["commonsense"]
    acc, normed = group_means["commonsense"]["acc"], group_means["commonsense"]["acc_norm"]
    assert (acc["value"], normed["value"]) == (pytest.approx(0.3), pytest.approx(1.1 / 3))
    assert acc["stderr"] == pytest.approx((2 * 0.03**2 + 0.06**2) ** 0.5 / 3)
    assert (acc["chance"], acc["majority"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3 + 0.01))
    assert acc["at_chance"] is True
    sure = norm | {"acc": score(0.6, 0.03, 0.25)}
    metrics = {"hellaswag": sure, "piqa": sure, "winogrande": plain}
    assert means(metrics)["commonsense"]["acc"]["at_chance"] is False
    blind = {"acc": score(0.5, 0.06, 0.5) | {"majority": None}}
    assert means(metrics | {"piqa": blind})["commonsense"]["acc"]["majority"] is None


def test_names() -> None:
    assert resolve("piqa, lambada,piqa") == ["piqa", "lambada_openai"]
    assert len(resolve("paper")) == 8
    assert resolve("blimp_causative") == ["blimp_causative"]
    with pytest.raises(ConfigError, match=r"unknown zero-shot task 'pica'\. Did you mean 'piqa'"):
        resolve("pica")


def test_missing_rows_and_damaged_files(small: Any, sets: Path, tmp_path: Path) -> None:
    scorer = runner(small("twin"))
    with pytest.raises(DataError, match="no rows for openbookqa: looked for the hub's allenai"):
        scorer.run("openbookqa", data_dir=sets)
    with pytest.raises(DataError, match="is not a folder"):
        scorer.run("piqa", data_dir=tmp_path / "none")
    with pytest.raises(OfflineError, match="Give a folder with them: --data-dir"):
        scorer.run("piqa")
    (tmp_path / "arc_easy.jsonl").write_text("{not json\n")
    with pytest.raises(DataError, match="cannot be read as a zero-shot set"):
        scorer.run("arc_easy", data_dir=tmp_path)
    with pytest.raises(ConfigError, match="this model takes 2 to 256"):
        runner(small("twin"), max_length=300)


@pytest.mark.parametrize(
    ("task", "documents", "split"),
    [("arc_easy", 2376, "test"), ("openbookqa", 500, "validation"), ("headqa_en", 2742, "test")],
)
def test_the_shared_sets(shared_data: Path, task: str, documents: int, split: str) -> None:
    loaded = load_task(task, shared_data / "zeroshot")
    assert (len(loaded.task.eval_docs), loaded.split) == (documents, split)
