"""Sentence tasks for fine-tuning: GLUE's nine, and the sentiment sets of spiking papers.

GLUE (Wang et al. 2019, https://arxiv.org/abs/1804.07461) comes from a folder in the layout of its
own archives (``CoLA/train.tsv`` ...) or of a downloaded ``nyu-mll/glue``
(``cola/train-00000-of-00001.parquet`` ...), or from the hub. MR, Subj, CR and SST-5 come from files
of one example per line, label first (``rt-polarity.all``, ``stsa.fine.train`` ...).
MR, Subj and CR have no official split: here a tenth is for validation and a tenth for the test,
chosen by a hash of the text, so that repeats of a text stay in one split. SST contains MR's
sentences, so do not train on one and test on the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spikeformers.data.hub import check_online
from spikeformers.data.hub_files import hub_files, read_table
from spikeformers.errors import ConfigError, DataError, OfflineError, nearest

ENTAILED = ("entailment", "not_entailment")
BINARY = ("0", "1")
ACCURACY = ("accuracy",)
BOTH = ("accuracy", "f1")
Columns = Mapping[str, Any]  # column -> its values, of one split


@dataclass(frozen=True)
class SentenceTask:
    """One task: ``labels`` in the order of their class numbers, empty for a regression."""

    name: str
    folder: str
    texts: tuple[str, ...]
    """Columns in the archive's files; a number is a position in a file without header."""
    label: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    hub_texts: tuple[str, ...] = ()
    submission: tuple[str, ...] = ()
    """Names of the files that GLUE takes, one per test set; empty for a task outside GLUE."""
    epochs: int = 10
    """SpikeLM's recipe, https://arxiv.org/abs/2406.03287."""
    dev: tuple[str, ...] = ("dev",)
    test: tuple[str, ...] = ("test",)

    @property
    def is_regression(self) -> bool:
        return not self.labels

    @property
    def num_labels(self) -> int:
        return max(1, len(self.labels))


def _pair(name: str, folder: str, metrics: tuple[str, ...], epochs: int) -> SentenceTask:
    labels = BINARY if name == "wnli" else ENTAILED
    texts = ("sentence1", "sentence2")
    return SentenceTask(
        name, folder, texts, "label", labels, metrics, texts, (f"{folder}.tsv",), epochs
    )


TASKS: dict[str, SentenceTask] = {
    task.name: task
    for task in (
        SentenceTask("cola", "CoLA", ("3",), "1", BINARY, ("matthews",), ("sentence",),
                     ("CoLA.tsv",), 50),
        SentenceTask("sst2", "SST-2", ("sentence",), "label", BINARY, ACCURACY, ("sentence",),
                     ("SST-2.tsv",), 10),
        SentenceTask("mrpc", "MRPC", ("#1 String", "#2 String"), "Quality", BINARY, BOTH,
                     ("sentence1", "sentence2"), ("MRPC.tsv",), 20),
        SentenceTask("stsb", "STS-B", ("sentence1", "sentence2"), "score", (),
                     ("pearson", "spearman"), ("sentence1", "sentence2"), ("STS-B.tsv",), 20),
        SentenceTask("qqp", "QQP", ("question1", "question2"), "is_duplicate", BINARY, BOTH,
                     ("question1", "question2"), ("QQP.tsv",), 5),
        SentenceTask("mnli", "MNLI", ("sentence1", "sentence2"), "gold_label",
                     ("entailment", "neutral", "contradiction"), ACCURACY,
                     ("premise", "hypothesis"), ("MNLI-m.tsv", "MNLI-mm.tsv"), 5,
                     ("dev_matched", "dev_mismatched"), ("test_matched", "test_mismatched")),
        SentenceTask("qnli", "QNLI", ("question", "sentence"), "label", ENTAILED, ACCURACY,
                     ("question", "sentence"), ("QNLI.tsv",), 10),
        _pair("rte", "RTE", ACCURACY, 20),
        _pair("wnli", "WNLI", ACCURACY, 5),
        SentenceTask("mr", "rt-polarity", (), "", BINARY, ACCURACY),
        SentenceTask("subj", "subj", (), "", BINARY, ACCURACY),
        SentenceTask("cr", "custrev", (), "", BINARY, ACCURACY),
        SentenceTask("sst5", "stsa.fine", (), "", ("0", "1", "2", "3", "4"), ACCURACY),
    )
}  # fmt: skip
GLUE = ("mnli", "qqp", "qnli", "sst2", "cola", "stsb", "mrpc", "rte")
SENTIMENT = ("mr", "subj", "cr", "sst5")


