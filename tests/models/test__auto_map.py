"""Saved folders in programs that never import spikeformers: trust_remote_code is enough."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from spikeformers.models import (
    BiSpikCLMConfig,
    NeurTransformerConfig,
    SpikingViTConfig,
    SpikingViTForImageClassification,
    WDSpikingformerConfig,
    WESpikingformerConfig,
    load_model,
    load_vision_model,
)

Make = Callable[..., Any]
CONFIGS = (
    BiSpikCLMConfig,
    NeurTransformerConfig,
    SpikingViTConfig,
    WDSpikingformerConfig,
    WESpikingformerConfig,
)
HEADS = {
    "wd": "AutoModelForCausalLM",
    "bispikclm": "AutoModelForCausalLM",
    "gpt2": "AutoModelForCausalLM",
    "llama": "AutoModelForCausalLM",
    "we": "AutoModelForMaskedLM",
    "we-classifier": "AutoModelForSequenceClassification",
    "vit": "AutoModelForImageClassification",
}
TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {rows}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{context}}}}"
doc_to_target: gold
doc_to_choice: choices
metric_list:
  - metric: acc
"""


@pytest.fixture(scope="module")
def folders(
    make_family: Make, byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A saved model of every family and head, each in a folder of its name."""
    root = tmp_path_factory.mktemp("folders")
    for kind in HEADS:
        if kind == "vit":
            torch.manual_seed(0)
            shape = {"image_size": 8, "num_channels": 1, "hidden_size": 16, "sps_stages": 2}
            config = SpikingViTConfig(
                **shape, sps_pools=1, num_attention_heads=2, num_hidden_layers=1, num_labels=3
            )
            images = SpikingViTForImageClassification(config).eval()
            with torch.no_grad():
                for parameter in images.parameters():
                    parameter += 0.5 * torch.randn_like(parameter)
            images.save_pretrained(root / kind)
            continue
        sizes: dict[str, Any] = {} if kind in ("gpt2", "llama") else {"vocab_size": 259}
        model = make_family(kind, tied=True, dtype=torch.float32, **sizes)
        model.resize_token_embeddings(259)
        model.save_pretrained(root / kind)
        byte_tokenizer.save_pretrained(root / kind)
    return root


def run(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """``code`` in a fresh interpreter, whose cache of modules is empty."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"HF_HOME": str(tmp_path)},
    )


def test_the_file_holds_imports_and_nothing_else(folders: Path) -> None:
    for kind, auto in HEADS.items():
        auto_map = json.loads((folders / kind / "config.json").read_text())["auto_map"]
        assert {"AutoConfig", auto} <= set(auto_map)
        modules = {value.split(".")[0] for value in auto_map.values()}
        assert modules == {"modeling_spikeformers"}
        assert [file.name for file in (folders / kind).glob("*.py")] == ["modeling_spikeformers.py"]
        tree = ast.parse((folders / kind / "modeling_spikeformers.py").read_text())
        text, imports = tree.body
        assert isinstance(text, ast.Expr)
        assert isinstance(text.value, ast.Constant)
        assert isinstance(imports, ast.ImportFrom)
        assert (imports.module, imports.level) == ("spikeformers.models", 0)
        names = {alias.name for alias in imports.names}
        assert names == {value.split(".")[1] for value in auto_map.values()}


@pytest.mark.parametrize("config", CONFIGS)
def test_the_map_names_classes_that_are_registered(config: Any) -> None:
    import transformers

    assert config.auto_classes
    for auto, name in config.auto_classes.items():
        assert getattr(transformers, auto)._model_mapping[config].__name__ == name


