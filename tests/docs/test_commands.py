"""Every command of README and docs: each parses, and each runs at toy size or has a reason not to.

A command of ``spikeformers`` runs in a folder where the names that the docs use exist
(``conftest.Workspace``), with options behind its own that make it small (``AFTER``). A new command
that is none of ours needs an entry in ``NOT_RUN`` or ``ELSEWHERE``, or a test fails.
"""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from spikeformers.cli import RENAMED, app

from .blocks import ROOT, Command, commands
from .conftest import AFTER, Workspace, execute

NOT_RUN = {
    "pip install": "installs packages; tests/test_packaging.py installs the wheel",
    "source .venv/bin/activate": "changes the shell that types it",
    "make ": "runs a whole run, or all tests including this one",
    "export MALLOC_": "sets variables of the shell that types it",
    "spikeformers serve": "runs until it is stopped; tests/cli/test_serve.py starts and stops it",
    ".venv/bin/pip install": "installs packages",
    "PYTHONPATH=.venv-neurobench": "needs a package that brings a torch of its own",
    "docker ": "needs Docker; tests/test_dockerfile.py reads the Dockerfile",
    "accelerate launch": "tests/docs/test_other_tools.py runs it",
    "torchrun --nproc_per_node 8": "needs eight GPUs",
    "torchrun --nnodes": "needs two machines",
    "head=$(scontrol": "needs a cluster",
    "srun torchrun": "needs a cluster",
    "tensorboard": "runs until it is stopped",
    "pytest tests/kernels/triton": "tests run by it are part of this run",
    "pytest -m": "needs a GPU, or a compiler's time",
    "spikeformers tokenize HuggingFaceFW": "needs the hub, and a disk",
}
"""Beginnings of commands that no test can run, with the reason."""
ELSEWHERE = {
    "curl ": "tests/serving/test_clients.py::test_the_curl_lines_of_the_docs_work",
    "lm_eval --model hf": "tests/models/test__auto_map.py::test_the_command_of_the_harness",
    "lm_eval --model local-completions": (
        "tests/serving/test_clients.py::test_lm_eval_scores_a_task_as_evaluate_zeroshot_does"
    ),
    "python examples/": "tests/examples/test_examples.py::"
    "test_an_own_neuron_trains_and_its_products_need_only_additions",
    "torchrun --nproc_per_node 2": "tests/cli/test_pretrain.py::test_two_processes_train_one_model",
    "spikeformers evaluate zeroshot": "tests/cli/test_zeroshot.py::test_table_file_and_json",
    "spikeformers finetune ": "tests/cli/test_finetune.py::test_runs_summary_and_resume",
    "spikeformers evaluate glue": "tests/cli/test_finetune.py::test_runs_summary_and_resume",
}
"""Beginnings of commands that another test runs."""
GGUF = "--gguf-file"
"""Commands with a GGUF file of a real model; tests/mutations and tests/models read small ones."""
WORDS = {
    "builtin": "my_texts/",
    "MODEL": "runs/twin",
    "FOLDER": "runs/twin",
    "my-model": "runs/twin",
    "smollm2-135m": "runs/twin",
    "bispikclm-tiny": "bispikclm-tiny",
    "energy/": "out/energy",
}
"""Words of the docs -> those of the workspace."""
REST = {
    "pretrain": ["--preset", "wd-spikingformer-tiny", "--data", "my_texts/"],
    "distill": [
        "--teacher",
        "runs/twin",
        "--student",
        "bispikclm-tiny",
        "--data",
        "my_texts/",
        "--out",
        "x",
    ],
}
"""What ``...`` stands for."""
QUICK = {"info", "audit", "generate", "export engine", "export nir", "evaluate perplexity"}
"""Verbs whose commands run in every test run if they read only ``MINE``; the others are slow."""
MINE = {"runs/mine", "mine.engine"}
ALL = commands()
OURS = [
    command
    for command in ALL
    if command.words[0] == "spikeformers"
    and not command.line.startswith((*NOT_RUN, *ELSEWHERE))
    and GGUF not in command.words
]


def prepared(command: Command) -> list[str]:
    """The words of a command at toy size, with its output inside ``out/``."""
    words: list[str] = []
    for word in command.words[1:]:
        words += REST[command.verb] if word == "..." else [WORDS.get(word, word)]
    for at in [i for i, word in enumerate(words) if word.startswith("tokens=")]:
        words[at] = "tokens=128"  # of a run; they count more than its steps
    resumed = "--resume" in words
    for option in ("--out", "--report"):
        for at in [i + 1 for i, word in enumerate(words) if word == option]:
            words[at] = words[at] if resumed else f"out/{Path(words[at]).name}"
    if command.verb == "finetune-attention" and "--out" not in words:  # else inside the model's
        words += ["--out", "out/tuned"]
    return [*words, *([] if resumed else AFTER.get(command.verb, []))]


def test_each_command_is_run_or_has_a_reason_not_to() -> None:
    unknown = [
        f"{command.page}: {command.line}"
        for command in ALL
        if command not in OURS
        and not command.line.startswith((*NOT_RUN, *ELSEWHERE))
        and not (command.words[0] == "spikeformers" and GGUF in command.words)
    ]
    assert unknown == []
    assert len(OURS) > 30
    used = [key for key in (*NOT_RUN, *ELSEWHERE) if any(c.line.startswith(key) for c in ALL)]
    assert used == [*NOT_RUN, *ELSEWHERE]  # an entry without a command is stale


def test_tests_that_run_a_command_exist() -> None:
    for entry in ELSEWHERE.values():
        path, _, name = entry.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(), entry


@cache
def command_line() -> Any:
    """The parser of all verbs, which takes a while to make."""
    return get_command(app)


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.line[:60])
def test_it_parses(command: Command) -> None:
    if command.words[0] != "spikeformers":
        return
    parser = command_line()
    words = [word for part in command.words[1:] for word in
             (REST[command.verb] if part == "..." else [part])]  # fmt: skip
    settings = {"token_normalize_func": lambda name: RENAMED.get(name, name)}
    name = "spikeformers"
    while hasattr(parser, "commands"):
        name = words.pop(0)
        parser = parser.commands[name]
    parser.make_context(name, words, **settings)


def run(command: Command, workspace: Workspace) -> None:
    words = prepared(command)
    if "nmnist" in words:
        pytest.importorskip("tonic")
    for word in words:
        workspace.need(word)
    if "--resume" in words:  # a copy, since the run is continued
        (out,) = (words[i + 1] for i, word in enumerate(words) if word == "--out")
        workspace.need(out) if out in workspace.makers else workspace.need("runs/mine")
        source = out if Path(out).exists() else "runs/mine"
        shutil.copytree(source, "out/resumed")
        words = [*(word if word != out else "out/resumed" for word in words), "--set", "steps=3"]
    execute(*words)


def _of(quick: bool) -> list[Any]:
    return [
        pytest.param(command, id=command.line[13:75])
        for command in OURS
        if (command.verb in QUICK and bool(MINE & {*command.words})) is quick
    ]


@pytest.mark.parametrize("command", _of(quick=True))
def test_it_runs(command: Command, workspace: Workspace, inside: Path) -> None:
    run(command, workspace)


@pytest.mark.slow
@pytest.mark.parametrize("command", _of(quick=False))
def test_it_runs_and_takes_longer(command: Command, workspace: Workspace, inside: Path) -> None:
    run(command, workspace)
