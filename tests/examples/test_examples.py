"""Every script of examples/ runs at toy size in an empty folder and prints plausible values."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spikeformers import build_config, build_model, make_tokenizer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TOY = ["--steps", "2", "--batch-size", "2", "--context", "16"]
SENTENCE = "A neuron adds its input to its membrane and fires at the threshold. "


def run(name: str, folder: Path, *arguments: str, code: int = 0) -> list[str]:
    """Lines that an example prints on a small text in ``folder``, if it ends with ``code``."""
    texts = folder / "texts"
    texts.mkdir()
    for number in range(60):
        (texts / f"{number:02}.txt").write_text(f"Text {number}. " + SENTENCE * 6)
    ended = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", "--data", "texts", *arguments],
        cwd=folder,
        env=os.environ | {"SPIKEFORMERS_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == code, ended.stderr
    return ended.stdout.splitlines()


def value(lines: list[str], label: str) -> str:
    """What follows a label at the beginning of exactly one line."""
    (line,) = (line for line in lines if line.startswith(label))
    return line.removeprefix(label).strip()


def numbers(text: str) -> list[float]:
    return [float(each) for each in re.findall(r"\d+(?:\.\d+)?", text)]


def test_an_own_neuron_trains_and_its_products_need_only_additions(tmp_path: Path) -> None:
    lines = run("own_neuron", tmp_path, *TOY, "--tokens", "64")
    assert 4 < float(value(lines, "quality").split()[0]) < 12  # 8 bits: all bytes equally likely
    low, high, layers = numbers(value(lines, "leaks"))
    assert 0 < low <= high < 1
    assert layers == 4 * 6 + 1
    assert 0 < numbers(value(lines, "density"))[0] < 1
    spiking, dense = numbers(value(lines, "energy"))
    assert 0 < spiking < dense
    assert value(lines, "products") == "32 in the blocks: binary"


def test_an_own_attention_decodes_with_a_cache_and_keeps_both_claims(tmp_path: Path) -> None:
    lines = run("own_attention", tmp_path, *TOY)
    assert 4 < float(value(lines, "quality").split()[0]) < 12
    assert value(lines, "with a cache") == "the same tokens"
    assert value(lines, "softmax-free") == "0 violations"
    assert value(lines, "binary") == "0 violations"


def test_transformers_trainer_reduces_the_loss_of_a_spiking_model(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    lines = run("transformers_trainer", tmp_path, *TOY, "--steps", "12", "--windows", "40")
    first, last = numbers(value(lines, "loss"))
    assert last < first
    assert 0 < numbers(value(lines, "held out"))[0] < first
    assert 0 < numbers(value(lines, "density"))[0] < 1
    assert value(lines, "sample")


@pytest.mark.parametrize("architecture", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def test_a_converted_model_keeps_its_perplexity_with_many_levels(
    tmp_path: Path, architecture: str
) -> None:
    sizes = ("--width", "16", "--layers", "1", "--tokens", "128", "--T", "8", "2")
    lines = run("convert_a_model", tmp_path, *TOY, *sizes, "--architecture", architecture)
    (dense,) = numbers(value(lines, f"dense {architecture:9} perplexity"))
    (fine,) = numbers(value(lines, "spiking, T = 8  perplexity"))
    (coarse,) = numbers(value(lines, "spiking, T = 2  perplexity"))
    assert 100 < dense < 400  # an untrained model of 256 bytes and some special tokens
    assert fine == pytest.approx(dense, rel=1e-3)
    assert abs(coarse - dense) > abs(fine - dense)


def test_energy_and_audit_stand_beside_the_twin_and_meet_the_claims(tmp_path: Path) -> None:
    lines = run("energy_and_audit", tmp_path, "--tokens", "64", "--context", "16")
    spiking, dense = numbers(value(lines, "papers' sum"))
    assert 0 < spiking < dense
    ratio, *widths = numbers(value(lines, "full estimate"))
    assert 0 < ratio < 1
    assert widths == [8, 16]
    densities = [float(line.split()[0]) for line in lines if line.startswith("0.")]
    assert len(densities) == 3
    assert densities == sorted(densities, reverse=True)
    assert densities[0] >= numbers(value(lines, "density"))[0]
    assert value(lines, "softmax-free") == value(lines, "addition-only") == "met"


def test_an_unmet_claim_of_a_model_folder_is_named_and_ends_with_exit_code_1(
    tmp_path: Path,
) -> None:
    tokenizer = make_tokenizer("byte", None)
    shape = {"attention": "softmax", "num_hidden_layers": 1, "max_position_embeddings": 16}
    build_model(build_config("wd-spikingformer-tiny", len(tokenizer), shape)).save_pretrained(
        tmp_path / "model"
    )
    tokenizer.save_pretrained(tmp_path / "model")
    sizes = ("--model", "model", "--tokens", "32", "--context", "16")
    lines = run("energy_and_audit", tmp_path, *sizes, code=1)
    assert value(lines, "softmax-free") == "violated by model.layers.0.attention.core"
    assert value(lines, "addition-only") == "met"


def test_the_engine_reads_a_part_of_the_weights_and_names_winners(tmp_path: Path) -> None:
    lines = run("engine_from_python", tmp_path, *TOY, "--new-tokens", "5", "--prompt", "A neuron")
    assert 0.5 < numbers(value(lines, "file"))[0] < 2
    share, tokens = numbers(value(lines, "read"))
    assert 0 < share < 1
    assert tokens == len("A neuron") + 5 - 1  # the last token is not read
    fired, neurons = numbers(value(lines, "token"))
    assert 0 < fired < neurons
    for layer in range(4):
        bytes_read, *winners = numbers(value(lines, f"layer {layer}"))
        assert bytes_read > 0
        assert len(winners) == 4
        assert all(winner < len("A neuron") for winner in winners)


def test_every_example_is_short_tested_here_and_listed_in_the_docs() -> None:
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert len(scripts) == 6
    here = Path(__file__).read_text()
    listed = (ROOT / "docs" / "examples.md").read_text()
    for script in scripts:
        assert len(script.read_text().splitlines()) < 60, script.name
        assert f'run("{script.stem}", tmp_path' in here
        assert f"| `{script.name}` |" in listed
