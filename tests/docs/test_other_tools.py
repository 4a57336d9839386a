"""The Python of docs/other-tools.md, block by block, on a spiking model and on a converted one."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spikeformers.models import load_model

from .blocks import ROOT, blocks
from .conftest import Workspace

PAGE = "docs/other-tools.md"
TO_ONE_STEP_OF_EQUAL_TEXTS = {
    '"Silence costs nothing."': '"A neuron fires at its threshold."',
    "max_length=64": "max_length=16",
    "max_steps=4": "max_steps=1, bf16=False",
}
PYTHON = [block.text for block in blocks() if (block.page, block.language) == (PAGE, "python")]
CALLS = {"peft": "get_peft_model", "trl": "SFTConfig(", "snntorch": "from_snntorch", "nir": "nir."}
"""The package that a block needs -> what it calls."""


def block_of(package: str) -> str:
    """The only block that calls the package's function."""
    (text,) = (text for text in PYTHON if CALLS[package] in text)
    pytest.importorskip(package)
    return text


def test_each_block_is_run_here() -> None:
    assert len(PYTHON) == len(CALLS)
    for call in CALLS.values():
        assert sum(call in text for text in PYTHON) == 1


def run(text: str, **replaced: str) -> dict[str, Any]:
    for old, new in replaced.items():
        text = text.replace(old.replace("_", "/"), new)
    names: dict[str, Any] = {}
    exec(compile(text, PAGE, "exec"), names)
    return names


@pytest.mark.parametrize(
    "folder", ["runs/mine", pytest.param("runs/spiking", marks=pytest.mark.slow)]
)
def test_peft_adapts_and_merges(workspace: Workspace, inside: Path, folder: str) -> None:
    torch = importlib.import_module("torch")
    text = block_of("peft")
    workspace.need(folder)
    names = run(text, runs_mine=folder)
    merged = names["merged"].eval()
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    assert merged(input_ids=torch.arange(6)[None]).logits.isfinite().all()


def test_a_neuron_of_snntorch_is_registered_and_runs(inside: Path) -> None:
    torch = importlib.import_module("torch")
    model = run(block_of("snntorch"))["model"]
    assert model(input_ids=torch.arange(6)[None]).logits.shape == (1, 6, 256)


def test_nir_files_are_read_by_snntorch(workspace: Workspace, inside: Path) -> None:
    torch = importlib.import_module("torch")
    text = block_of("nir")
    pytest.importorskip("nirtorch")
    pytest.importorskip("snntorch")
    workspace.need("mine-nir")
    (path,) = [part for part in text.split('"') if part.endswith(".nir")]
    assert Path(path).is_file()
    assert run(text)["network"](torch.ones(1, 32))[0].shape[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["runs/mine", "runs/spiking"])
@pytest.mark.parametrize("lora", [False, True])
def test_trl_tunes_by_the_model_s_loss(
    workspace: Workspace, inside: Path, folder: str, lora: bool
) -> None:
    text = block_of("trl")
    pytest.importorskip("accelerate")
    workspace.need(folder)
    if lora:
        peft = pytest.importorskip("peft")
        adapter = "LoraConfig(r=2, target_modules=['query', 'value', 'up', 'down'])"
        end = "processing_class=tokenizer)"
        assert end in text
        text = text.replace(end, f"{end[:-1]}, peft_config={adapter})")
        text = f"from peft import LoraConfig\n{text}"
        assert peft
    for old, new in TO_ONE_STEP_OF_EQUAL_TEXTS.items():
        assert old in text
        text = text.replace(old, new)
    names = run(text.replace("runs/tuned", "out/tuned"), runs_mine=folder)
    (loss,) = [
        row["train_loss"] for row in names["trainer"].state.log_history if "train_loss" in row
    ]
    model = load_model(folder)[0].train()
    ids = names["tokenizer"]("A neuron fires at its threshold.", return_tensors="pt").input_ids
    ids = ids[:, :16].expand(2, -1)
    assert loss == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), rel=1e-5)
    assert list(Path("out/tuned").glob("*.safetensors"))


@pytest.mark.slow
def test_accelerate_launches_the_example(workspace: Workspace, inside: Path) -> None:
    pytest.importorskip("accelerate")
    (line,) = [
        line
        for block in blocks()
        if block.page == PAGE
        for line in block.text.splitlines()
        if line.startswith("accelerate launch")
    ]
    workspace.need("my_texts/")
    command = line.replace("examples/", f"{ROOT}/examples/").split()[1:]
    toy = ["--steps", "2", "--batch-size", "2", "--context", "16", "--windows", "8"]
    ended = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.accelerate_cli", *command, *toy,
         "--data", "my_texts"],
        env=os.environ | {"SPIKEFORMERS_CACHE": str(inside / "cache")},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "held out" in ended.stdout
