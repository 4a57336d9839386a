from __future__ import annotations

import os
import subprocess
import sys

import pytest

from spikeformers import kernels

PROMPT = ("--prompt", "the spike ", "--max-new-tokens", 20)


@pytest.mark.parametrize("sampling", [("--temperature", 0), ("--temperature", 1.2, "--top-k", 9)])
def test_a_seed_writes_one_text_in_the_engine(spikeformers, causal, engine_file, sampling):
    """As PyTorch writes it at temperature 0; drawn tokens are the engine's own."""
    arguments = (*PROMPT, *sampling, "--seed", 5, "--json")
    first = causal if sampling == ("--temperature", 0) else engine_file
    expected = spikeformers("generate", first, *arguments).json
    for request in (
        (engine_file,),
        (engine_file, "--engine"),
        (causal, "--engine", "--threads", 2),
    ):
        result = spikeformers("generate", *request, *arguments).json
        for key in ("text", "tokens", "prompt_tokens", "finish_reason", "context"):
            assert result[key] == expected[key]


def test_other_architectures(spikeformers, text, control, tiny, tmp_path):
    """BiSpikCLM as `pretrain` makes it, and a converted model as `convert` does."""
    student, converted = tmp_path / "student", tmp_path / "converted"
    arguments = ("--preset", "bispikclm-tiny", "--data", text, "--tokenizer", "byte")
    sizes = [argument for key in ("hidden_size=16", "num_hidden_layers=2", "num_attention_heads=2")
             for argument in ("--set", key)]  # fmt: skip
    short = ("--set", "context=32", "--set", "batch_size=4", "--set", "steps=3")
    ended = spikeformers("pretrain", *arguments, "--out", student, *sizes, *short)
    assert ended.code == 0, ended.err
    more = ("--steps", 4, "--attention", "ssa", "--calibration-tokens", 128, "--tokens", 64)
    ended = spikeformers("convert", control, "--calibration", text, "--out", converted, *more)
    assert ended.code == 0, ended.err
    for model in (student, converted):
        file = tmp_path / f"{model.name}.engine"
        arguments = ("--prompt", "the spike ", "--max-new-tokens", 12, "--temperature", 0, "--json")
        ended = spikeformers("export", "engine", model, "--out", file, "--weights", "fp32")
        assert ended.code == 0, ended.err
        result = spikeformers("generate", file, *arguments).json
        assert result["text"] == spikeformers("generate", model, *arguments).json["text"]
        timed = spikeformers("bench", "decode", model, "--prompt-tokens", 4, "--new-tokens", 3,
                             "--repeats", 1, "--no-peers", "--json").json  # fmt: skip
        engines = {"engine-int8", "engine-int4", "engine-fp32"}
        twins = {"dense-twin", "engine-int8-dense-twin"}  # both of GPT-2's or GPT-NeoX's shape
        assert set(timed["results"]) == engines | {"pytorch"} | twins
        assert 0 < timed["results"]["engine-int8"]["density"] < 1


def test_nir_files_and_the_list_of_what_they_hold(spikeformers, causal, tmp_path):
    pytest.importorskip("nir")
    folder = tmp_path / "nir"
    result = spikeformers("export", "nir", causal, "--out", folder, "--json").json
    files = {row["file"] for row in result["modules"] if row["file"]}
    assert {path.name for path in folder.iterdir()} == files | {"coverage.json"}
    assert 0 < result["written"] < result["parameters"]
    refused = spikeformers("export", "nir", causal, "--out", folder)
    assert (refused.code, "is not empty" in refused.err) == (2, True)
    printed = spikeformers("export", "nir", causal, "--out", tmp_path / "again")
    assert printed.code == 0, printed.err
    assert "model.layers.1.mlp.up-down.nir" in printed.out
    assert "not written: NIR has no product of two spike trains." in printed.out


def test_stop_strings_and_the_end_of_the_context(spikeformers, causal, engine_file):
    for more in (("--stop", "e"), ("--max-new-tokens", 500), ("--no-stream",)):
        arguments = ("--prompt", "the spike ", "--temperature", 0, *more)
        stopped, other = (
            spikeformers("generate", model, *arguments) for model in (causal, engine_file)
        )
        assert (stopped.code, stopped.out) == (other.code, other.out)


def test_what_is_exported(spikeformers, causal, tmp_path):
    sizes = {}
    for weights in ("fp32", "int8", "int4"):
        out = tmp_path / weights
        ended = spikeformers(
            "export", "engine", causal, "--out", out, "--weights", weights, "--json"
        )
        assert (ended.json["out"], ended.json["weights"]) == (str(out), weights)
        assert ended.json["bytes"] == out.stat().st_size
        sizes[weights] = ended.json["bytes"]
    assert sizes["int8"] < sizes["fp32"]
    assert sizes["int4"] < sizes["fp32"]  # rows of whole blocks: below 64 outputs int8 is smaller
    assert "generate" in spikeformers("export", "engine", causal, "--out", out).out


def test_bad_requests(spikeformers, causal, masked, engine_file, tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    broken.write_bytes(engine_file.read_bytes()[:-1])
    out = ("--out", tmp_path / "x")
    for arguments, code, message in (
        (("export", "engine", masked, *out), 2, "the engine runs WD-Spikingformer"),
        (("export", "engine", causal, *out, "--weights", "int3"), 2, "fp32, int8"),
        (("export", "engine", causal, "--out", tmp_path), 2, "is a folder; name a file"),
        (("generate", broken, *PROMPT), 1, "truncated or damaged"),
        (("generate", tmp_path / "none", "--engine", *PROMPT), 1, "does not exist"),
        (("generate", engine_file, "--prompt", "a" * 99), 2, "longer than the context"),
    ):
        ended = spikeformers(*arguments)
        assert ended.code == code, ended.err
        assert message in ended.err
    monkeypatch.setattr(kernels, "_native", None)
    ended = spikeformers("generate", engine_file, *PROMPT)
    assert ended.code == 1
    assert "compiler" in ended.err


def test_an_engine_file_is_run_without_torch(engine_file):
    """The greedy path: seconds of imports are saved."""
    arguments = ["generate", str(engine_file), "--prompt", "the", "--temperature", "0"]
    code = (
        "import sys\nfrom spikeformers.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'heavy'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
