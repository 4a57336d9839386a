"""The teacher gives what is asked for, as Transformers does, and no gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spikeformers.errors import ConfigError
from spikeformers.training.distillation.teacher import Needs, Teacher

ALL = Needs((1, 3), embedding=True, attentions=True, features=True, logits=True)
IDS = torch.arange(32).view(2, 16)


@pytest.fixture
def teacher(dense: Any, causal: Any) -> Teacher:
    return Teacher(dense(causal.tokenizer, n_layer=3))


def test_outputs_of_the_mapped_layers(teacher: Teacher) -> None:
    output = teacher(IDS, ALL)
    expected = teacher.model(IDS, output_hidden_states=True, output_attentions=True)
    assert output.embedding is not None
    assert torch.equal(output.embedding, expected.hidden_states[0])
    assert output.features is not None
    assert torch.equal(output.features[0], expected.hidden_states[1])
    assert torch.equal(output.features[1], expected.hidden_states[3])
    assert output.attentions is not None
    assert torch.equal(output.attentions[0], expected.attentions[0])
    assert torch.equal(output.attentions[1], expected.attentions[2])
    assert output.logits is not None
    assert torch.equal(output.logits, expected.logits)
    assert not output.logits.requires_grad


def test_no_more_than_is_asked_for(teacher: Teacher) -> None:
    assert not Needs((1, 2))
    output = teacher(IDS, Needs((1, 2), logits=True))
    assert output.logits is not None
    assert output[:3] == (None, None, None)


def test_it_keeps_its_own_precision_under_autocast(teacher: Teacher) -> None:
    exact = teacher(IDS, ALL).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = teacher(IDS, ALL).logits
    assert exact is not None
    assert logits is not None
    assert torch.equal(logits, exact)
    teacher.model.to(torch.bfloat16)
    half = teacher(IDS, ALL).logits
    assert half is not None
    assert half.dtype == torch.bfloat16


def test_logits_are_computed_again_from_the_input_of_the_head(teacher: Teacher) -> None:
    out, head = teacher.with_head_input(IDS, ALL)
    assert out.logits is not None
    assert torch.equal(teacher.logits(head), out.logits)


def test_the_digest_is_of_names_weights_and_precision(teacher: Teacher) -> None:
    first = teacher.digest()
    assert first == teacher.digest()
    teacher.model.transformer.h[0].ln_1.bias.data[0] += 1
    assert teacher.digest() != first
    second = teacher.digest()
    teacher.model.to(torch.bfloat16)
    assert teacher.digest() != second


def test_a_teacher_that_hides_its_maps(dense: Any, causal: Any) -> None:
    model = dense(causal.tokenizer)
    model.set_attn_implementation("sdpa")
    with pytest.raises(ConfigError, match="returns no attention maps: leave out saa"):
        Teacher(model)(IDS, Needs((1,), attentions=True))
