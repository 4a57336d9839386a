from __future__ import annotations

from pathlib import Path

import pytest

from spikeformers.errors import ConfigError, DataError, UsageError
from spikeformers.runs.recipe import Recipe, data_keys, from_assignments, read_recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))


def test_there_are_recipes():
    assert len(RECIPES) >= 3


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid(path):
    recipe = read_recipe(path)
    recipe.check()
    assert path.stem.startswith(recipe.preset.rpartition("-")[0])  # the size may be its own


def test_sections_and_flat_keys_say_the_same(tmp_path):
    nested = tmp_path / "nested.yaml"
    nested.write_text(
        "preset: wd-spikingformer-tiny\nmodel: {wta: top_k, steps: 2}\n"
        "train: {steps: 10, learning_rate: 2e-3}\ndata: {source: builtin, tokenizer: byte}\n"
    )
    flat = tmp_path / "flat.yaml"
    flat.write_text(
        "preset: wd-spikingformer-tiny\nwta: top_k\nmodel.steps: 2\nsteps: 10\n"
        "learning_rate: 2e-3\ndata: builtin\ntokenizer: byte\n"
    )
    assert read_recipe(nested) == read_recipe(flat)
    assert read_recipe(flat) == Recipe(
        preset="wd-spikingformer-tiny",
        model={"wta": "top_k", "steps": 2},
        train={"steps": 10, "learning_rate": 0.002},
        data={"source": "builtin", "tokenizer": "byte"},
    )


def test_values_are_yaml_scalars():
    arguments = from_assignments(
        ["steps=5", "compile=true", "betas=[0.8, 0.9]", "wta=hard", "eps=1e-6", "config_name="]
    )
    assert arguments.train == {"steps": 5, "compile": True, "betas": [0.8, 0.9], "eps": 1e-6}
    assert arguments.model == {"wta": "hard"}
    assert arguments.data == {"config_name": None}


def test_later_settings_win():
    first = Recipe("wd-spikingformer-tiny", train={"steps": 1, "seed": 3})
    assert first.merge(Recipe(train={"steps": 2})) == Recipe(
        "wd-spikingformer-tiny", train={"steps": 2, "seed": 3}
    )


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("lerning_rate=1", "unknown key 'lerning_rate'. Did you mean 'learning_rate'?"),
        ("hiden_size=64", "Did you mean 'hidden_size'?"),
        ("text_feild=x", "Did you mean 'text_field'?"),
        ("train.hidden_size=64", "'hidden_size' belongs to the section model, not to train."),
        ("train.stepz=64", "unknown key 'stepz' in the section train. Did you mean 'steps'?"),
        ("zzzzzz=1", "Known keys are train: steps,"),
        ("steps", "it must be key=value"),
        ("steps={", "not valid YAML"),
    ],
)
def test_unknown_assignments_fail_and_name_the_nearest(assignment, message):
    with pytest.raises(ConfigError) as failed:
        from_assignments([assignment])
    assert f"--set {assignment}: " in str(failed.value)
    assert message in str(failed.value)


def test_an_unknown_key_of_a_recipe_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("preset: wd-spikingformer-tiny\ntrain: {stepps: 3}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: unknown key 'stepps'.*mean 'steps'"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b\n", "a recipe consists of keys and values"),
        ("a: [", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("preset: 3\n", "preset is 3; it must be text"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_recipe(path)


def test_a_missing_recipe_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")


def test_check_names_what_is_missing():
    with pytest.raises(ConfigError, match="no preset"):
        Recipe().check()
    with pytest.raises(DataError, match="no text"):
        Recipe("wd-spikingformer-tiny").check()


def test_data_keys_come_from_load_corpus():
    assert data_keys()["validation_fraction"] == 0.05
    assert set(data_keys()) == {
        *("source", "tokenizer", "text_field", "validation_fraction", "config_name"),
    }
