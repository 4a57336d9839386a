"""Each of the four methods from Python, through the names of the package alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import spikeformers as sf
from spikeformers.errors import ConfigError

TINY = {
    **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"max_position_embeddings": 32},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Tokens of a small text, and their tokenizer."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("the quick brown fox jumps over the lazy dog.\n\n" * 60)
    corpus = sf.load_corpus(file)
    tokenizer = sf.make_tokenizer("byte", corpus)
    return sf.tokenize_corpus(corpus, tokenizer), tokenizer


def model_of(preset: str, text: tuple[Any, Any], *, dense: bool = False) -> Any:
    torch.manual_seed(0)
    config = sf.build_config(preset, len(text[1]), TINY)
    return sf.build_model(sf.control_of(config, "learned") if dense else config)


def config_of(**more: Any) -> sf.TrainConfig:
    return sf.TrainConfig(steps=3, batch_size=2, context=16, threads=1, eval_every=3, **more)


def test_a_model_is_trained_audited_counted_and_run_by_the_engine(
    text: tuple[Any, Any], tmp_path: Path
) -> None:
    from spikeformers.engine import write

    model = model_of("wd-spikingformer-tiny", text)
    result = sf.train(model, *text, tmp_path / "run", config_of(), progress=False)
    assert result.steps == 3
    model, tokenizer = sf.load_model(tmp_path / "run")
    ids = torch.tensor([tokenizer("the quick brown").input_ids])
    assert sf.audit(model, [ids]).failures("softmax-free") == []
    assert 0 < sf.energy_of(model, [ids]).density < 1
    bits = sf.perplexity(model, tokenizer, text[0].split("validation"), context=16).bits_per_byte
    assert 3 < bits < 10
    write(sf.pack(model, tokenizer, "fp32"), tmp_path / "model.engine")
    engine = sf.load_engine(tmp_path / "model.engine", threads=1)
    greedy = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=-1)
    assert list(engine.generate(ids[0].tolist(), 5)) == greedy[0, ids.shape[1] :].tolist()


def test_a_student_is_distilled_from_a_teacher(text: tuple[Any, Any], tmp_path: Path) -> None:
    teacher = model_of("wd-spikingformer-tiny", text, dense=True).eval()
    student = model_of("bispikclm-tiny", text)
    before = student.lm_head.weight.detach().clone()
    result = sf.distill(
        student, teacher, *text, tmp_path / "run", config_of(), spad=sf.SpADConfig(tau=4.0),
        progress=False,
    )  # fmt: skip
    assert result.steps == 3
    assert {"teacher_agreement", "teacher_kl"} <= result.final_validation.keys()
    assert not torch.equal(before, student.lm_head.weight)
    agreed = sf.agreement(student, teacher, text[0].split("validation"), context=16, max_tokens=64)
    assert 0 <= agreed.agreement <= 1


def test_a_student_of_other_tokens_is_refused(text: tuple[Any, Any], tmp_path: Path) -> None:
    teacher = sf.build_model(sf.control_of(sf.build_config("wd-spikingformer-tiny", 99, TINY)))
    with pytest.raises(ConfigError, match="and the teacher 99"):
        sf.distill(model_of("bispikclm-tiny", text), teacher, *text, tmp_path / "x", config_of())
    assert not (tmp_path / "x").exists()


def test_a_dense_model_is_converted(text: tuple[Any, Any], tmp_path: Path) -> None:
    dense = model_of("wd-spikingformer-tiny", text, dense=True).eval()
    windows = sf.calibration_windows(text[0].split("train"), 16, 64)
    plan = sf.make_plan(dense, steps=8, code="phase", attention="kept")
    spiking = sf.convert(dense, text[1], windows, plan, tmp_path / "spiking").model
    assert type(spiking) is sf.NeurTransformerForCausalLM
    with torch.no_grad():
        difference = (spiking(windows).logits - dense(windows).logits).abs().max()
    assert difference < 0.05


def test_images_are_classified(tmp_path: Path) -> None:
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    model = sf.build_model(sf.build_vision_config("a2os2a-digits", small)).eval()
    batch = {"pixel_values": torch.rand(4, 1, 8, 8), "labels": torch.tensor([0, 1, 2, 3])}
    report = sf.classify(model, [batch], [str(digit) for digit in range(10)])
    assert report.images == 4
    assert sf.control_of(model.config).model_type == "vit"


def test_a_run_is_measured_from_its_folder(text: tuple[Any, Any], tmp_path: Path) -> None:
    model, folder = model_of("wd-spikingformer-tiny", text), tmp_path / "run"
    sf.train(model, *text, folder, config_of(), progress=False)
    words = tmp_path / "words.txt"
    words.write_text("the quick brown fox jumps over the lazy dog.\n\n" * 60)
    source = sf.read_input(folder, str(words), tokens=32)
    study = sf.measure_energy(folder, str(words), tokens=32, contexts=(16,))
    assert study.paper.as_dict() == sf.energy_of(source.model, source.batches).as_dict()
    audited = sf.audit_folder(folder, str(words), tokens=32, require=["softmax-free"])
    assert audited.met
    figures = sf.evaluate_perplexity(folder, str(words), tokens=32).report
    assert figures.bits_per_byte is not None
    written = sf.generate_text(source.model, "the ", tokenizer=source.tokenizer, max_new_tokens=3)
    assert written.tokens <= 3
    assert sf.describe(folder)["parameters"] == source.model.num_parameters()


def test_zeroshot_asks_for_known_tasks() -> None:
    pytest.importorskip("lm_eval")
    with pytest.raises(ConfigError, match="Did you mean 'arc_easy'"):
        sf.evaluate_zeroshot(None, None, ["arc_eazy"])


WITHOUT_EXTRAS = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in set(sys.argv[1].split(",")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import spikeformers

for name in sys.argv[2].split(","):
    getattr(spikeformers, name)
print("imported")
"""


def test_every_name_of_the_package_is_there_without_its_extras() -> None:
    """But the server's: what needs an extra imports it when it is called."""
    extras = "lm_eval,fastapi,uvicorn,prometheus_client,snntorch,kornia"
    names = ",".join(sorted(set(sf.__all__) - {"serve", "__version__"}))
    command = [sys.executable, "-c", WITHOUT_EXTRAS, extras, names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "imported\n", done.stderr
