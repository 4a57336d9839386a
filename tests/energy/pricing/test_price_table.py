from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from spikeformers.energy import load_table, read_table
from spikeformers.energy.pricing.price_table import NEEDED, built_in
from spikeformers.errors import ConfigError

GOOD = (
    resources.files("spikeformers.energy.pricing") / "price_tables" / "horowitz45.yaml"
).read_text()


def test_horowitz_by_the_paper() -> None:
    table = load_table("horowitz45")
    prices = {" ".join(key): cost.picojoules for key, cost in table.compute.items()}
    assert prices == {
        "add int8": 0.03, "add int32": 0.1, "add fp16": 0.4, "add fp32": 0.9,
        "multiply int8": 0.2, "multiply int32": 3.1, "multiply fp16": 1.1, "multiply fp32": 3.7,
        "compare fp32": 0.9, "function fp32": 3.7, "logic bit": 0.03 / 8,
    }  # fmt: skip
    assert [(level.name, level.capacity, level.cost.picojoules) for level in table.memory] == [
        ("register", 128, 4.0),
        ("SRAM 8 KB", 8192, 10.0),
        ("SRAM 32 KB", 32768, 20.0),
        ("SRAM 1 MB", 2**20, 100.0),
        ("DRAM", None, 1300.0),
    ]
    assert {level.bits for level in table.memory} == {64}


@pytest.mark.parametrize("name", ["horowitz45", "tpu7"])
def test_every_built_in_number_has_a_source(name: str) -> None:
    table = load_table(name)
    assert table.name == name
    for cost in (*table.compute.values(), *(level.cost for level in table.memory)):
        assert len(cost.source) > 20
    for kind, types in NEEDED.items():
        assert all((kind, type_) in table.compute for type_ in types)
    assert name in built_in()


def test_a_thing_lives_in_the_smallest_memory_that_holds_it() -> None:
    table = load_table("horowitz45")
    sizes = [1, 8 * 8192, 8 * 8192 + 1, 8 * 32768, 8 * 2**20, 8 * 2**20 + 1, 1e15]
    assert [table.home(size).name for size in sizes] == [
        "SRAM 8 KB", "SRAM 8 KB", "SRAM 32 KB", "SRAM 32 KB", "SRAM 1 MB", "DRAM", "DRAM",
    ]  # fmt: skip
    assert table.level("DRAM").picojoules_per_bit == 1300 / 64
    with pytest.raises(ConfigError, match="Did you mean 'SRAM 1 MB'"):
        table.level("SRAM 1MB")


def test_one_price_scaled() -> None:
    table = load_table("horowitz45")
    assert table.scaled("add fp32", 2).compute["add", "fp32"].picojoules == 1.8
    assert table.scaled("add fp32", 2).compute["add", "int32"].picojoules == 0.1
    assert table.scaled("DRAM", 0.5).level("DRAM").cost.picojoules == 650
    assert set(table.keys) >= {"add fp32", "logic bit", "register", "DRAM"}


def test_units() -> None:
    text = GOOD.replace("energy: 0.9 pJ", "energy: 900 fJ").replace("1300 pJ", "1.3 nJ")
    assert read_table(text, "x").compute["add", "fp32"].picojoules == pytest.approx(0.9)
    assert read_table(text, "x").level("DRAM").cost.picojoules == pytest.approx(1300)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (GOOD, "- a list", "the file is a mapping of names to values, not a list"),
        (GOOD, "", "not nothing"),
        (GOOD, "a: [", "is not valid YAML"),
        ("compute:", "computes:", "unknown key 'computes' in the file.*Did you mean 'compute'"),
        ("  multiply:", "  multiplies:", "unknown key 'multiplies'.*Did you mean 'multiply'"),
        ("name: horowitz45\n", "", "the file lacks 'name'"),
        ("    fp32: {energy: 0.9 pJ, source: \"Horowitz", "    bf16: {energy: 0.9 pJ, source: \"H",
         "compute.add lacks 'fp32'; it needs int32, fp32. Did you mean"),
        ("energy: 0.9 pJ", "energy: -0.9 pJ", "must not be negative"),
        ("energy: 0.9 pJ", "energy: 0.9", "a number and its unit"),
        ("energy: 0.9 pJ", "energy: 0.9 kWh", "unknown unit 'kWh'; known: fJ, pJ, nJ"),
        ("energy: 0.9 pJ", "energy: 0.9 PJ", "unknown unit 'PJ'.*Did you mean 'pJ'"),
        ("energy: 0.9 pJ", "energy: cheap", "a number and its unit"),
        ("energy: 0.9 pJ", "energies: 0.9 pJ", "unknown key 'energies'.*Did you mean 'energy'"),
        ("capacity: 8 KiB", "capacity: 8 KB", "unknown unit 'KB'.*Did you mean 'KiB'"),
        ("capacity: 8 KiB", "capacity: 64 KiB", "List memories from small to large"),
        ("bits: 64", "bits: 0", "bits is the width of an access"),
        ("  - name: DRAM\n", "  - name: DRAM\n    capacity: 1 GiB\n", "takes no capacity"),
        ("name: SRAM 8 KB", "name: register", "two memories are called 'register'"),
        ('source: "Horowitz, ISSCC 2014, fig. 1.1.9, 45 nm"', 'source: " "', "in words, not ' '"),
    ],
)  # fmt: skip
def test_the_error_names_the_mistake_in_a_file(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_table(GOOD.replace(old, new, 1), "mine.yaml")


def test_memory_that_is_not_a_hierarchy() -> None:
    with pytest.raises(ConfigError, match="a list of at least two levels"):
        read_table(GOOD.split("memory:")[0] + "memory: {}", "mine.yaml")


def test_files(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(GOOD.replace("name: horowitz45", "name: mine"))
    assert load_table(str(mine)).name == "mine"
    with pytest.raises(ConfigError, match="Did you mean 'horowitz45'"):
        load_table("horowitz")
    mine.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_table(str(mine))
