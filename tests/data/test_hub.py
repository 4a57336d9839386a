"""Hub data sets, with the library's loader replaced by data sets made here."""

from __future__ import annotations

import email.message
import ssl
import urllib.error

import datasets
import pytest

from spikeformers.data import hub
from spikeformers.data.corpora import load_corpus, stream_corpus
from spikeformers.errors import DataError, OfflineError


@pytest.fixture
def published(monkeypatch):
    """A data set that ``load_dataset`` returns; the test changes it."""
    data = datasets.DatasetDict(
        train=datasets.Dataset.from_dict({"text": ["eins", "", "zwei"], "n": [1, 2, 3]}),
        validation=datasets.Dataset.from_dict({"text": ["drei"], "n": [4]}),
    )

    def load(name, config_name):
        assert (name, config_name) == ("some/words", "german")
        return data

    monkeypatch.setattr(datasets, "load_dataset", load)
    return data


def load(**kwargs):
    return load_corpus("some/words", config_name="german", **kwargs)


def test_official_splits(published):
    corpus = load()
    assert corpus.splits == ("train", "validation")
    assert list(corpus.documents("train")) == ["eins", "zwei"]
    assert list(corpus.documents("validation")) == ["drei"]
    before = corpus.digest
    published["train"] = datasets.Dataset.from_dict({"text": ["eins", "", "ZWEI"]})
    assert load().digest != before


def test_validation_is_held_out_where_there_is_none(published):
    del published["validation"]
    parts = {s: list(load().documents(s)) for s in load().splits}
    assert sorted(parts["train"] + parts["validation"]) == ["eins", "zwei"]


def test_wrong_column(published):
    with pytest.raises(DataError, match=r"no column 'txt'; .*\['n', 'text'\].*mean 'text'"):
        load(text_field="txt")
    with pytest.raises(DataError, match="'n' holds int, not text"):
        list(load(text_field="n").documents("train"))


def test_no_train_split(published):
    del published["train"]
    with pytest.raises(DataError, match=r"no train split; it has \['validation'\]"):
        load()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (datasets.exceptions.DatasetNotFoundError("doesn't exist"), DataError),
        (ConnectionError("no route"), OfflineError),
        (ValueError("Config name is missing"), DataError),
    ],
)
def test_errors_of_the_library(monkeypatch, error, kind):
    def fail(name, config_name):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(kind, match=str(error)):
        load()


@pytest.mark.parametrize(
    "answer",
    [
        urllib.error.HTTPError("u", 404, "not found", email.message.Message(), None),
        urllib.error.URLError(ssl.SSLError("a private certificate")),
    ],
)
def test_any_answer_means_online(monkeypatch, answer):
    def answers(url, timeout):
        raise answer

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("HF_DATASETS_OFFLINE")
    monkeypatch.setattr("urllib.request.urlopen", answers)
    hub.check_online("datasets", "some/words")


# --- streaming ------------------------------------------------------------------------------------


@pytest.fixture
def streamed(monkeypatch):
    """A streamed data set at a revision that the test changes."""
    data = {
        "train": datasets.Dataset.from_dict({"text": ["eins", "", "zwei"], "n": [1, 2, 3]}),
        "valid": datasets.Dataset.from_dict({"text": ["drei"], "n": [4]}),
    }
    state = {"revision": "abc", "opened": []}

    def load(name, config_name, *, streaming, revision):
        assert streaming
        state["opened"].append((name, config_name, revision))
        return {split: rows.to_iterable_dataset() for split, rows in data.items()}

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "_revision", lambda name: state["revision"])
    return state | {"state": state, "data": data}


def stream(**kwargs):
    return stream_corpus("some/words", config_name="german", **kwargs)


def test_a_streamed_data_set_is_read_row_by_row(streamed):
    corpus = stream()
    assert streamed["opened"] == [("some/words", "german", "abc")]
    assert corpus.splits == ("train", "validation")
    for _ in range(2):  # each call streams again
        assert list(corpus.documents("train")) == ["eins", "zwei"]
    assert list(corpus.documents("validation")) == ["drei"]
    streamed["state"]["revision"] = "def"
    assert stream().digest != corpus.digest


def test_a_streamed_column_that_is_not_there(streamed):
    with pytest.raises(DataError, match=r"no column 'txt'; .*\['n', 'text'\].*mean 'text'"):
        stream(text_field="txt")
    with pytest.raises(DataError, match="'n' holds int, not text"):
        stream(text_field="n")


def test_a_connection_that_ends_says_how_to_continue(streamed, monkeypatch):
    def broken():
        yield {"text": "eins", "n": 1}
        raise ConnectionError("reset by peer")

    class Rows:
        def __iter__(self):
            return broken()

    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: {"train": Rows(), "validation": Rows()}
    )
    corpus = stream()
    with pytest.raises(OfflineError, match=r"stopped at row 1 of split train: .*Run the same"):
        list(corpus.documents("train"))


def test_a_streamed_data_set_without_the_hub(monkeypatch):
    monkeypatch.setattr(hub, "check_online", lambda kind, name: None)
    monkeypatch.setattr(
        "huggingface_hub.HfApi.dataset_info",
        lambda *_, **__: (_ for _ in ()).throw(OSError("no route")),
    )
    with pytest.raises(OfflineError, match="does not answer"):
        stream()
