from __future__ import annotations

import pytest

from spikeformers.energy import audit
from spikeformers.models import load_model


def run(spikeformers, model, text, *more):
    return spikeformers("audit", model, "--data", text, "--tokens", 64, *more)


def test_the_table_folds_layers_and_says_how_much_it_saw(spikeformers, causal, text):
    ended = run(spikeformers, causal, text)
    assert ended.code == 0
    (query,) = [line.split() for line in ended.out.splitlines() if "attention.query" in line]
    assert query[:4] == ["attention.query", "product", "signed", "integer"]
    assert query[-4:] == ["x", "weights", "adder", "2"]
    assert "In the blocks: model.layers.*" in ended.out
    assert "Outside the blocks" in ended.out
    assert "multiplications by spikes or powers of two (--all)" in ended.out
    assert "traced on 64 tokens of text, validation: evidence from this run" in ended.out


def test_all_of_it(spikeformers, causal, text):
    out = run(spikeformers, causal, text, "--all").out
    for layer in range(2):
        assert f"model.layers.{layer}.attention.query " in out
    assert "mul_" in out
    assert "(--all)" not in out


def test_json_is_the_report(spikeformers, causal, text):
    from spikeformers.data import load_corpus, tokenize_corpus
    from spikeformers.studies import windows_of

    model, tokenizer = load_model(causal)
    split = tokenize_corpus(load_corpus(text), tokenizer).split("validation")
    report = audit(model, windows_of(split, 32, 64, batch_size=1))
    result = run(spikeformers, causal, text, "--json", "--require", "softmax-free").json
    expected = report.as_dict()
    assert {key: result[key] for key in expected} == expected
    assert result["required"] == {"scope": "blocks", "strict": False, "softmax-free": []}
    assert (result["context"], result["split"]) == (32, "validation")


def test_requirements_that_are_met(spikeformers, causal, text):
    arguments = ("--require", "addition-only", "--require", "softmax-free")
    ended = run(spikeformers, causal, text, *arguments, "--scope", "model")
    assert (ended.code, ended.err.strip()) == (0, "")


def test_a_requirement_that_is_not_met(spikeformers, causal, text):
    ended = run(spikeformers, causal, text, "--require", "binary", "--require", "softmax-free")
    assert ended.code == 1
    assert "In the blocks" in ended.out
    assert "falls short, in its blocks, of binary: model.layers.*.attention.query" in ended.err
    assert "softmax-free" not in ended.err
    assert "lm_head" not in ended.err


def test_strict_names_the_norms(spikeformers, causal, text):
    ended = run(spikeformers, causal, text, "--require", "addition-only", "--strict")
    assert ended.code == 1
    assert "of strict addition-only: " in ended.err
    assert "model.layers.*.attention.fire_in.norm (normalisation, real) x2" in ended.err


@pytest.mark.parametrize("requirement", ["binary", "addition-only", "softmax-free"])
def test_a_dense_model_meets_nothing(spikeformers, control, text, requirement):
    ended = run(spikeformers, control, text, "--require", requirement, "--json")
    assert ended.code == 1
    assert len(ended.json["required"][requirement]) >= 2
    assert f"of {requirement}: " in ended.err


def test_a_masked_model(spikeformers, masked, text):
    assert run(spikeformers, masked, text, "--require", "addition-only").code == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--require", "binry"), "Did you mean 'binary'?"),
        (("--require", "binary", "--scope", "blocs"), "Did you mean 'blocks'?"),
        (("--strict",), "strict sharpens"),
        (("--require", "softmax-free", "--strict"), "strict sharpens"),
    ],
)
def test_wrong_requests(spikeformers, causal, text, given, message):
    ended = run(spikeformers, causal, text, *given)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
