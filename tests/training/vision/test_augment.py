"""Mixing by hand; kornia's part repeats and keeps its range."""

from __future__ import annotations

import sys

import pytest
import torch

from spikeformers.data.images import Prep
from spikeformers.errors import ConfigError
from spikeformers.training.vision import VisionConfig
from spikeformers.training.vision.augment import Augment, cut

BYTES = torch.randint(
    0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
LABELS = torch.tensor([0, 1, 2, 0])
PREP = Prep(8, 3)


def test_nothing_asked_for_nothing_changed() -> None:
    x, labels = Augment(VisionConfig(), PREP, 3)(BYTES, LABELS, (0, 0))
    assert torch.equal(x, BYTES / 255)
    assert torch.equal(labels, LABELS)


def test_mixup_is_one_share_of_a_batch_and_its_reverse() -> None:
    augment = Augment(VisionConfig(mixup=1.0), PREP, 3)
    x, labels = augment(BYTES, LABELS, (3, 1))
    share = float(labels[0, 0])  # images 0 and 3 are of class 0: their shares add up to one
    assert share == 1.0
    share = float(labels[1, 1])
    assert 0 < share < 1
    assert labels[1].tolist() == pytest.approx([0, share, 1 - share])
    assert labels[2].tolist() == pytest.approx([0, 1 - share, share])
    complete = BYTES / 255
    torch.testing.assert_close(x, share * complete + (1 - share) * complete.flip(0))


def test_cutmix_counts_the_pixels_it_takes() -> None:
    torch.manual_seed(0)
    for wanted_share in (0.0, 0.3, 0.9, 1.0):
        x, share = cut(torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8), wanted_share)
        assert share == pytest.approx(1 - float(x.mean()))
    x, labels = Augment(VisionConfig(cutmix=1.0), PREP, 3)(BYTES, LABELS, (4, 1))
    kept = (x == BYTES / 255).all(1).float().mean((1, 2))
    assert labels.sum(-1).tolist() == pytest.approx([1.0] * 4)
    assert float(labels[1, 1]) <= float(kept[1]) + 1e-6


def test_the_same_place_gives_the_same_images() -> None:
    pytest.importorskip("kornia")
    config = VisionConfig(flip=True, crop=2, randaugment=2, erasing=0.5, mixup=0.5, cutmix=0.5)
    first, second = (Augment(config, PREP, 3) for _ in range(2))
    first(BYTES, LABELS, (9, 9))
    a, b = first(BYTES, LABELS, (0, 1)), second(BYTES, LABELS, (0, 1))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert not torch.equal(a[0], first(BYTES, LABELS, (0, 2))[0])
    assert a[0].shape == (4, 3, 8, 8)
    assert a[0].min() >= 0
    assert a[0].max() <= 1


def test_a_flip_is_a_flip() -> None:
    pytest.importorskip("kornia")
    x, _ = Augment(VisionConfig(flip=True), PREP, 3)(BYTES, LABELS, (1, 1))
    complete = BYTES / 255
    kinds = [
        torch.equal(x[i], complete[i]) + 2 * torch.equal(x[i], complete[i].flip(-1))
        for i in range(4)
    ]
    assert set(kinds) <= {1, 2}


def test_without_kornia_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kornia", "kornia.augmentation", "kornia.augmentation.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"flip, erasing come from kornia.*--set flip=false"):
        Augment(VisionConfig(flip=True, erasing=0.2), PREP, 3)
