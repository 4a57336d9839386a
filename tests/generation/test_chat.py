"""A message in the words of the tokenizer's chat template, by PyTorch and by the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spikeformers.data import load_corpus, make_tokenizer
from spikeformers.engine import load, write
from spikeformers.errors import CheckpointError, UsageError
from spikeformers.export import pack
from spikeformers.generation import generate_text
from spikeformers.kernels import choose
from spikeformers.models import build_config, build_model

TEMPLATE = """{% for message in messages %}
<{{ message['role'] }}>{{ message['content'] }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}<assistant>{% endif %}"""
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}

pytestmark = pytest.mark.skipif(not choose(), reason="the native kernels are not built")


@pytest.fixture
def causal(tmp_path: Path) -> tuple[Any, Any]:
    """A tiny model and its tokenizer, which has a chat template."""
    source = tmp_path / "text.txt"
    source.write_text("a spike wins or loses\n" * 50)
    tokenizer = make_tokenizer("byte", load_corpus(str(source)))
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(3)
    config = build_config("wd-spikingformer-tiny", len(tokenizer), SMALL)
    return build_model(config).eval(), tokenizer


def engine_of(model: Any, tokenizer: Any, path: Path) -> Any:
    write(pack(model, tokenizer, "fp32"), path)
    return load(path)


def test_the_engine_renders_what_transformers_renders(
    causal: tuple[Any, Any], tmp_path: Path
) -> None:
    model, tokenizer = causal
    engine = engine_of(model, tokenizer, tmp_path / "x.engine")
    messages = [{"role": "user", "content": "{{ 7 * 7 }} <b>"}]
    rendered = engine.tokenizer.apply_chat_template(messages)
    assert rendered == f"<user>{{{{ 7 * 7 }}}} <b>{tokenizer.eos_token}\n<assistant>"
    assert rendered == tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )


def test_both_answer_a_message_alike_and_not_as_they_continue_it(
    causal: tuple[Any, Any], tmp_path: Path
) -> None:
    model, tokenizer = causal
    engine = engine_of(model, tokenizer, tmp_path / "x.engine")
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.0}
    answer = generate_text(engine, "a spike", chat=True, **options)
    assert answer.prompt == "a spike"
    plain = generate_text(engine, "a spike", **options)
    words = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a spike"}], tokenize=False, add_generation_prompt=True
    )
    assert answer.prompt_tokens == len(tokenizer(words, add_special_tokens=False)["input_ids"])
    assert answer.prompt_tokens > plain.prompt_tokens
    torch_answer = generate_text(model, "a spike", tokenizer=tokenizer, chat=True, **options)
    assert (answer.text, answer.tokens) == (torch_answer.text, torch_answer.tokens)


def test_a_tokenizer_without_a_template_is_refused(causal: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = causal
    tokenizer.chat_template = None
    engine = engine_of(model, tokenizer, tmp_path / "x.engine")
    for system, given in ((engine, None), (model, tokenizer)):
        with pytest.raises(UsageError, match="has no chat template"):
            generate_text(system, "a spike", tokenizer=given, chat=True)


@pytest.mark.parametrize(
    "template", ["{{ messages[3].role }}", "{% for", "{{ ''.__class__.__mro__[1] }}"]
)
def test_a_template_that_fails_or_leaves_its_room_is_one_error(
    causal: tuple[Any, Any], tmp_path: Path, template: str
) -> None:
    model, tokenizer = causal
    tokenizer.chat_template = template
    engine = engine_of(model, tokenizer, tmp_path / "x.engine")
    with pytest.raises(CheckpointError, match="the engine file's chat template cannot be used"):
        generate_text(engine, "a spike", chat=True)
