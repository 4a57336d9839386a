"""Small zero-shot sets on disk in both layouts, and tiny models."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import torch

from spikeformers.data import make_tokenizer
from spikeformers.models import build_config, build_model, control_of

WORDS = ["the", "spike", "of", "a", "neuron", "wins", "or", "loses", "and", "all", "is", "quiet"]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 256,
}


@pytest.fixture
def small() -> Callable[..., tuple[Any, Any]]:
    """``small("wd")``, ``small("twin")``, ``small("gpt2")``: (model, tokenizer)."""

    def make(kind: str = "twin", **overrides: Any) -> tuple[Any, Any]:
        torch.manual_seed(5)
        tokenizer = make_tokenizer("byte")
        config: Any = build_config("wd-spikingformer-tiny", len(tokenizer), SIZES | overrides)
        if kind != "wd":
            config = control_of(config, "learned" if kind == "gpt2" else "rotary")
        model = build_model(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)  # far from uniform
        return model.eval(), tokenizer

    return make


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ARC-Easy as prompts, HellaSwag gzipped, BoolQ and PIQA as Arrow, WinoGrande as the hub's
    Parquet, HeadQA, LAMBADA, COPA and two paradigms of BLiMP."""
    draw = random.Random(3)
    folder = tmp_path_factory.mktemp("zeroshot")

    def words(n: int) -> str:
        return " ".join(draw.choices(WORDS, k=n))

    def lines(name: str, rows: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        opened: Any = gzip.open if name.endswith(".gz") else open
        with opened(folder / name, "wt", encoding="utf-8") as stream:
            stream.write(text)

    def stream(name: str, rows: list[dict[str, Any]]) -> None:
        table = arrow.Table.from_pylist(rows)
        with arrow.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table)

    def hub(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(arrow.Table.from_pylist(rows), folder / name)

    lines("arc_easy.jsonl", [
        {"query": f"Question: {words(5)}?", "gold": i % 3,
         "choices": [words(n) for n in (1, 3, 2, 4)]}
        for i in range(7)
    ])  # fmt: skip
    lines("hellaswag_val.jsonl.gz", [
        {"ind": i, "activity_label": words(2), "ctx_a": words(4), "ctx_b": words(1),
         "ctx": words(5),
         "endings": [words(n) for n in (3, 3, 5, 2)], "split": "val", "label": str(i % 4)}
        for i in range(5)
    ])  # fmt: skip
    lines("lambada_test.jsonl", [{"text": words(9)} for _ in range(4)])
    stream("boolq__none__validation.arrow", [
        {"question": words(4), "answer": i != 2, "passage": words(12)} for i in range(5)
    ])  # fmt: skip
    stream("piqa__plain_text__validation.arrow", [
        {"goal": words(4), "sol1": words(5), "sol2": words(6), "label": i % 2} for i in range(5)
    ])  # fmt: skip
    hub("allenai/winogrande/winogrande_xl/validation-00000-of-00001.parquet", [
        {"sentence": f"{words(3)} _ {words(3)}.", "option1": "spike", "option2": "neuron",
         "answer": str(1 + i % 2)}
        for i in range(6)
    ])  # fmt: skip
    hub("super_glue/copa/validation-00000-of-00001.parquet", [
        {"premise": words(4) + ".", "choice1": words(3), "choice2": words(4), "question": "cause",
         "idx": i, "label": i % 2}
        for i in range(4)
    ])  # fmt: skip
    hub("sciq/data/validation-00000-of-00001.parquet", [
        {"question": words(4), "support": words(5), "correct_answer": words(1),
         **{f"distractor{i}": words(2) for i in (1, 2, 3)}} for _ in range(3)
    ])  # fmt: skip
    hub("aps/super_glue/wsc.fixed/validation-00000-of-00001.parquet", [
        {"text": "The spike wins because it is quiet", "span1_index": 1, "span2_index": 4,
         "span1_text": "spike", "span2_text": "it", "idx": i, "label": i % 2} for i in range(4)
    ])  # fmt: skip
    hub("lighteval/winograd_wsc/wsc273/test-00000-of-00001.parquet", [
        {"text": "The spike wins because it is quiet.", "pronoun": "it", "pronoun_loc": 23,
         "quote": "it", "quote_loc": 23, "options": ["The spike", "The neuron"], "label": i % 2,
         "source": "test"} for i in range(4)
    ])  # fmt: skip
    hub("lighteval/siqa/data/validation-00000-of-00001.parquet", [
        {"context": words(4), "question": words(3), "answerA": words(1), "answerB": words(2),
         "answerC": words(3), "label": str(1 + i % 3)} for i in range(4)
    ])  # fmt: skip
    targets = {"choices": ["a spike", "a wave", "quiet"], "labels": [1, 0, 0]}
    hub("truthful_qa/multiple_choice/validation-00000-of-00001.parquet", [
        {"question": words(4), "mc1_targets": targets,
         "mc2_targets": targets | {"labels": [1, 1, 0]}} for _ in range(3)
    ])  # fmt: skip
    for name in ("adjunct_island", "causative"):
        hub(f"nyu-mll/blimp/{name}/train-00000-of-00001.parquet", [
            {"sentence_good": words(4), "sentence_bad": words(4)} for _ in range(3)
        ])  # fmt: skip
    (folder / "headqa").mkdir()
    exam = [
        {"qid": str(i), "qtext": words(4), "ra": str(1 + i % 2), "image": "",
         "answers": [{"aid": a, "atext": words(2)} for a in (1, 2, 3, 4)[: 4 + i % 2]]}
        for i in range(4)
    ]  # fmt: skip
    content = {"version": "1.0", "language": "en", "exams": {"one": {"name": "one", "data": exam}}}
    (folder / "headqa/test_HEAD_EN.json").write_text(json.dumps(content))
    return folder
