"""The clients that people use: the openai package, the docs' curl lines and Python, lm_eval."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from spikeformers.engine import Engine
from spikeformers.generation import generate_text

from .conftest import Start

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
ADDRESS = "http://127.0.0.1:8000"
openai = pytest.importorskip("openai", reason="the openai package is not installed")


@pytest.fixture
def client(running: Any) -> Any:
    with openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openai_completes_and_streams(client: Any, engine: Engine) -> None:
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).id == "tiny"
    options = {"model": model, "prompt": "a spike", "max_tokens": 12, "seed": 3}
    wanted = generate_text(engine, "a spike", max_new_tokens=12, temperature=1, top_k=0, seed=3)
    answer = client.completions.create(**options)
    assert answer.choices[0].text == wanted.text
    assert answer.usage.completion_tokens == wanted.tokens
    assert answer.usage.spikes["events"] > 0
    stream = client.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == wanted.text
    assert chunks[-1].usage.completion_tokens == wanted.tokens


def test_openai_chats(client: Any, engine: Engine) -> None:
    wanted = generate_text(
        engine, "a spike", chat=True, max_new_tokens=9, temperature=1, top_k=0, seed=3
    )
    options: dict[str, Any] = {
        **{"model": "tiny", "max_completion_tokens": 9, "seed": 3, "logprobs": True},
        "messages": [{"role": "user", "content": "a spike"}],
    }
    answer = client.chat.completions.create(**options, top_logprobs=2)
    assert answer.choices[0].message.content == wanted.text
    assert len(answer.choices[0].logprobs.content) == wanted.tokens
    text = ""
    with client.chat.completions.create(**options, stream=True) as stream:
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert text == wanted.text


def test_openai_raises_its_own_errors(client: Any, start: Start) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-x'"):
        client.completions.create(model="gpt-x", prompt="a")
    with pytest.raises(openai.BadRequestError, match="best_of") as raised:
        client.completions.create(model="tiny", prompt="a", best_of=3)
    assert raised.value.param == "best_of"
    with start(api_key="k") as running:
        other = openai.OpenAI(base_url=running.url + "/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            other.models.list()
        right = openai.OpenAI(base_url=running.url + "/v1", api_key="k", max_retries=0)
        assert right.models.list().data[0].id == "tiny"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


def test_the_curl_lines_of_the_docs_work(running: Any) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    [block] = [block for block in blocks("bash") if "curl" in block]
    commands = [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    assert len(commands) == 7
    for command in commands:
        here = command.replace(ADDRESS, running.url).replace("curl ", "curl -sS --fail ", 1)
        ended = subprocess.run(here, shell=True, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, (here, ended.stderr, ended.stdout)
        assert ended.stdout
        if "-N" in command:
            assert ended.stdout.rstrip().endswith("data: [DONE]")
        elif "/metrics" not in command:
            assert json.loads(ended.stdout)


def test_the_python_of_the_docs_works(running: Any) -> None:
    [block] = [block for block in blocks("python") if "openai" in block]
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(block.replace(ADDRESS, running.url), {})
    assert "estimated_nanojoules" in shown.getvalue()


def test_lm_eval_scores_a_task_as_evaluate_zeroshot_does(
    running: Any, engine_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    pytest.importorskip("tenacity", reason="lm_eval calls servers with it")
    import pyarrow as arrow
    from lm_eval.evaluator import evaluate
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from pyarrow import parquet

    from spikeformers.engine import load
    from spikeformers.evaluation.zeroshot.tasks import load_task, silent
    from spikeformers.studies import TaskStudy

    words = ["the spike", "a neuron of all", "quiet", "wins or loses and"]
    rows = [
        {"goal": f"to {words[n % 3]} {n}", "sol1": words[n % 4], "sol2": words[(n + 1) % 4],
         "label": n // 2 % 2}
        for n in range(8)
    ]  # fmt: skip
    place = tmp_path / "baber/piqa/data"
    place.mkdir(parents=True)
    parquet.write_table(arrow.Table.from_pylist(rows), place / "validation-00000-of-00001.parquet")
    study = TaskStudy(engine_file, engine=load(engine_file, threads=1))
    study.run(["piqa"], data_dir=tmp_path)
    wanted = study.reports[0]

    lm = LocalCompletionsAPI(
        model="tiny", base_url=running.url + "/v1/completions", tokenizer_backend="remote",
        max_length=320, batch_size=4,
    )  # fmt: skip
    task = load_task("piqa", tmp_path).task
    task.set_config("num_fewshot", 0)
    with silent():
        results = evaluate(lm, {"tasks": {"piqa": task}}, bootstrap_iters=0)
    got = sorted(results["samples"]["piqa"], key=lambda row: row["doc_id"])
    for metric in ("acc", "acc_norm"):
        assert [row[metric] for row in got] == wanted.samples[metric]
        assert results["results"]["piqa"][f"{metric},none"] == wanted.metrics[metric]["value"]
    assert 0 < sum(wanted.samples["acc"]) < len(rows)  # of both kinds, or this test says nothing
