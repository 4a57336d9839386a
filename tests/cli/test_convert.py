"""`convert` and `finetune-attention` from the command line, and what they refuse."""

import json

import pytest

from spikeformers.models import load_model

TOKENS = ("--calibration-tokens", 128, "--tokens", 256, "--context", 16)


@pytest.fixture
def converted(spikeformers, control, text, tmp_path):
    """A tiny GPT-NeoX twin, converted; the folder."""
    out = tmp_path / "spiking"
    arguments = ("--calibration", text, "--steps", 4, "--attention", "cwssa", "--out", out, *TOKENS)
    ended = spikeformers("convert", control, *arguments)
    assert ended.code == 0, ended.err
    return out, ended


def test_plan_report_and_model(converted, spikeformers):
    out, ended = converted
    message = " ".join(ended.err.split())
    assert "2 x GPTNeoXAttention -> SpikingSelfAttention: CWSSA, one winner" in message
    assert "2 x GPTNeoXMLP -> SpikingFeedForward: signed IF pairs around gelu, T = 4" in message
    assert message.index("SpikingFeedForward") < message.index("report")  # the plan comes first
    assert "perplexity, per token" in ended.out
    report = json.loads((out / "report.json").read_text())
    assert [layer["part"] for layer in report["layers"]] == ["attention", "mlp"] * 2
    assert report["left_dense"] == []
    assert 0 < report["agreement"]["agreement"] <= 1
    ours, theirs = report["spiking"]["energy"], report["original"]["energy"]
    assert ours["papers"] < theirs["papers"]
    assert theirs["density"] is None
    assert sorted(path.name for path in (out / "pictures").iterdir()) == [
        *("energy.png", "errors.png", "rates.png"),
    ]
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "model.layers" in page or "gpt_neox.layers.0.mlp" in page
    assert not (out / "conversion").exists()
    assert load_model(out)[0].config.model_type == "neurtransformer"
    for verb in (
        ("info", out),
        ("generate", out, "--prompt", "the ", "--max-new-tokens", 3),
    ):
        assert spikeformers(*verb).code == 0
    described = spikeformers("info", out, "--json").json
    points = {row["point"]: row["values"] for row in described["points"]}
    assert points["MLP hidden"] == "-4, ... 4, the sum of 4 steps"
    assert points["query"] == "-4, ... 4, the sum of 4 steps"


def test_the_original_of_the_report_is_what_evaluate_says(converted, spikeformers, control, text):
    report = json.loads((converted[0] / "report.json").read_text())
    arguments = ("--data", text, "--context", 16, "--stride", 15, "--tokens", 256, "--json")
    for side, folder in (("original", control), ("spiking", converted[0])):
        result = spikeformers("evaluate", "perplexity", folder, *arguments).json
        assert result["perplexity"] == pytest.approx(report[side]["perplexity"], rel=1e-5)


def test_without_softmax_nothing_is_left_to_tune(spikeformers, control, text, tmp_path):
    out = tmp_path / "out"
    arguments = ("--threshold", "token", "--attention", "power-of-two", "--set", "weight_digits=3")
    ended = spikeformers(
        "convert", control, "--calibration", text, *arguments, *TOKENS, "--out", out
    )
    assert ended.code == 0, ended.err
    assert "weights of 3 binary digits" in " ".join(ended.err.split())
    assert "finetune-attention" not in ended.err
    report = json.loads((out / "report.json").read_text())
    assert (report["method"]["attention"], report["method"]["weight_digits"]) == ("power-of-two", 3)
    ours, theirs = (report[side]["nats_per_token"] for side in ("spiking", "original"))
    assert ours == pytest.approx(theirs, rel=0.02)
    checks = ("--require", "softmax-free", "--require", "addition-only")
    audited = spikeformers("audit", out, "--data", text, "--tokens", 64, *checks)
    assert audited.code == 0, audited.err
    assert load_model(out)[0].config.weight_digits == 3


