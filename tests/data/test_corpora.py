"""Corpora: what each source gives, how it is split, and what is said of bad input."""

from __future__ import annotations

import gzip
import hashlib
import json
import urllib.error
from fractions import Fraction

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeformers.data import corpora, readers
from spikeformers.data.corpora import held_out, load_corpus, split_by_name
from spikeformers.errors import ConfigError, DataError, OfflineError


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def everything(corpus):
    return {split: list(corpus.documents(split)) for split in corpus.splits}


# --- how documents are split ---------------------------------------------------------------------


@given(
    names=st.lists(st.text(min_size=1), unique=True, min_size=2, max_size=60),
    fraction=st.fractions(Fraction(1, 50), Fraction(1, 2), max_denominator=50),
)
def test_splits_are_disjoint_and_complete(names, fraction):
    documents = [(name, f"text of {name}") for name in names]
    parts = split_by_name(lambda: documents, fraction)
    train, validation = (list(parts[split]()) for split in ("train", "validation"))
    assert train
    assert validation
    assert sorted(train + validation) == sorted(documents)
    assert train == [d for d in documents if d in train]  # the order stays


def test_held_out_is_divisibility_of_the_hash():
    names = [f"book {number}.md" for number in range(2000)]
    chosen = [n for n in names if held_out(n, Fraction(1, 50))]
    assert chosen == [n for n in names if int(hashlib.sha256(n.encode()).hexdigest(), 16) % 50 == 0]
    assert 25 < len(chosen) < 55


def test_adding_documents_moves_no_other(tmp_path):
    rows = [{"text": f"row {number}"} for number in range(400)]
    few = everything(load_corpus(jsonl(tmp_path / "x.jsonl", rows[:200])))
    many = everything(load_corpus(jsonl(tmp_path / "x.jsonl", rows)))
    assert many["train"][: len(few["train"])] == few["train"]
    assert many["validation"][: len(few["validation"])] == few["validation"]


def test_nothing_held_out_on_request(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", [{"text": "a"}, {"text": "b"}])
    corpus = load_corpus(path, validation_fraction=0)
    assert everything(corpus) == {"train": ["a", "b"]}
    with pytest.raises(DataError, match="has no 'validation' split; it has train"):
        list(corpus.documents("validation"))


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_senseless_fraction(fraction):
    with pytest.raises(ConfigError, match=f"got {fraction}"):
        load_corpus("builtin", validation_fraction=fraction)


# --- sources --------------------------------------------------------------------------------------


def test_builtin():
    corpus = load_corpus("builtin")
    assert corpus.splits == ("train", "validation")
    assert len(corpus.digest) == 64
    assert corpus.digest == load_corpus("builtin").digest
    assert corpus.digest != load_corpus("builtin", validation_fraction=0.1).digest
    parts = everything(corpus)
    assert not set(parts["train"]) & set(parts["validation"])
    sizes = {split: sum(len(t.encode()) for t in texts) for split, texts in parts.items()}
    assert sum(sizes.values()) == corpus.num_bytes
    assert 0.02 < sizes["validation"] / corpus.num_bytes < 0.1
    assert list(corpus.documents("all")) == parts["train"] + parts["validation"]


def test_text_file_is_one_running_text(tmp_path):
    blocks = [f"Speaker {n}:\nWords of the speech, number {n}.\n\n" for n in range(100)]
    path = tmp_path / "play.txt"
    path.write_text("\ufeff" + "".join(blocks), encoding="utf-8")
    corpus = load_corpus(path, validation_fraction=0.1)
    assert corpus.continuous
    train, validation = ("".join(corpus.documents(s)) for s in ("train", "validation"))
    assert train + validation == "".join(blocks)  # the byte order mark is gone, nothing else
    assert validation.startswith("Speaker 91:")
    assert len(validation) / len(train + validation) == pytest.approx(0.1, abs=0.015)
    assert "are validation" in corpus.split_by


@pytest.mark.parametrize("piece", [7, 64])
def test_long_text_is_read_in_pieces(tmp_path, monkeypatch, piece):
    text = "größer ist 語語語語語語語 als\n" * 20 + "🙂" * 30
    path = tmp_path / "long.txt"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(readers, "PIECE", piece)
    size = len(text.encode())
    pieces = list(readers.text_pieces(path, 0, size))
    assert len(pieces) > 5
    assert "".join(pieces) == text
    assert readers.file_digest(path) == hashlib.sha256(text.encode()).hexdigest()


def test_text_too_short_to_split(tmp_path):
    path = tmp_path / "word.txt"
    path.write_text("word")
    assert everything(load_corpus(path)) == {"train": ["word"]}


def test_folder_of_texts_is_one_document_a_file(tmp_path):
    (tmp_path / "author").mkdir()
    for n in range(3):
        (tmp_path / "author" / f"{n}.md").write_text(f"# Book {n}\n")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    corpus = load_corpus(tmp_path)
    parts = everything(corpus)
    assert sorted(parts["train"] + parts["validation"]) == [f"# Book {n}\n" for n in range(3)]
    assert len(parts["validation"]) == 1
    before = corpus.digest
    (tmp_path / "author" / "0.md").write_text("# Book 0, revised\n")
    assert load_corpus(tmp_path).digest != before


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_json_lines(tmp_path, name):
    lines = '{"body": "eins"}\n\n{"body": "zwei ü"}\n{"body": "  "}\n{"body": "drei"}\n'
    opener = gzip.open if name.endswith("gz") else open
    with opener(tmp_path / name, "wt", encoding="utf-8") as out:
        out.write(lines)
    corpus = load_corpus(tmp_path / name, text_field="body")
    assert sorted(corpus.documents("all")) == ["drei", "eins", "zwei ü"]


def test_parquet(tmp_path):
    table = pyarrow.table({"id": [1, 2, 3, 4], "text": ["eins", None, "drei", "vier"]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    corpus = load_corpus(tmp_path / "x.parquet")
    assert sorted(corpus.documents("all")) == ["drei", "eins", "vier"]


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "valid.txt", "test.txt"),
        ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
        ("wiki.train.raw", "wiki.valid.raw", "wiki.test.raw"),
    ],
)
def test_wikitext_layout(tmp_path, names):
    train = (
        " \n = One = \n \n Text of one . \n = 1 + 1 = \n no title . \n \n = = Part = = \n \n More ."
        " \n \n \n = Two <unk> = \n \n Text of two . \n"
    )
    for name, text in zip(
        names, (train, " \n = V = \n \n v \n", " \n = T = \n \n t \n"), strict=True
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "wiki.test.raw.rebuilt.txt").write_text("not used")
    corpus = load_corpus(tmp_path)
    parts = everything(corpus)
    assert list(parts) == ["train", "validation", "test"]
    assert "".join(parts["train"]) == train
    assert [text.split(" = ")[1] for text in parts["train"]] == ["One", "Two <unk>"]
    assert parts["validation"] == [" \n = V = \n \n v \n"]
    assert parts["test"] == [" \n = T = \n \n t \n"]
    assert corpus.split_by == "official splits; not used: wiki.test.raw.rebuilt.txt"


