"""The harness' own task objects, with data from the hub or from local files.

A task on local files is a YAML, written at run time, that includes the official definition and
replaces only the source of its rows: ``dataset_path`` and the splits, without a training split.
Prompt, choices, targets and metrics are those of the definition.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.api.task
import lm_eval.tasks
import yaml
from lm_eval.tasks import TaskManager

from spikeformers.data.hub import check_online
from spikeformers.data.store import default_cache_dir
from spikeformers.errors import DataError, OfflineError, SpikeformersError
from spikeformers.evaluation.zeroshot.files import find_rows
from spikeformers.evaluation.zeroshot.names import TASKS
from spikeformers.storage import write_bytes

DEFINITIONS = Path(lm_eval.tasks.__file__).parent


@dataclass(frozen=True)
class Loaded:
    """A task that is ready to run."""

    name: str
    task: Any
    """``lm_eval.api.task.Task``"""
    split: str
    official_split: str
    source: str
    """The data set's name on the hub, or "files"."""
    files: tuple[str, ...] = ()
    files_sha256: str = ""


def members(name: str) -> list[str]:
    """The tasks that a name stands for: BLiMP's 67 paradigms, or itself."""
    if name != "blimp":
        return [name]
    manager = TaskManager(include_path=DEFINITIONS / "blimp", include_defaults=False)
    return [str(task) for task in manager.all_subtasks]


def load_task(name: str, data_dir: Path | None = None) -> Loaded:
    """The task of a definition, with rows only from ``data_dir`` if it is given.

    Raises DataError for a folder without its rows, OfflineError if the hub does not answer.
    """
    folder = DEFINITIONS / TASKS.get(name, "blimp")
    manager = TaskManager(include_path=folder, include_defaults=False)
    entry = manager.task_index.get(name)
    if entry is None:
        raise DataError(f"this release of lm-evaluation-harness has no task {name!r} in {folder}.")
    config = dict(entry.cfg or {})
    official = str(config.get("test_split") or config["validation_split"])
    hub_id, hub_config = str(config["dataset_path"]), config.get("dataset_name")
    if data_dir is not None:
        return _over_files(name, Path(entry.yaml_path), config, official, data_dir)
    try:
        check_online("datasets", hub_id)
    except OfflineError as error:
        raise _offline(name, hub_id, error) from error
    try:
        task = manager.load([name])["tasks"][name]
    except SpikeformersError:
        raise
    except Exception as error:  # datasets raises many types, ConnectionError and ValueError first
        raise _offline(name, f"{hub_id} ({hub_config})", error) from error
    return Loaded(name, task, official, official, hub_id)


def _over_files(
    name: str, definition: Path, config: dict[str, Any], official: str, data_dir: Path
) -> Loaded:
    if not data_dir.is_dir():
        raise DataError(f"--data-dir {data_dir} is not a folder.")
    hub_id, hub_config = str(config["dataset_path"]), config.get("dataset_name")
    splits = list(dict.fromkeys([official, str(config.get("validation_split") or official)]))
    for split in splits:
        files_and_reader = find_rows(data_dir, name, hub_id, hub_config, split)
        if files_and_reader is not None:
            break
    else:
        raise DataError(
            f"{data_dir} has no rows for {name}: looked for the hub's {hub_id} "
            f"({hub_config or 'default'}), split {' or '.join(splits)}, as Parquet in the hub's "
            "layout, as .arrow, and as the set's usual file. docs/evaluation.md lists the names."
        )
    files, read = files_and_reader
    path, digest = _as_json_lines(read)
    changed = {
        "include": str(definition),
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(path)}},
        "training_split": None,
        "fewshot_split": None,
        "validation_split": None,
        "test_split": None,
        ("validation_split" if split == config.get("validation_split") else "test_split"): split,
    }
    with tempfile.TemporaryDirectory(prefix="spikeformers-tasks-") as folder:
        (Path(folder) / f"{name}.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
        manager = TaskManager(include_path=folder, include_defaults=False)
        with silent():
            task = manager.load([name])["tasks"][name]
    names = tuple(str(file.relative_to(data_dir)) for file in files)
    return Loaded(name, task, split, official, "files", names, digest)


def _as_json_lines(read: Any) -> tuple[Path, str]:
    """The rows as a JSON Lines file in the cache, named by its sha256, and this digest."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in read())
    content = text.encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(content).hexdigest()
    path = default_cache_dir() / "zeroshot" / f"{digest[:20]}.jsonl"
    if not path.is_file() or path.read_bytes() != content:
        write_bytes(path, content)
    return path, digest


def docs_digest(task: Any) -> str:
    """sha256 of the documents that the task scores, in order, whatever file they came from."""
    digest = hashlib.sha256()
    for doc in task.eval_docs:
        digest.update(json.dumps(doc, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def golds(task: Any, rows: Sequence[dict[str, Any]]) -> list[tuple[Any, int]]:
    """``(answer, number of options)`` of each logged sample; see `baselines`.

    The answer is None if the task has a scoring of its own (TruthfulQA's mc2: the probability of
    all true answers).
    """
    if callable(task.config.process_results):
        return [(None, len(row["arguments"])) for row in rows]
    answers = []
    for row in rows:
        several = getattr(task, "multiple_input", 0)  # contexts are the options (WinoGrande)
        answer = task.doc_to_text(row["doc"]) if several else row["target"]
        if isinstance(answer, str) and len(row["arguments"]) > 1:
            choices = list(task.doc_to_choice(row["doc"]))
            answer = choices.index(answer) if answer in choices else None
        answers.append((answer, len(row["arguments"])))
    return answers


@contextmanager
def silent() -> Iterator[None]:
    """Hide the progress bars of the harness and of ``datasets``, which would overwrite ours."""
    import datasets

    shown, bar = datasets.is_progress_bar_enabled(), lm_eval.api.task.tqdm
    datasets.disable_progress_bars()
    lm_eval.api.task.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = bar
        if shown:
            datasets.enable_progress_bars()


def quiet() -> None:
    """Restrict the harness' own log to errors."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def _offline(name: str, hub_id: str, error: Exception) -> OfflineError:
    reason = " ".join(str(error).split())[:200]
    return OfflineError(
        f"the rows of {name} are on the Hugging Face hub ({hub_id}), which did not give them: "
        f"{reason} Give a folder with them: --data-dir DIR."
    )