def test_json_and_plan(spikeformers, control, text, tmp_path):
    arguments = ("convert", control, "--calibration", text, "--steps", 2, "--ffn", "qcfs", *TOKENS)
    ended = spikeformers(*arguments, "--out", tmp_path / "plan", "--plan")
    assert ended.code == 0
    assert ended.out == ""
    assert "(QCFS)" in ended.err
    assert not (tmp_path / "plan").exists()
    ended = spikeformers(*arguments, "--out", tmp_path / "out", "--attention", "kept", "--json")
    result = ended.json
    assert result["method"]["ffn"] == "qcfs"
    described = spikeformers("info", tmp_path / "out", "--json").json
    points = {row["point"]: row["spike_type"] for row in described["points"]}
    assert points["attention"] == "real"
    assert points["MLP input"] == points["MLP activation"] == "integer"
    assert result["left_dense"] == ["gpt_neox.layers.0.attention", "gpt_neox.layers.1.attention"]
    assert all(layer["time_varying_error"] > 0 for layer in result["layers"])


def test_finetuning_and_its_resume(converted, spikeformers, control, text, tmp_path):
    sets = [
        part
        for setting in ("steps=3", "batch_size=2", "context=16", "eval_batches=1", "save_every=1")
        for part in ("--set", setting)
    ]
    folder = converted[0]
    arguments = ("finetune-attention", folder, "--data", text, *sets)
    ended = spikeformers(*arguments, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["out"] == str(folder / "tuned")
    assert ended.json["steps"] == 3
    record = json.loads((folder / "tuned/run.json").read_text())
    assert record["data"]["request"]["part"] == "attention"
    assert "converted from a trained gpt_neox" in (folder / "tuned/README.md").read_text()
    out = tmp_path / "kd"
    ended = spikeformers(
        *arguments, "--teacher", control, "--train", "norms", "--out", out, "--json"
    )
    assert ended.code == 0, ended.err
    assert "teacher_kl" in ended.json["validation"]
    assert spikeformers(*arguments, "--out", out).code == 2
    again = spikeformers("finetune-attention", folder, "--out", out, "--resume", "--json")
    assert again.code == 0, again.err
    assert again.json["steps"] == 3
    assert spikeformers("pretrain", "--out", out, "--resume").code == 2


def test_attention_transfer(converted, spikeformers, control, text, tmp_path):
    sets = [
        part
        for setting in ("steps=2", "batch_size=2", "context=16", "eval_batches=1")
        for part in ("--set", setting)
    ]
    out = tmp_path / "transfer"
    arguments = (
        "finetune-attention",
        converted[0],
        "--data",
        text,
        "--out",
        out,
        "--transfer",
        *sets,
    )
    ended = spikeformers(*arguments)
    assert (ended.code, "give it with --teacher" in ended.err) == (2, True)
    ended = spikeformers(*arguments, "--teacher", control, "--train", "norms")
    assert (ended.code, "only the attention, not norms" in ended.err) == (2, True)
    ended = spikeformers(*arguments, "--teacher", control, "--kd", 0.9)
    assert (ended.code, "--transfer does not use them" in ended.err) == (2, True)
    ended = spikeformers(*arguments, "--teacher", control, "--density", 0.5)
    assert (ended.code, "--transfer calls only the attention" in ended.err) == (2, True)
    ended = spikeformers(*arguments, "--teacher", control, "--teacher-dtype", "bf16", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["steps"] == 2
    record = json.loads((out / "run.json").read_text())
    assert record["data"]["request"]["transfer"] is True
    assert record["data"]["request"]["teacher_dtype"] == "bf16"
    again = spikeformers("finetune-attention", converted[0], "--out", out, "--resume", "--json")
    assert again.code == 0, again.err


def test_a_density_reached_by_training(spikeformers, control, text, tmp_path):
    spiking, sizes = tmp_path / "token", ("--tokens", 64, "--context", 16)
    ended = spikeformers("convert", control, "--threshold", "token", "--out", spiking, *sizes)
    assert ended.code == 0, ended.err
    sets = [
        part
        for setting in ("steps=4", "batch_size=2", "context=16", "eval_batches=1", "save_every=2")
        for part in ("--set", setting)
    ]
    arguments = ("finetune-attention", spiking, "--data", text, "--teacher", control, *sets)
    ended = spikeformers(*arguments, "--density", 0.6)
    assert (ended.code, "Train everything" in ended.err) == (2, True)
    arguments = (*arguments, "--train", "everything")
    ended = spikeformers(*arguments, "--density", 1.5)
    assert (ended.code, "density must lie between 0 and 1, not 1.5" in ended.err) == (2, True)
    ended = spikeformers(*arguments, "--density", 0.6)
    assert ended.code == 0, ended.err
    assert "of the weights read; on the way to 60.0%" in " ".join(ended.err.split())
    record = json.loads((spiking / "tuned/run.json").read_text())
    assert record["data"]["request"]["density"] == 0.6
    zones = [
        float(tensor.detach())
        for name, tensor in load_model(spiking / "tuned")[0].named_parameters()
        if name.endswith("dead_zone")
    ]
    assert len(zones) == 9
    assert min(zones) > 0
    out = ("--out", spiking / "tuned", "--resume", "--json")
    assert spikeformers("finetune-attention", spiking, *out).json["steps"] == 4


def test_tune_in_one_command(spikeformers, control, text, tmp_path):
    out = tmp_path / "out"
    arguments = ("--calibration", text, "--steps", 2, "--tune", 1, "--out", out, *TOKENS)
    ended = spikeformers("convert", control, *arguments)
    assert ended.code == 0, ended.err
    assert load_model(out / "tuned")[0].config.attention == "ssa"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--steps", 0), 2, "steps must be at least 1, not 0"),
        (("--ffn", "gelu"), 2, "ffn='gelu' is unknown"),
        (("--method", "las"), 2, "the one method is neurtransformer"),
        (("--rule", "median"), 2, "not 'median'"),
        (("--percentile", 0), 2, "percentile must lie in"),
        (("--set", "stepps=4"), 2, "Did you mean 'steps'?"),
        (("--set", "unrolled=3"), 2, "unrolled is 3; it must be true or false"),
        (("--ffn", "kept", "--attention", "kept"), 2, "nothing would be converted"),
        (("--calibration-tokens", 0), 2, "at least 1 token"),
        (("--context", 4096), 2, "takes at most 32 tokens"),
        (("--gguf-file", "none.gguf"), 1, "has no none.gguf"),
        (("--resume",), 2, "Nothing to resume"),
    ],
)
def test_bad_options(spikeformers, control, text, tmp_path, options, code, message):
    out = tmp_path / "out"
    ended = spikeformers("convert", control, "--calibration", text, "--out", out, *options)
    assert ended.code == code, ended.err
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert not (out / "config.json").exists()