def test_a_config_class_of_someone_else_is_not_in_the_package(tmp_path: Path) -> None:
    class Mine(WDSpikingformerConfig):
        model_type = "mine"

    Mine().save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_any_program_loads_every_family_and_head(folders: Path, tmp_path: Path) -> None:
    """The package is not imported before; logits are those of the registered classes."""
    expected: dict[str, list[float]] = {}
    tokens = torch.arange(7)[None]
    for kind in HEADS:
        with torch.no_grad():
            if kind == "vit":
                out = load_vision_model(folders / kind)(pixel_values=torch.ones(1, 1, 8, 8))
            else:
                out = load_model(folders / kind)[0](input_ids=tokens)
        expected[kind] = out.logits.flatten()[:5].tolist()
        assert len(set(expected[kind])) > 1
    code = f"""
import json, sys, torch, transformers
found = {{}}
try:
    transformers.AutoModelForCausalLM.from_pretrained({str(folders / "wd")!r})
except ValueError as error:
    found["without trust"] = str(error).splitlines()[-1]
assert "spikeformers" not in sys.modules
for kind, auto in {HEADS!r}.items():
    folder = {str(folders)!r} + "/" + kind
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()
    inputs = {{"input_ids": torch.arange(7)[None]}}
    if kind == "vit":
        inputs = {{"pixel_values": torch.ones(1, 1, 8, 8)}}
    else:
        transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        found[kind] = model(**inputs).logits.flatten()[:5].tolist()
    model.save_pretrained("{tmp_path}/again-" + kind)
pipe = transformers.pipeline("text-generation", model="{folders}/llama", trust_remote_code=True)
text = pipe("spike", max_new_tokens=3, do_sample=False)[0]["generated_text"]
found["pipeline"] = text.startswith("spike")
print("\\n" + json.dumps(found))
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "Please pass the argument `trust_remote_code=True`" in loaded.pop("without trust")
    assert loaded.pop("pipeline")
    assert loaded == expected
    for kind in HEADS:  # what is saved there is what is saved here, and no source of the package
        again = tmp_path / f"again-{kind}"
        assert [file.name for file in again.glob("*.py")] == ["modeling_spikeformers.py"]
        ours = json.loads((folders / kind / "config.json").read_text())["auto_map"]
        assert json.loads((again / "config.json").read_text())["auto_map"] == ours


def test_without_the_package_the_message_names_it(folders: Path, tmp_path: Path) -> None:
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "spikeformers":
            raise ModuleNotFoundError(f"No module named {{name!r}}")
sys.meta_path.insert(0, Missing())
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained({str(folders / "gpt2")!r}, trust_remote_code=True)
"""
    done = run(code, tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "packages that were not found in your environment: spikeformers." in last
    assert "pip install spikeformers" in last


@pytest.mark.parametrize("trust", [None, False, True])
def test_where_the_package_was_imported_the_file_is_never_run(
    make_family: Make, byte_tokenizer: Any, tmp_path: Path, trust: bool | None
) -> None:
    """No question, no flag, and no code of the folder's, whatever stands in it."""
    make_family("wd", vocab_size=259, dtype=torch.float32).save_pretrained(tmp_path)
    byte_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "modeling_spikeformers.py").write_text("raise SystemExit('it was run')\n")
    config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=trust)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=trust)
    assert type(config) is WDSpikingformerConfig
    assert type(model).__module__ == "spikeformers.models.wd_spikingformer"
    again: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
    assert type(again) is type(model)
    assert type(load_model(tmp_path)[0]) is type(model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wd", "llama"])
def test_the_command_of_the_harness(folders: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("lm_eval")
    rows = tmp_path / "rows.jsonl"
    docs = [{"context": "the spike", "choices": [" wins", " is quiet"], "gold": i % 2} for i in
            range(4)]  # fmt: skip
    rows.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/tiny.yaml").write_text(TASK.format(rows=rows))

    def harness(more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(sys.executable, "-m", "lm_eval", "--model", "hf", "--tasks", "tiny_choice"),
                *("--model_args", f"pretrained={folders / kind}{more}", "--device", "cpu"),
                *("--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path)),
            ],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"HF_HOME": str(tmp_path / "home")},
        )

    done = harness(",trust_remote_code=True")
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("**/results_*.json")
    assert json.loads(file.read_text())["results"]["tiny_choice"]["acc,none"] == 0.5
    if kind == "wd":
        without = harness("")
        assert without.returncode != 0
        assert "trust_remote_code=True" in without.stderr.splitlines()[-1]
