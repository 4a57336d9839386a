"""Registration with the Auto classes, each case in a fresh interpreter."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import spikeformers

KNOWN = """
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers import AutoModelForSequenceClassification
config = AutoConfig.for_model("wd_spikingformer")
assert type(config).__name__ == "WDSpikingformerConfig", config
for auto, model_type, name in [
    (AutoModelForCausalLM, "wd_spikingformer", "WDSpikingformerForCausalLM"),
    (AutoModelForMaskedLM, "we_spikingformer", "WESpikingformerForMaskedLM"),
    (
        AutoModelForSequenceClassification,
        "we_spikingformer",
        "WESpikingformerForSequenceClassification",
    ),
]:
    found = auto._model_mapping[type(AutoConfig.for_model(model_type))]
    assert found.__name__ == name, (found, name)
import sys
assert not [f for f in sys.meta_path if type(f).__name__ == "Registrar"], sys.meta_path
"""


def run(code: str) -> str:
    """Run ``code`` in a fresh interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_brings_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'datasets', 'matplotlib'}"
    assert run(f"import spikeformers, sys; print(sorted({heavy} & set(sys.modules)))") == "[]\n"


@pytest.mark.parametrize(
    "first",
    [
        "from transformers import AutoModelForCausalLM; import spikeformers",
        "import spikeformers; from transformers import PreTrainedModel, pipeline",
        *(
            pytest.param(first, marks=pytest.mark.slow)
            for first in (
                "import spikeformers",
                "import spikeformers.models",
                "import transformers, spikeformers",
                "import spikeformers; from transformers import AutoModelForCausalLM",
                "import spikeformers; from transformers import pipeline",
                "import spikeformers.neurons; from transformers import Trainer",
                "from spikeformers.data import make_tokenizer",
                "from spikeformers import train",
                "import spikeformers; spikeformers.WDSpikingformerConfig()",
                "import spikeformers, importlib; importlib.reload(spikeformers)",
            )
        ),
    ],
)
def test_auto_classes_know_the_models_in_any_order_of_imports(first: str) -> None:
    run(f"{first}\n{KNOWN}")


def test_loaders_are_left_as_they_were() -> None:
    code = """
import spikeformers
import transformers.utils.generic as module
assert "exec_module" not in vars(module.__spec__.loader), vars(module.__spec__.loader)
import inspect
print(inspect.getsource(module)[:3])
"""
    assert run(code)


def test_public_names_agree_in_their_three_places() -> None:
    """The lazy table, ``__all__`` and the imports for type checkers name the same things."""
    tree = ast.parse(Path(spikeformers.__file__).read_text(encoding="utf-8"))
    checked = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert checked == {n: f"spikeformers.{room}" for n, room in spikeformers._ROOM_OF.items()}
    assert spikeformers.__all__ == sorted(spikeformers._ROOM_OF)


@pytest.mark.parametrize("name", spikeformers.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(spikeformers, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'spikeformers' has no attribute 'LIFT'"):
        spikeformers.LIFT  # noqa: B018


def test_registration_waits_for_the_outermost_import() -> None:
    """The Auto classes load inside `modeling_utils`, before it defines the base class."""
    code = """
import sys
import spikeformers
seen = []
class Note:
    def find_spec(self, name, path=None, target=None):
        if name == "spikeformers.models":
            seen.append(hasattr(sys.modules["transformers.modeling_utils"], "PreTrainedModel"))
sys.meta_path.insert(0, Note())
from transformers import PreTrainedModel
print("transformers.models.auto.configuration_auto" in sys.modules, seen)
"""
    assert run(code) == "True [True]\n"
