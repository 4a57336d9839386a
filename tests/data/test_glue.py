"""Sentence tasks from local files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as arrow
import pytest
from pyarrow.parquet import write_table

from spikeformers.data.glue import GLUE, load_sentences, task_names
from spikeformers.errors import ConfigError, DataError, OfflineError


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8")
    return folder.parent


def test_cola_has_no_header(tmp_path: Path) -> None:
    home = write(
        tmp_path / "CoLA",
        train='a\t1\t\tFine "so.\nb\t0\t*\tNot.\n',
        dev="c\t1\t\tYes\x85no.\n",  # a line end to Python, not to the file
        test="index\tsentence\n0\tWho?\n",
    )
    data = load_sentences("cola", home)
    assert data.train.texts == [('Fine "so.',), ("Not.",)]
    assert data.train.labels == [1, 0]
    assert data.dev["dev"].texts == [("Yes\x85no.",)]
    assert data.test["test"].texts == [("Who?",)]
    assert data.test["test"].labels is None
    assert len(data.digest) == 64
    assert load_sentences("cola", home).digest == data.digest


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    head = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    home = write(
        tmp_path / "MRPC", train=head + "1\t7\t8\tOne.\tTwo.\r\n", dev=head + "0\t7\t8\ta\tb\n"
    )
    data = load_sentences("mrpc", home)
    assert data.train.texts == [("One.", "Two.")]
    assert (data.train.labels, data.dev["dev"].labels, data.test) == ([1], [0], {})
    head = "index\tsentence1\tsentence2\tscore\n"
    write(tmp_path / "STS-B", train=head + "0\ta\tb\t3.25\n", dev=head + "0\ta\tb\t0\n")
    assert load_sentences("stsb", tmp_path).train.labels == [3.25]


def test_mnli_has_two_of_each(tmp_path: Path) -> None:
    head = "index\tsentence1\tsentence2\tgold_label\n"
    write(
        tmp_path / "MNLI",
        train=head + "0\ta\tb\tneutral\n1\tc\td\t-\n2\te\tf\tentailment\n",
        dev_matched=head + "0\ta\tb\tcontradiction\n",
        dev_mismatched=head + "0\ta\tb\tentailment\n",
    )
    data = load_sentences("mnli", tmp_path)
    assert (data.train.texts, data.train.labels) == ([("a", "b"), ("e", "f")], [1, 0])
    assert [part.labels for part in data.dev.values()] == [[2], [0]]


def test_sentiment_splits_by_text(tmp_path: Path) -> None:
    lines = [f"{n % 2} caf\xe9 number {n // 2}" for n in range(400)]
    (tmp_path / "rt-polarity.all").write_bytes("\n".join(lines).encode("latin-1"))
    data = load_sentences("mr", tmp_path)
    parts = [set(part.texts) for part in (data.train, data.dev["dev"], data.test["test"])]
    assert sum(map(len, (data.train, data.dev["dev"], data.test["test"]))) == 400
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert 20 < len(data.dev["dev"]) < 60
    assert data.train.texts[0][0].startswith("café number")
    assert "by a hash of the text" in data.origin


def parquet(path: Path, texts: dict[str, list[str]], label: list[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = arrow.float32() if isinstance(label[0], float) else arrow.int64()
    write_table(arrow.table({**texts, "label": arrow.array(label, type=kind)}), path)


def pair(first: str, second: str) -> dict[str, list[str]]:
    return {"sentence1": [first], "sentence2": [second]}


def test_the_layout_of_the_hub_is_the_same_data(tmp_path: Path) -> None:
    """Downloaded Parquet files give what GLUE's archives give, to the digest."""
    head = "index\tsentence1\tsentence2\t"
    write(tmp_path / "tsv/STS-B", train=head + "score\n0\ta\tb\t3.8\n1\tc\td\t0.25\n",
          dev=head + "score\n0\te\tf\t5.000\n", test=head.strip() + "\n0\tg\th\n")  # fmt: skip
    write(tmp_path / "tsv/RTE", train=head + "label\n0\ta\tb\tnot_entailment\n",
          dev=head + "label\n0\te\tf\tentailment\n")  # fmt: skip
    end = "-00000-of-00001.parquet"
    for home in ("one", "two/glue", "three/nyu-mll/glue"):
        stsb, rte = (tmp_path / home / name for name in ("stsb", "rte"))
        parquet(stsb / "train-00000-of-00002.parquet", pair("a", "b"), [3.8])
        parquet(stsb / "train-00001-of-00002.parquet", pair("c", "d"), [0.25])
        parquet(stsb / f"validation{end}", pair("e", "f"), [5.0])
        parquet(stsb / f"test{end}", pair("g", "h"), [-1.0])
        parquet(rte / "train/0000.parquet", pair("a", "b"), [1])
        parquet(rte / "validation/0000.parquet", pair("e", "f"), [0])
        for name in ("stsb", "rte"):
            expected = load_sentences(name, tmp_path / "tsv")
            data = load_sentences(name, tmp_path / home.split("/")[0])
            assert (data.train, data.dev, data.test) == (
                expected.train,
                expected.dev,
                expected.test,
            )
            assert data.digest == expected.digest
            assert data.origin == f"Parquet files of {name}"