def test_official_files_without_validation(tmp_path):
    jsonl(tmp_path / "train-00000-of-00002.jsonl", [{"text": f"a{n}"} for n in range(50)])
    jsonl(tmp_path / "train-00001-of-00002.jsonl", [{"text": f"b{n}"} for n in range(50)])
    jsonl(tmp_path / "test.jsonl", [{"text": "t"}])
    parts = everything(load_corpus(tmp_path))
    assert parts["test"] == ["t"]
    assert len(parts["train"]) + len(parts["validation"]) == 100
    assert 0 < len(parts["validation"]) < 20


def test_folders_named_as_splits(tmp_path):
    """Nothing of validation/ or test/ is trained on, whatever the hash of its name says."""
    places = ("train/a.txt", "train/deep/b.md", "val/c.txt", "test/d.txt", "valid.txt", "README.md")
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(place)
    corpus = load_corpus(tmp_path)
    assert everything(corpus) == {
        "train": ["train/a.txt", "train/deep/b.md"],
        "validation": ["val/c.txt", "valid.txt"],
        "test": ["test/d.txt"],
    }
    assert corpus.split_by == "official splits; not used: README.md"


def test_folders_without_validation(tmp_path):
    for number in range(40):
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "train" / f"{number}.txt").write_text(f"text {number}")
    alone = load_corpus(tmp_path)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "t.txt").write_text("held out")
    corpus = load_corpus(tmp_path)
    parts = everything(corpus)
    assert parts["test"] == ["held out"]
    assert len(parts["train"]) + len(parts["validation"]) == 40
    assert 0 < len(parts["validation"]) < 10
    assert corpus.split_by.startswith("official splits; by the sha256 of the document's name")
    assert alone.split_by.startswith("by the sha256")  # train/ alone may be about trains
    (tmp_path / "test" / "t.txt").rename(tmp_path / "dev.txt")  # a folder and a file
    assert everything(load_corpus(tmp_path))["validation"] == ["held out"]


def test_official_files_of_two_kinds(tmp_path):
    for name in ("train.txt", "train.raw"):
        (tmp_path / name).write_text("text")
    with pytest.raises(DataError, match=r"several kinds \(.raw, .txt\)"):
        load_corpus(tmp_path)


def test_shared_wikitext_2(shared_data):
    corpus = load_corpus(shared_data / "wikitext-2")
    counts = {s: sum(1 for _ in corpus.documents(s)) for s in corpus.splits}
    assert counts == {"train": 600, "validation": 60, "test": 60}
    assert sum(len(text.split()) for text in corpus.documents("train")) == 2_051_910