def test_bad_models_and_texts(spikeformers, control, causal, text, tmp_path):
    out = ("--out", tmp_path / "out")
    ended = spikeformers("convert", causal, "--calibration", text, *out)
    assert (ended.code, "is a spiking model (wd_spikingformer) already" in ended.err) == (2, True)
    ended = spikeformers("convert", control, "--calibration", tmp_path / "none.txt", *out)
    assert (ended.code, "none.txt" in ended.err) == (2, True)
    ended = spikeformers("convert", "someone/nothing", "--calibration", text, *out)
    assert (ended.code, "someone/nothing" in ended.err) == (1, True)
    ended = spikeformers("convert", control, "--calibration", text, "--out", causal)
    assert (ended.code, "already holds a model" in ended.err) == (2, True)
    ended = spikeformers("finetune-attention", control, "--data", text, *out)
    assert (ended.code, "gpt_neox is not a converted model" in ended.err) == (2, True)


def test_thresholds_per_token_take_no_calibration(spikeformers, control, text, tmp_path):
    out, sizes = tmp_path / "token", ("--tokens", 256, "--context", 16)
    ended = spikeformers("convert", control, "--threshold", "token", "--out", out, *sizes)
    assert ended.code == 0, ended.err
    message = " ".join(ended.err.split())
    assert "softmax kept, spikes at the input of q, k and v and the output map" in message
    assert "SpikingHead: thresholds per token at its input, T = 8" in message
    assert "next" not in message  # nothing is left to tune
    report = json.loads((out / "report.json").read_text())
    method = {key: report["method"][key] for key in ("threshold", "steps", "code", "attention")}
    assert method == {"threshold": "token", "steps": 8, "code": "phase", "attention": "kept"}
    assert report["calibration"]["text"] == "builtin"
    assert report["calibration"]["tokens"] == 0
    assert [path.name for path in (out / "pictures").iterdir()] == ["energy.png"]
    page = (out / "report.html").read_text()
    assert "embedding, norms, residual stay real" in page
    assert "No module was measured on its own" in page
    lost = report["spiking"]["nats_per_token"] - report["original"]["nats_per_token"]
    assert abs(lost) < 0.02

    arguments = ("--threshold", "token", "--spiking", "ffn,head", "--density", 0.7, *TOKENS)
    arguments = (*arguments, "--power-of-two-units", "--out", out / "x")
    ended = spikeformers("convert", control, "--calibration", text, *arguments)
    assert ended.code == 0, ended.err
    report = json.loads((out / "x" / "report.json").read_text())
    assert report["method"]["power_of_two_units"] is True
    names = [place["name"].rsplit(".", 1)[-1] for place in report["dead_zones"]]
    assert names == ["fire_in", "fire_hidden"] * 2 + ["fire"]
    weights = sum(place["weights"] for place in report["dead_zones"])
    read = sum(place["weights"] * place["density"] for place in report["dead_zones"])
    assert read / weights == pytest.approx(0.7, abs=0.02)