def test_the_layout_of_the_hub_is_checked(tmp_path: Path) -> None:
    place = tmp_path / "mnli"
    texts = {"premise": ["a"], "hypothesis": ["b"]}
    parquet(place / "train.parquet", texts, [2])
    parquet(place / "validation_matched.parquet", texts, [0])
    with pytest.raises(DataError, match="mnli has no validation_mismatched split"):
        load_sentences("mnli", tmp_path)
    other = place / "validation_mismatched.parquet"
    parquet(other, texts, [-1])
    with pytest.raises(DataError, match=r"validation_mismatched: a label is -1; mnli has 0 to 2"):
        load_sentences("mnli", tmp_path)
    parquet(other, {"premise": ["a"], "claim": ["b"]}, [1])
    with pytest.raises(DataError, match=r"no column 'hypothesis'; the columns are premise, claim"):
        load_sentences("mnli", tmp_path)
    parquet(other, texts, [1])
    rest = place / "validation_mismatched-00001-of-00002.parquet"
    parquet(rest, {"premise": ["a"], "claim": ["b"]}, [1])
    with pytest.raises(DataError, match="not parts of one split"):
        load_sentences("mnli", tmp_path)
    parquet(rest, texts, [1.0])
    with pytest.raises(DataError, match=r"cannot be read as Parquet: .*label"):
        load_sentences("mnli", tmp_path)
    rest.unlink()
    other.write_bytes(b"PAR1 cut")
    with pytest.raises(
        DataError, match=r"validation_mismatched\.parquet cannot be read as Parquet"
    ):
        load_sentences("mnli", tmp_path)


def test_what_is_refused(tmp_path: Path) -> None:
    assert task_names("glue,mr") == [*GLUE, "mr"]
    with pytest.raises(ConfigError, match=r"unknown task 'ssst2'\. Did you mean 'sst2'"):
        task_names("ssst2")
    with pytest.raises(DataError, match=r"sst2 has no .*SST-2.train\.tsv"):
        load_sentences("sst2", tmp_path)
    with pytest.raises(DataError, match="comes from local files"):
        load_sentences("mr")
    with pytest.raises(OfflineError, match="Give a folder with GLUE's archives"):
        load_sentences("sst2")
    write(tmp_path / "SST-2", train="sentence\tlabel\ngood\t7\n", dev="sentence\tlabel\ngood\t1\n")
    with pytest.raises(DataError, match=r"train\.tsv:2: the label is '7'; sst2 has 0, 1"):
        load_sentences("sst2", tmp_path)


@pytest.mark.parametrize(
    ("name", "train", "dev", "test"),
    [
        ("cola", 8551, 1043, 1063), ("sst2", 67349, 872, 1821), ("mrpc", 3668, 408, 1725),
        ("rte", 2490, 277, 3000), ("wnli", 635, 71, 146), ("stsb", 5749, 1500, 1379),
        ("sst5", 8544, 1101, 2210),
    ],
)  # fmt: skip
def test_the_shared_sets(shared_data: Path, name: str, train: int, dev: int, test: int) -> None:
    data = load_sentences(name, shared_data)
    assert (len(data.train), len(data.dev["dev"]), len(data.test["test"])) == (train, dev, test)