def test_shared_tinyshakespeare(shared_data):
    corpus = load_corpus(shared_data / "tinyshakespeare" / "input.txt")
    validation = "".join(corpus.documents("validation"))
    assert validation.startswith("BAPTISTA:\nNot in my house, Lucentio")
    assert len(validation) == 55_712


# --- bad input ------------------------------------------------------------------------------------


def test_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "corpus.txt").write_text("text")
    with pytest.raises(DataError, match=r"no such file or folder: .*Did you mean 'corpus.txt'"):
        load_corpus(tmp_path / "corpsu.txt")


def test_mistyped_builtin():
    with pytest.raises(DataError, match="Did you mean 'builtin'"):
        load_corpus("buitlin")


@pytest.mark.parametrize("content", ["", " \n\n\t"])
def test_empty_file(tmp_path, content):
    (tmp_path / "x.txt").write_text(content)
    with pytest.raises(DataError, match=r"x\.txt is empty"):
        load_corpus(tmp_path / "x.txt")


@pytest.mark.parametrize("content", ["", '{"text": ""}\n'])
def test_empty_rows(tmp_path, content):
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(DataError, match="is empty"):
        load_corpus(tmp_path / "x.jsonl")


def test_folder_without_text(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"no file of a kind that is read .*picture\.png"):
        load_corpus(tmp_path)


def test_kind_of_file_that_is_not_read(tmp_path):
    (tmp_path / "x.docx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"x\.docx: this kind of file is not read"):
        load_corpus(tmp_path / "x.docx")


@pytest.mark.parametrize("piece", [5, 1 << 20])
def test_undecodable_bytes(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(readers, "PIECE", piece)
    (tmp_path / "x.txt").write_bytes("äöü und ".encode() + b"\xff\xfe")
    with pytest.raises(DataError, match=r"x\.txt: the byte 0xff at offset 11 is not UTF-8"):
        load_corpus(tmp_path / "x.txt")


def test_text_breaks_off_inside_a_character(tmp_path):
    (tmp_path / "x.txt").write_bytes("abcä".encode()[:-1])
    with pytest.raises(DataError, match="inside a character at byte 3"):
        load_corpus(tmp_path / "x.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"txet": "a", "id": 1}', r"x\.jsonl:2: no field 'text'.*\['id', 'txet'\].*mean 'txet'"),
        ('{"text": 7}', r"x\.jsonl:2: field 'text' holds int, not text"),
        ('["a"]', r"x\.jsonl:2: a JSON object is needed, got list"),
        ('{"text": "a"', r"x\.jsonl:2: not JSON"),
        (r'{"text": "\ud800"}', r"x\.jsonl:2: field 'text' holds half a character, \\ud800"),
    ],
)
def test_bad_json_line(tmp_path, line, message):
    (tmp_path / "x.jsonl").write_text('{"text": "good"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        list(load_corpus(tmp_path / "x.jsonl").documents("all"))


def test_json_line_that_is_not_utf8(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "gr\xfc\xdfe"}\n')
    with pytest.raises(DataError, match=r"x\.jsonl:1: byte 12 of the line \(0xfc\) is not UTF-8"):
        load_corpus(tmp_path / "x.jsonl")


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"plain" + raw])
def test_damaged_gzip(tmp_path, damage):
    rows = "".join(json.dumps({"text": f"{n} {n * n}"}) + "\n" for n in range(500))
    (tmp_path / "x.jsonl.gz").write_bytes(damage(gzip.compress(rows.encode())))
    with pytest.raises(DataError, match=r"x\.jsonl\.gz is damaged or not a gzip file"):
        list(load_corpus(tmp_path / "x.jsonl.gz").documents("all"))


def test_bad_parquet(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match=r"x\.parquet cannot be read as Parquet"):
        load_corpus(tmp_path / "x.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"txt": ["a"], "n": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"no column 'text'; .*\['n', 'txt'\].*Did you mean 'txt'"):
        load_corpus(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column 'n' holds int, not text"):
        load_corpus(tmp_path / "x.parquet", text_field="n")


def test_reading_fails_half_way(tmp_path, monkeypatch):
    (tmp_path / "x.txt").write_text("text of some length\n\nand more\n")
    corpus = load_corpus(tmp_path / "x.txt")

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(corpora.readers, "text_pieces", broken)
    with pytest.raises(DataError, match=r"corpus x\.txt cannot be read: .*Input/output error"):
        list(corpus.documents("train"))
    (tmp_path / "x.txt").unlink()
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"x\.txt cannot be read: No such file"):
        list(corpus.documents("train"))


def test_hub_data_set_offline(monkeypatch):
    with pytest.raises(OfflineError, match="'nobody/nothing' is not a file or folder here"):
        load_corpus("nobody/nothing")  # the test session is offline by its environment

    def unreachable(url, timeout):
        assert url.endswith("/api/datasets/nobody/nothing")
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("HF_DATASETS_OFFLINE")
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(OfflineError, match=r"does not answer .*Name or service not known"):
        load_corpus("nobody/nothing")
