"""Systems made of a few lines, each in its process, with a meter made of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spikeformers.errors import ConfigError, SpikeformersError
from spikeformers.evaluation.measured import Program, TextWork, Whole, measure
from spikeformers.reporting.measured_tables import notes, tables

SYSTEMS = '''
import os, pathlib, sys
from spikeformers.errors import UsageError

print("libraries talk")  # must not disturb the channel


class Counting:
    """Reads 100 bytes of weights per token, and adds 5,000 uJ to a meter each time it works."""
    weight_bytes = 1234

    def __init__(self, meter=None, log=None, hold=0):
        self.tokens, self.meter, self.log = 0, meter, log
        self.held = bytearray(b"x" * hold)

    def work(self, words, tokens):
        self.tokens += tokens
        if self.log:
            with open(self.log, "a") as file:
                file.write(words + "\\n")

    def begin(self, ids):
        self.work(f"begin {ids}", len(ids))
        if self.meter:
            file = pathlib.Path(self.meter)
            file.write_text(str((int(file.read_text()) + 5000) % 20000))

    def step(self, token):
        self.work(f"step {token}", 1)

    def counters(self):
        return {"tokens": self.tokens, "weight_bytes": 100 * self.tokens}


class Silent(Counting):
    counters = property(lambda self: (_ for _ in ()).throw(AttributeError()))


def refuse():
    raise UsageError("this model is not for it")


def fall():
    raise RuntimeError("fell over")


class Leaving(Counting):
    def begin(self, ids):
        os._exit(3)
'''


@pytest.fixture
def systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "made_systems.py").write_text(SYSTEMS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def program(name: str, **arguments: object) -> Program:
    return Program(f"made_systems:{name}", arguments)


def test_turns_counts_and_memory(systems):
    log = str(systems / "log")
    programs = {
        "small": program("Counting", log=log),
        "large": program("Counting", log=log, hold=64 * 2**20),
        "silent": program("Silent"),
    }
    result = measure(
        programs, TextWork([5, 6, 7, 8], 2), repeats=2, warmup=1, powercap=systems / "none"
    )
    one_turn = ["begin [5, 6]", "step 7", "step 8"]
    assert Path(log).read_text().splitlines() == one_turn * 2 * 3
    small, large, silent = (result.systems[name] for name in programs)
    assert small.phases["prefill"].counted == {"tokens": 1.0, "weight_bytes": 100.0}  # a token
    assert small.phases["decode"].counted == {"tokens": 1.0, "weight_bytes": 100.0}
    assert silent.phases["decode"].counted == {}
    assert small.weight_bytes == 1234
    grown = large.memory.peak_bytes - small.memory.peak_bytes
    assert 60 * 2**20 < grown < 70 * 2**20
    for phase in ("prefill", "decode"):
        spread = small.phases[phase].wall_seconds
        assert 0 < spread.least <= spread.median <= spread.most
        timing = small.phases[phase].timing
        assert timing.tokens_per_second == pytest.approx(1 / spread.median)
        assert small.phases[phase].energy is None
    assert result.ratio("small", "small", "decode") == 1
    values = json.loads(json.dumps(result.as_dict()))
    assert values["label"] == "measured"
    assert values["small"]["decode"]["units"] == 2
    assert values["meters"] == {"read": [], "missing": list(result.no_meter), "idle_watts": {}}
    assert values["setting"].pop("load_average") >= 0
    assert values["setting"] == {
        "batch_size": 1, "prompt_tokens": 2, "new_tokens": 2,
        "threads": 1, "repeats": 2, "warmup": 1,
    }  # fmt: skip
    assert any("no joules were measured" in line for line in notes(result))
    made = tables(result)
    assert [table.title.split(",")[0] for table in made] == [
        "prefill",
        "decode",
        "Resident memory of each process",
    ]
    for table in made:
        assert all(len(row) == len(table.columns) == 4 for row in table.rows)
    assert ("bytes of weights read, counted", "100", "100", "-") in made[1].rows


def test_joules_of_the_work_alone(systems):
    """5 mJ each time it works, over a counter of 20 mJ, and nothing at rest."""
    package = systems / "cap" / "intel-rapl:0"
    package.mkdir(parents=True)
    (package / "name").write_text("package-0")
    (package / "energy_uj").write_text("12000")
    (package / "max_energy_range_uj").write_text("20000")
    result = measure(
        {"it": program("Counting", meter=str(package / "energy_uj"))},
        Whole(4, "image", 4),
        repeats=3,
        warmup=1,
        idle_seconds=0.05,
        powercap=systems / "cap",
    )
    assert result.idle_watts == {"package-0": (0.0, 0.0)}
    energy = result.systems["it"].phases["forward"].energy
    assert energy is not None
    for spread in (energy.gross_joules, energy.net_joules):
        assert (spread.least, spread.median, spread.most) == pytest.approx((0.00125,) * 3)
    assert energy.by_zone == pytest.approx({"package-0": 0.00125})
    assert "at rest: package-0 0.0 W before" in " ".join(notes(result))
    rows = {row[0]: row[1] for row in tables(result)[0].rows}
    assert rows["joules above rest"] == "0.00125 (0.00125 to 0.00125)"
    assert "images per second" in rows


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("refuse", "'it' cannot be measured: this model is not for it"),
        ("fall", "RuntimeError: fell over"),
        ("Leaving", "the process that measures 'it' ended"),
    ],
)
def test_a_process_that_fails(systems, name, message):
    with pytest.raises(SpikeformersError, match=message) as raised:
        measure({"it": program(name)}, TextWork([1, 2], 1), repeats=1)
    assert raised.value.exit_code == (2 if name == "refuse" else 1)


def test_bad_requests():
    with pytest.raises(ConfigError, match="a prompt and at least one more token"):
        TextWork([1, 2], 2)
    with pytest.raises(ConfigError, match="at least one image"):
        Whole(0, "image", 1)
    with pytest.raises(ConfigError, match="at least one program"):
        measure({}, TextWork([1, 2], 1))
    with pytest.raises(ConfigError, match="0 repeats"):
        measure({"it": program("Counting")}, TextWork([1, 2], 1), repeats=0)
    with pytest.raises(ConfigError, match="called 'meters'"):
        measure({"meters": program("Counting")}, TextWork([1, 2], 1))