def test_what_is_calibrated_needs_text(spikeformers, control, tmp_path):
    for arguments in ((), ("--threshold", "token", "--density", 0.5)):
        ended = spikeformers("convert", control, *arguments, "--out", tmp_path / "out")
        assert ended.code == 2
        assert "this conversion is calibrated on text: name it with --calibration" in ended.err
        assert not (tmp_path / "out").exists()


def test_the_audit_shows_units_per_token_and_near_and_far_neurons(
    spikeformers, control, text, tmp_path
):
    out, sizes = tmp_path / "token", ("--tokens", 64, "--context", 16)
    ended = spikeformers("convert", control, "--threshold", "token", "--out", out, *sizes)
    assert ended.code == 0, ended.err
    ended = spikeformers("audit", out, "--data", text, "--tokens", 64)
    assert ended.code == 0, ended.err
    shown = " ".join(ended.out.split())
    assert "unit per token" in shown
    assert "Layers with several kinds of neurons" in shown
    assert "fire_hidden.near" in shown
    assert "fire_hidden.far" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--threshold", "layer"), "'layer'"),
        (("--density", 2, "--calibration", "missing.txt"), "density must lie between 0 and 1"),
        (("--set", "token_reach=-1"), "token_reach must be a number above 0"),
        (
            (*("--attention", "power-of-two", "--calibration", "x"), "--set", "weight_digits=9"),
            "weight_digits must be 1 to 4, not 9",
        ),
        (("--spiking", "foo"), "spiking_maps names 'foo'"),
        (("--threshold", "channel", "--power-of-two-units"), "is for threshold='token'"),
        (("--steps", 99), "takes 2 to 12 steps, not 99"),
    ],
)
def test_options_are_refused_before_text_or_model_are_read(
    spikeformers, tmp_path, options, message
):
    arguments = ("convert", "no-such-model", "--threshold", "token", *options)
    ended = spikeformers(*arguments, "--out", tmp_path / "out")
    assert (ended.code, message in ended.err) == (2, True), ended.err
    assert not (tmp_path / "out").exists()
