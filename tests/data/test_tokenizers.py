"""Tokenizers: bytes round-trip, training repeats itself, saving and loading keep everything."""

from __future__ import annotations

import json
import urllib.error

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from spikeformers.data import load_corpus, tokenize_corpus
from spikeformers.data.corpora import Corpus
from spikeformers.data.tokenizers import (
    check_vocabulary,
    load_tokenizer,
    make_tokenizer,
    separator_id,
    tokenizer_digest,
)
from spikeformers.errors import CheckpointError, ConfigError, DataError, OfflineError

WORDS = "the spike of a neuron is the sum of the spikes before the threshold of the neuron. "


def corpus_of(*texts: str) -> Corpus:
    named = [(str(number), text) for number, text in enumerate(texts)]
    return Corpus("words", "0" * 64, {"train": lambda: named}, "not at all")


@pytest.fixture(scope="module", params=["byte", "bpe:290"])
def causal(request) -> PreTrainedTokenizerFast:
    return make_tokenizer(request.param, corpus_of(WORDS * 50))


@pytest.fixture(scope="module", params=["byte", "bpe:290"])
def masked(request) -> PreTrainedTokenizerFast:
    return make_tokenizer(request.param, corpus_of(WORDS * 50), masked=True)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_are_their_own_ids_and_round_trip(text):
    tokenizer = make_tokenizer("byte")
    ids = tokenizer(text)["input_ids"]
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_bpe_round_trips(causal, text):
    assert causal.decode(causal(text)["input_ids"]) == text


def test_bpe_learns_the_words():
    tokenizer = make_tokenizer("bpe:290", corpus_of(WORDS * 50))
    assert len(tokenizer) == 290
    assert tokenizer.tokenize("the neuron") == ["th", "e", "Ġneuron"]
    assert tokenizer.eos_token_id == 288
    assert tokenizer.pad_token_id == 289


def test_bpe_is_deterministic():
    first, second = (make_tokenizer("bpe:290", corpus_of(WORDS * 50)) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    assert tokenizer_digest(first) == tokenizer_digest(second)


def test_bpe_warns_if_the_corpus_is_too_small(caplog):
    tokenizer = make_tokenizer("bpe:5000", corpus_of(WORDS))
    assert 258 < len(tokenizer) < 400
    assert "the corpus has pairs for" in caplog.text


def test_bpe_does_not_see_the_validation_split():
    train = [("0", WORDS * 20)]
    both = {"train": lambda: train, "validation": lambda: [("1", "zzzz qqqq " * 500)]}
    with_validation = make_tokenizer("bpe:290", Corpus("a", "0", both, ""))
    without = make_tokenizer("bpe:290", Corpus("a", "0", {"train": lambda: train}, ""))
    assert with_validation.get_vocab() == without.get_vocab()


def test_causal_roles(causal):
    assert (causal.bos_token, causal.eos_token, causal.pad_token) == (
        "<|endoftext|>",
        "<|endoftext|>",
        "<|pad|>",
    )
    assert separator_id(causal) == causal.eos_token_id
    ids = causal(["a", "the neuron"], padding=True)
    assert ids["input_ids"][0][0] == causal.pad_token_id
    assert set(ids) == {"input_ids", "attention_mask"}


def test_masked_roles(masked):
    ids = masked("a [MASK] c")["input_ids"]
    assert ids[0] == masked.cls_token_id
    assert ids[-1] == masked.sep_token_id
    assert masked.mask_token_id in ids
    assert separator_id(masked) == masked.sep_token_id
    first, _ = masked(["a", "the neuron"], padding=True)["input_ids"]
    assert first[-1] == masked.pad_token_id
    pair = masked("a", "b")["input_ids"]
    assert pair.count(masked.sep_token_id) == 2


def test_the_mask_takes_the_space_with_it_where_tokens_do():
    corpus = corpus_of(WORDS * 50)
    for spec, between in (("byte", [32]), ("bpe:290", [])):
        tokenizer = make_tokenizer(spec, corpus, masked=True)
        mask = tokenizer.mask_token_id
        ids = tokenizer("[MASK] [MASK]", add_special_tokens=False)["input_ids"]
        assert ids == [mask, *between, mask]


@pytest.mark.parametrize("kind", ["causal", "masked"])
@pytest.mark.parametrize("spec", ["byte", "bpe:290"])
def test_saving_and_loading(spec, kind, tmp_path):
    tokenizer = make_tokenizer(spec, corpus_of(WORDS * 50), masked=kind == "masked")
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    assert tokenizer_digest(loaded) == tokenizer_digest(tokenizer)
    assert loaded.padding_side == ("left" if kind == "causal" else "right")
    assert dict(loaded("the größte spike")) == dict(tokenizer("the größte spike"))
    again = make_tokenizer(str(tmp_path), masked=kind == "masked")
    assert tokenizer_digest(again) == tokenizer_digest(tokenizer)


def test_digest_ignores_padding_and_sees_the_vocabulary(causal):
    before = tokenizer_digest(causal)
    causal(["a", "bb"], padding="max_length", max_length=9, truncation=True)
    assert tokenizer_digest(causal) == before
    assert tokenizer_digest(make_tokenizer("bpe:280", corpus_of(WORDS * 50))) != before


def test_shared_gpt2(shared_data):
    tokenizer = make_tokenizer(str(shared_data / "tokenizers" / "gpt2"))
    assert tokenizer("Hello world")["input_ids"] == [15496, 995]
    assert tokenizer.eos_token_id == 50256
    assert tokenizer.pad_token_id == 50257
    assert len(tokenizer) == 50258


def test_shared_bert(shared_data):
    folder = str(shared_data / "tokenizers" / "bert")
    tokenizer = make_tokenizer(folder, masked=True)
    assert tokenizer("Hello world")["input_ids"] == [101, 7592, 2088, 102]  # no fixed padding
    assert len(tokenizer("a " * 300)["input_ids"]) == 302  # no fixed truncation
    assert len(tokenizer) == 30522
    causal = make_tokenizer(folder)
    assert causal("Hello world")["input_ids"] == [7592, 2088]
    assert causal.eos_token == "[SEP]"
    assert causal.pad_token == "[PAD]"
    assert len(causal) == 30522


def test_shared_neox(shared_data):
    tokenizer = make_tokenizer(str(shared_data / "tokenizers" / "neox"))
    assert tokenizer("Hello world")["input_ids"] == [12092, 1533]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|padding|>")
    assert len(tokenizer) == 50277


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bpe", "needs a vocabulary size, as in bpe:4096"),
        ("bpe:many", "needs a vocabulary size"),
        ("bpe:100", "256 bytes and 2 special tokens need 258"),
        ("./nowhere", "no such folder"),
    ],
)
def test_bad_specs(spec, message):
    with pytest.raises(ConfigError, match=message):
        make_tokenizer(spec, corpus_of(WORDS))


