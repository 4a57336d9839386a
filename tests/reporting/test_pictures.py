from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from spikeformers.reporting import energy_pictures, pictures
from spikeformers.reporting._style import BLUE, ORANGE, drawing, label
from spikeformers.studies.gather import Curve

TOKENS = ["The", " spike", " wins", "\n", "$"]


def has(pixels, colour, tolerance=0.02):
    return bool((np.abs(pixels - np.array(to_rgb(colour))).max(-1) < tolerance).any())


def not_cut_off(pixels):
    """The outermost pixels are white: no label runs over the edge."""
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    return all(float(edge.min()) > 0.99 for edge in edges)


def test_loss_curves(tmp_path, read_png):
    curves = [
        Curve("spiking", [0, 10, 20], [3, 2, 1.5], [10, 20], [2.2, 1.7]),
        Curve("dense twin", [0, 10, 20], [3, 1.9, 1.4], [10, 20], [2.1, 1.6]),
    ]
    pictures.loss_curves(tmp_path / "a" / "loss.png", curves)
    pixels = read_png(tmp_path / "a" / "loss.png")
    assert has(pixels, BLUE)
    assert has(pixels, ORANGE)
    assert not_cut_off(pixels)


@pytest.mark.parametrize("blocks", [1, 4, 24])
def test_density_by_layer(tmp_path, read_png, blocks):
    points = ("attention input", "query", "key", "value", "output", "MLP input", "MLP hidden")
    densities = {point: [0.1 + 0.01 * b for b in range(blocks)] for point in points}
    densities["output"] = [None] * blocks
    pictures.density_by_layer(tmp_path / "density.png", densities, {"head": 0.2})
    pixels = read_png(tmp_path / "density.png")
    assert has(pixels, BLUE)
    assert has(pixels, "#444444")
    assert not_cut_off(pixels)


@pytest.mark.parametrize("layers", [1, 3, 6])
@pytest.mark.parametrize("levels", [1, 4])
def test_spike_raster(tmp_path, read_png, layers, levels):
    draw = np.random.default_rng(0)
    spikes = {f"layer {n}": draw.integers(0, levels + 1, (5, 12)) for n in range(layers)}
    pictures.spike_raster(tmp_path / "raster.png", spikes, TOKENS, levels)
    assert not_cut_off(read_png(tmp_path / "raster.png"))


@pytest.mark.parametrize("layers", [1, 3, 4])
def test_attention_map_of_winners(tmp_path, read_png, layers):
    weights = np.zeros((2, 5, 5))
    weights[:, np.arange(5), [0, 0, 1, 3, 2]] = 1
    blocks = {f"block {n}": weights for n in range(layers)}
    assert pictures.are_choices(blocks)
    pictures.attention_map(tmp_path / "attention.png", blocks, TOKENS)
    pixels = read_png(tmp_path / "attention.png")
    assert has(pixels, "#08306B")  # both heads chose the same key
    assert not_cut_off(pixels)


def test_attention_map_of_weights(tmp_path, read_png):
    weights = np.tril(np.ones((2, 5, 5))) / np.arange(1, 6)[:, None]  # the first query has one key
    assert not pictures.are_choices({"block 1": weights})
    pictures.attention_map(tmp_path / "attention.png", {"block 1": weights}, TOKENS)
    pixels = read_png(tmp_path / "attention.png")
    assert has(pixels, "#08306B")  # both heads give all their weight
    assert has(pixels, "#7FB8DC")  # and half of it
    assert not_cut_off(pixels)


def test_energy_by_component(tmp_path, read_png):
    energies = {"spiking": {"mlp": 2e4, "neurons": 3e3}, "dense twin": {"mlp": 9e4, "head": 1e4}}
    pictures.energy_by_component(tmp_path / "energy.png", energies)
    pixels = read_png(tmp_path / "energy.png")
    assert has(pixels, BLUE)
    assert has(pixels, ORANGE)
    assert not_cut_off(pixels)


def test_small_components_are_drawn_together():
    energies = {"a": {"mlp": 1000.0, "x": 1.0, "y": 0.5}, "b": {"mlp": 10.0, "z": 0.0}}
    merged = pictures._without_small(energies)
    assert merged == {"a": {"mlp": 1000.0, "the rest": 1.5}, "b": {"mlp": 10.0}}


def test_what_was_there_stays_when_drawing_fails(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")

    def fail():
        with drawing(path, 2, 2):
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


@pytest.mark.parametrize(
    ("token", "shown"), [(" a b", "·a·b"), ("\n", "⏎"), ("\t", "⇥"), ("$x$", r"\$x\$"), ("", "∅")]
)
def test_labels_show_what_is_invisible(token, shown):
    assert label(token) == shown


def labels_of(monkeypatch, module, draw):
    """The labels of both axes of what ``draw`` draws with ``module``."""
    seen = []

    @contextmanager
    def kept(path, width, height):
        figure = Figure(figsize=(width, height))
        yield figure
        seen.extend((axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes)

    monkeypatch.setattr(module, "drawing", kept)
    draw()
    return seen


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e9])
def test_energies_are_in_nanojoules_whatever_their_size(tmp_path, monkeypatch, scale):
    path = tmp_path / "p.png"
    parts = labels_of(
        monkeypatch,
        pictures,
        lambda: pictures.energy_by_component(path, {"a": {"mlp": 1e3 * scale}}, "image"),
    )
    assert parts == [("nJ per image, estimated: measured events times 45 nm prices", "")]
    spent = labels_of(
        monkeypatch,
        energy_pictures,
        lambda: energy_pictures.spent_on(path, {"a": {"weights": scale}}, "title", "token"),
    )
    assert spent == [("nJ per token, estimated", "")]
    curve = labels_of(
        monkeypatch,
        energy_pictures,
        lambda: energy_pictures.break_even_curve(
            path, [0.1, 1.0], [scale, 2 * scale], {"twin": 3 * scale}, (0.1, scale), "t", "token"
        ),
    )
    assert [ylabel for _, ylabel in curve] == ["nJ per token, estimated"]
