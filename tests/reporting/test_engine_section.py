from __future__ import annotations

import json

from spikeformers.reporting.engine_section import engine_section


def folder_of(tmp_path, name, model_type):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    return folder


def test_a_model_of_the_engine_has_the_commands(tmp_path):
    folder = folder_of(tmp_path, "a run", "wd_spikingformer")
    section = engine_section([folder], prompt="It's")
    assert section.commands == [
        f"spikeformers export engine '{folder}' --out '{tmp_path}/a run.engine'",
        f"spikeformers generate '{tmp_path}/a run.engine' --prompt 'It'\"'\"'s'",
    ]
    assert section.links == ()
    assert section.text.startswith("The engine runs it on a CPU")


def test_a_file_beside_the_page_is_linked(tmp_path):
    folder = folder_of(tmp_path, "run", "gpt_neox")
    section = engine_section([folder], file=tmp_path / "spiking.engine", prompt="x")
    assert section.commands == [f"spikeformers generate {tmp_path}/spiking.engine --prompt x"]
    assert section.links == [("spiking.engine", "Its engine file")]


def test_a_model_that_it_does_not_run_is_told_so(tmp_path):
    folder = folder_of(tmp_path, "images", "spiking_vit")
    section = engine_section([folder])
    assert section.commands == ()
    assert "WD-Spikingformer" in section.text
    assert section.text.endswith("it does not run this model.")


def test_of_several_only_those_that_it_runs_are_listed(tmp_path):
    folders = [folder_of(tmp_path, name, kind) for name, kind in
               (("a", "bispikclm"), ("b", "we_spikingformer"), ("c", "gpt2"))]  # fmt: skip
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_bytes(b"\xff[")
    section = engine_section([*folders, tmp_path / "broken", tmp_path / "none"])
    packed = [line.split()[-1] for line in section.commands if " export " in line]
    assert packed == [f"{tmp_path}/a.engine", f"{tmp_path}/c.engine"]
    assert "runs them" in section.text


def test_nothing_is_said_of_a_preset(tmp_path):
    assert engine_section([tmp_path / "wd-spikingformer-tiny"]) is None
