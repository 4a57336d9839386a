"""What a verb prints as JSON is what its study gives from Python, which prints nothing itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import spikeformers as sf
from spikeformers.errors import UsageError

TIMES = ("seconds", "tokens_per_second")


def plain(value: Any) -> Any:
    """As JSON has it: tuples are lists."""
    return json.loads(json.dumps(value))


@pytest.fixture
def stages() -> Any:
    """A progress callback that notes the stages it hears of, in ``.seen``."""

    def tell(stage: str, done: int, total: int | None) -> None:
        tell.seen.append(stage)  # type: ignore[attr-defined]

    tell.seen = []  # type: ignore[attr-defined]
    return tell


def test_energy(
    spikeformers: Any, causal: Path, text: Path, stages: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--no-measure", "--data", text, "--tokens", 64, "--contexts", "16,64")
    printed = spikeformers("energy", causal, *arguments, "--json").json
    study = sf.measure_energy(causal, str(text), tokens=64, contexts=(16, 64), progress=stages)
    assert plain(study.as_dict()) == printed
    assert {"counting events", "counting events of the twin"} <= set(stages.seen)
    assert capsys.readouterr() == ("", "")
    assert study.positions is None
    drawn = sf.measure_energy(causal, str(text), tokens=64, contexts=(16, 64), spikes=True)
    assert drawn.positions is not None
    assert len(drawn.positions) == printed["context"]
    curve = study.break_even_curve()
    assert curve.measured[0] == pytest.approx(curve.densities[7])  # of the measured events
    assert curve.energies == sorted(curve.energies)


def test_energy_beside_a_trained_twin(
    spikeformers: Any, causal: Path, control: Path, text: Path
) -> None:
    arguments = ("--no-measure", "--data", text, "--tokens", 32, "--price", "tpu7")
    printed = spikeformers("energy", causal, *arguments, "--control", control, "--json").json
    study = sf.measure_energy(causal, str(text), tokens=32, prices="tpu7", control=control)
    assert plain(study.as_dict()) == printed
    assert study.control_weights == str(control)


def test_the_page_and_the_json_file_are_made_of_the_study(
    causal: Path, text: Path, tmp_path: Path
) -> None:
    from spikeformers.reporting import write_energy_report

    study = sf.measure_energy(causal, str(text), tokens=32, contexts=(16,))
    page = write_energy_report(tmp_path, [study])
    assert json.loads((tmp_path / "energy.json").read_text()) == plain(study.as_dict())
    assert f"{study.paper.sop_per_token:,.0f}" in page.read_text()


def test_audit(
    spikeformers: Any, causal: Path, text: Path, stages: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    requirements = ("binary", "softmax-free")
    arguments = [part for each in requirements for part in ("--require", each)]
    ended = spikeformers("audit", causal, "--data", text, "--tokens", 64, *arguments, "--json")
    study = sf.audit_folder(causal, str(text), tokens=64, require=requirements, progress=stages)
    assert plain(study.as_dict()) == ended.json
    assert (ended.code, study.met) == (1, False)
    assert study.short["binary"]
    assert study.short["softmax-free"] == []
    assert "tracing" in stages.seen
    assert capsys.readouterr() == ("", "")


def test_perplexity_and_agreement(
    spikeformers: Any, causal: Path, control: Path, text: Path, stages: Any
) -> None:
    data, short = ("--data", text), ("--tokens", 200, "--json")
    printed = spikeformers("evaluate", "perplexity", causal, *data, *short).json
    study = sf.evaluate_perplexity(causal, str(text), tokens=200, progress=stages)
    assert study.as_dict() == printed
    request = ("evaluate", "agreement", causal, "--reference", control)
    printed = spikeformers(*request, *data, *short).json
    result = sf.evaluate_agreement(causal, control, str(text), tokens=200, progress=stages)
    assert result.as_dict() == printed
    assert {"scoring", "comparing"} <= set(stages.seen)


def test_describe(spikeformers: Any, causal: Path) -> None:
    for model in (str(causal), "bispikclm-tiny"):
        printed = spikeformers("info", model, "--json").json
        assert {"model": model, **plain(sf.describe(model))} == printed
    loaded, _ = sf.load_model(causal)
    assert sf.describe(loaded) == sf.describe(causal)


def test_compare(
    spikeformers: Any, causal: Path, control: Path, text: Path, tmp_path: Path
) -> None:
    arguments = ("--data", text, "--tokens", 64, "--names", "A,B", "--out", tmp_path / "r.html")
    printed = spikeformers("compare", control, causal, *arguments, "--json").json
    result = sf.compare([control, causal], names=("A", "B"), data=str(text), tokens=64)
    ours = plain(result.as_dict())
    for model, its in zip(ours["models"], printed["models"], strict=True):
        assert model["figures"].pop("writing tokens/s") > 0  # measured twice
        assert its["figures"].pop("writing tokens/s") > 0
        assert model == its
    assert ours["differences"] == printed["differences"]
    assert [curve.name for curve in result.curves] == ["A", "B"]


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 1.2, "top_k": 9}])
def test_generate(spikeformers: Any, causal: Path, options: dict[str, Any]) -> None:
    arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
    arguments = [str(part).replace("_", "-") for part in arguments]
    printed = spikeformers(
        "generate",
        causal,
        "--prompt",
        "the ",
        "--max-new-tokens",
        9,
        "--seed",
        3,
        *arguments,
        "--json",
    ).json
    model, tokenizer = sf.load_model(causal)
    pieces: list[str] = []
    written = sf.generate_text(
        model, "the ", tokenizer=tokenizer, max_new_tokens=9, seed=3, show=pieces.append, **options
    )
    ours = written.as_dict()
    assert {k: v for k, v in ours.items() if k not in TIMES} == {
        k: v for k, v in printed.items() if k not in TIMES
    }
    assert "".join(pieces) == written.text
    with pytest.raises(UsageError, match="give tokenizer="):
        sf.generate_text(model, "the ")


def test_the_engine_writes_and_is_timed(spikeformers: Any, causal: Path) -> None:
    pytest.importorskip("spikeformers.kernels._native")
    request = ("--prompt", "the ", "--max-new-tokens", 9, "--temperature", 0)
    printed = spikeformers("generate", causal, "--engine", *request, "--json").json
    engine = sf.open_engine(causal, threads=1)
    written = sf.generate_text(engine, "the ", max_new_tokens=9, temperature=0.0)
    assert (written.text, written.finish_reason) == (printed["text"], printed["finish_reason"])
    few = {"prompt_tokens": 4, "new_tokens": 4, "repeats": 1, "peers": False}
    arguments = [part for key, value in few.items() if key != "peers"
             for part in (f"--{key.replace('_', '-')}", value)]  # fmt: skip
    printed = spikeformers("bench", "decode", causal, *arguments, "--no-peers", "--json").json
    ours = sf.bench_decode(causal, sf.pack, **few).as_dict()
    assert list(ours) == list(printed)
    counted = ("density", "weight_bytes_per_token", "cache_bytes_per_token")
    for name in ("engine-int8", "engine-fp32"):
        for key in counted:
            assert ours["results"][name][key] == printed["results"][name][key]


def test_images(spikeformers: Any, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    from spikeformers.reporting import write_image_page

    run = tmp_path / "run"
    short = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    short |= {"intermediate_size": 32, "model.steps": 2, "steps": 2, "batch_size": 8}
    sets = [part for key, value in short.items() for part in ("--set", f"{key}={value}")]
    arguments = ("--preset", "a2os2a-digits", "--data", "digits", "--out", run)
    assert spikeformers("train-vision", *arguments, *sets, "--set", "device=cpu").code == 0
    printed = spikeformers("evaluate", "vision", run, "--data", "digits", "--images", 16, "--json")
    study = sf.evaluate_images(run, "digits", images=16, energy=True)
    assert plain(study.as_dict()) == printed.json
    assert study.energy is not None
    write_image_page(tmp_path / "page.html", study)
    assert (
        f"{study.energy.picojoules_per_token / 1000:,.1f}" in (tmp_path / "page.html").read_text()
    )