def test_bpe_without_a_corpus():
    with pytest.raises(ConfigError, match="none was given"):
        make_tokenizer("bpe:290")


def test_folder_without_a_tokenizer(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match=r"no tokenizer in .* found \['notes.txt'\]"):
        make_tokenizer(str(tmp_path))


@pytest.mark.parametrize("content", ["{", json.dumps({"model": {"type": "none"}})])
def test_damaged_tokenizer_file(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        make_tokenizer(str(tmp_path))


def test_hub_name_offline(monkeypatch):
    with pytest.raises(OfflineError, match="some-tokenizer"):  # the test session is offline
        make_tokenizer("nobody/some-tokenizer")

    def unreachable(url, timeout):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("HF_DATASETS_OFFLINE")
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(OfflineError, match=r"does not answer .*Name or service not known"):
        make_tokenizer("nobody/some-tokenizer")


def test_no_separator():
    backend = make_tokenizer("byte").backend_tokenizer
    with pytest.raises(ConfigError, match="neither an eos nor a sep"):
        separator_id(PreTrainedTokenizerFast(tokenizer_object=backend))


def saved(folder, spec="byte"):
    make_tokenizer(spec).save_pretrained(folder)
    return folder


def change_rules(folder, **changes):
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_tokenizer_of_an_unknown_kind_is_one_line(tmp_path):
    change_rules(saved(tmp_path), pre_tokenizer={"type": "SomethingNewer"})
    with pytest.raises(CheckpointError, match="PreTokenizer") as raised:
        load_tokenizer(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path}: the tokenizer cannot be read: ")
    assert "\n" not in str(raised.value)
    with pytest.raises(ConfigError, match=r"cannot be read: .*PreTokenizer"):
        make_tokenizer(str(tmp_path))


def test_damage_that_only_shows_in_use_is_found_on_opening(tmp_path):
    config = saved(tmp_path) / "tokenizer_config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"model_max_length": {}}))
    with pytest.raises(CheckpointError, match="the tokenizer cannot be read"):
        load_tokenizer(tmp_path)


def test_a_panic_is_an_error_as_well(tmp_path, capfd):
    post = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[Y]": {"id": "[Y]", "ids": [1], "tokens": ["[Y]"]}},
    }  # fmt: skip
    change_rules(saved(tmp_path), post_processor=post)
    with pytest.raises(CheckpointError, match="the tokenizer cannot be read"):
        load_tokenizer(tmp_path)
    assert "panicked" not in capfd.readouterr().err


def test_opening_leaves_the_rules_as_they_are(tmp_path):
    made = make_tokenizer("byte")
    assert tokenizer_digest(load_tokenizer(saved(tmp_path))) == tokenizer_digest(made)


def test_tokens_that_a_model_lacks(tmp_path):
    tokenizer = load_tokenizer(saved(tmp_path))
    rows = len(tokenizer)
    check_vocabulary(tokenizer, rows, "x")
    with pytest.raises(
        CheckpointError, match=r"^x: its tokenizer has the token 257, .* 257 tokens"
    ):
        check_vocabulary(tokenizer, rows - 1, "x")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<spare>"]})
    assert len(tokenizer) == rows + 1
    check_vocabulary(tokenizer, rows, "x")  # no text becomes it


def test_text_that_a_vocabulary_cannot_spell_is_a_data_error(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"spike": 0, "</s>": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    (tmp_path / "a.txt").write_text("spike neuron\n" * 9)
    with pytest.raises(DataError, match=r"cannot encode the text of a\.txt: .*\[UNK\]"):
        tokenize_corpus(load_corpus(tmp_path / "a.txt"), tokenizer, tmp_path / "cache")