@dataclass(frozen=True)
class Examples:
    """Texts, one or two per example, and labels: class numbers, scores, or None (a test set)."""

    texts: list[tuple[str, ...]]
    labels: list[int] | list[float] | None

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class SentenceData:
    """All splits of one task; ``dev`` and ``test`` map names to splits: MNLI has two of each."""

    task: SentenceTask
    train: Examples
    dev: dict[str, Examples]
    test: dict[str, Examples] = field(default_factory=dict)
    origin: str = ""

    @property
    def digest(self) -> str:
        """sha256 (hex) of all texts and labels."""
        digest = hashlib.sha256()
        for part in (self.train, *self.dev.values(), *self.test.values()):
            digest.update(json.dumps([part.texts, part.labels]).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def task_names(spec: str) -> list[str]:
    """Names of the tasks in ``"sst2,cola"`` or ``"glue"``; ConfigError for an unknown one."""
    tasks: dict[str, None] = {}
    for part in (part.strip() for part in spec.split(",")):
        for name in GLUE if part == "glue" else SENTIMENT if part == "sentiment" else (part,):
            if name not in TASKS:
                names = ["glue", "sentiment", *TASKS]
                raise ConfigError(
                    f"unknown task {part!r}.{nearest(part, names)} Known: {', '.join(names)}."
                )
            tasks[name] = None
    return list(tasks)


def load_sentences(name: str, data_dir: Path | None = None) -> SentenceData:
    """The task's splits, only from ``data_dir`` if it is given, else from the hub.

    Raises DataError for missing or unreadable data, OfflineError if the hub does not answer.
    """
    task = TASKS[name]
    if data_dir is None:
        if name in SENTIMENT:
            raise DataError(f"{name} comes from local files: give their folder, --data-dir DIR.")
        return _from_hub(task)
    if not data_dir.is_dir():
        raise DataError(f"--data-dir {data_dir} is not a folder.")
    if name in SENTIMENT:
        return _sentiment(task, _home(data_dir, "sentiment"))
    home = _home(data_dir, "glue") / task.folder
    if not (home / "train.tsv").is_file():
        columns = _hub_columns(task, data_dir)
        if "train" not in columns:
            raise DataError(
                f"{name} has no {home / 'train.tsv'}; GLUE's archive has {task.folder}/train.tsv, "
                f"{task.dev[0]}.tsv and {task.test[0]}.tsv. The hub's file {name}/"
                "train-00000-of-00001.parquet is missing too. Without --data-dir the data come "
                "from the hub."
            )
        missing = [split for split in task.dev if split not in columns]
        if missing:
            raise DataError(f"{name} has no {_hub_split(missing[0])} split to be measured on.")
        return _of_columns(task, columns, f"Parquet files of {name}")
    parts = {split: _tsv(task, home, split) for split in ("train", *task.dev, *task.test)}
    missing = [split for split in task.dev if parts[split] is None]
    if missing:
        raise DataError(f"{name} has no {home / missing[0]}.tsv to be measured on.")
    train = parts["train"]
    assert train is not None
    return SentenceData(
        task,
        train,
        {split: part for split in task.dev if (part := parts[split]) is not None},
        {split: part for split in task.test if (part := parts[split]) is not None},
        f"files of {task.folder}",
    )


def _home(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_dir() else folder


def _tsv(task: SentenceTask, home: Path, split: str) -> Examples | None:
    path = home / f"{split}.tsv"
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    rows = [line.rstrip("\r").split("\t") for line in lines if line.strip()]
    bare = task.label.isdigit() and not split.startswith("test")
    header = [] if bare else rows.pop(0)
    columns = task.texts if bare or not task.label.isdigit() else task.hub_texts
    places = [int(column) if bare else _place(header, column, path) for column in columns]
    labelled = not split.startswith("test")
    label = (int(task.label) if bare else _place(header, task.label, path)) if labelled else 0
    texts: list[tuple[str, ...]] = []
    labels: list[Any] = []
    for number, row in enumerate(rows, start=1 if bare else 2):
        if len(row) <= max(*places, label):
            raise DataError(f"{path}:{number}: {len(row)} columns, too few for {columns}.")
        if labelled and row[label] == "-":  # MNLI: annotators did not agree
            continue
        texts.append(tuple(row[place] for place in places))
        if labelled:
            labels.append(_label(task, row[label], f"{path}:{number}"))
    return Examples(texts, labels if labelled else None)


def _place(header: Sequence[str], column: str, path: Path | str) -> int:
    if column not in header:
        raise DataError(f"{path}: no column {column!r}; the columns are {', '.join(header)}.")
    return list(header).index(column)


def _label(task: SentenceTask, text: str, where: str) -> int | float:
    try:
        return float(text) if task.is_regression else task.labels.index(text)
    except ValueError:
        labels = ", ".join(task.labels) or "a number"
        raise DataError(f"{where}: the label is {text!r}; {task.name} has {labels}.") from None


def _sentiment(task: SentenceTask, home: Path) -> SentenceData:
    def read(name: str) -> Iterator[tuple[str, int]]:
        path = home / name
        if not path.is_file():
            raise DataError(f"{task.name} has no {path}.")
        raw = path.read_bytes()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:  # the files of 2005 are in Latin-1
            text = raw.decode("latin-1")
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                label, _, sentence = line.rstrip("\r").partition(" ")
                yield sentence.strip(), int(_label(task, label, f"{path}:{number}"))

    if task.name == "sst5":
        parts = {s: list(read(f"{task.folder}.{s}")) for s in ("train", "dev", "test")}
        origin = "files of stsa.fine, their own split"
    else:
        parts = {"train": [], "dev": [], "test": []}
        for sentence, label in read(f"{task.folder}.all"):
            tenth = hashlib.sha256(sentence.encode()).digest()[0] * 10 // 256
            parts[{0: "dev", 1: "test"}.get(tenth, "train")].append((sentence, label))
        origin = f"file {task.folder}.all, a tenth each for dev and test by a hash of the text"
    splits = {s: Examples([(text,) for text, _ in rows], [n for _, n in rows])
            for s, rows in parts.items()}  # fmt: skip
    return SentenceData(
        task, splits["train"], {"dev": splits["dev"]}, {"test": splits["test"]}, origin
    )


def _from_hub(task: SentenceTask) -> SentenceData:
    import datasets

    where = f"nyu-mll/glue, {task.name}"
    try:
        check_online("datasets", "nyu-mll/glue")
        loaded = datasets.load_dataset("nyu-mll/glue", task.name)
    except (OfflineError, ConnectionError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OfflineError(
            f"{where} did not come from the Hugging Face hub: {reason} Give a folder with GLUE's "
            f"archives, --data-dir DIR with {task.folder}/train.tsv."
        ) from error

    columns = {
        split: loaded[_hub_split(split)].to_dict() for split in ("train", *task.dev, *task.test)
    }
    return _of_columns(task, columns, where)


def _hub_split(split: str) -> str:
    return split.replace("dev", "validation")


def _hub_columns(task: SentenceTask, folder: Path) -> dict[str, Columns]:
    """Columns of the splits that the folder holds in the hub's layout."""
    homes = (folder / "nyu-mll/glue", folder / "glue", folder)
    columns: dict[str, Columns] = {}
    for split in ("train", *task.dev, *task.test):
        if files := hub_files(homes, task.name, _hub_split(split)):
            columns[split] = read_table(files).to_pydict()
    return columns


def _of_columns(task: SentenceTask, tables: Mapping[str, Columns], origin: str) -> SentenceData:
    """The splits of tables with the hub's columns; its test splits have no labels."""

    def part(split: str) -> Examples:
        columns, where = tables[split], f"{origin}, {_hub_split(split)}"
        for column in (*task.hub_texts, "label"):
            _place(list(columns), column, where)
        texts = list(zip(*(columns[column] for column in task.hub_texts), strict=True))
        if split.startswith("test"):
            return Examples(texts, None)
        if task.is_regression:  # 3.8 in float32, which reads 3.799999952
            return Examples(texts, [round(float(label), 5) for label in columns["label"]])
        labels = [int(label) for label in columns["label"]]
        wrong = [label for label in labels if label not in range(len(task.labels))]
        if wrong:
            raise DataError(
                f"{where}: a label is {wrong[0]}; {task.name} has 0 to {len(task.labels) - 1}."
            )
        return Examples(texts, labels)

    dev, test = (
        {split: part(split) for split in splits if split in tables}
        for splits in (task.dev, task.test)
    )
    return SentenceData(task, part("train"), dev, test, origin)
