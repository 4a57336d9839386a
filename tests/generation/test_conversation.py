"""A conversation with the engine: what it reads, what it remembers, what it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spikeformers.data import load_corpus, make_tokenizer
from spikeformers.engine import Engine
from spikeformers.errors import CheckpointError, UsageError
from spikeformers.export import pack
from spikeformers.generation import Chat, generate_text
from spikeformers.kernels import choose
from spikeformers.models import build_config, build_model

TEMPLATE = """{% for message in messages %}
{% if message['content'] == 'raise' %}{{ raise_exception('not this') }}{% endif %}
<{{ message['role'] }}>{{ message['content'] }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}<assistant>{% endif %}"""
SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 256,
}  # fmt: skip

pytestmark = pytest.mark.skipif(not choose(), reason="the native kernels are not built")


def make_engine(folder: Path, template: str | None) -> Engine:
    source = folder / "text.txt"
    source.write_text("a spike wins or loses\n" * 50)
    tokenizer = make_tokenizer("byte", load_corpus(str(source)))
    tokenizer.chat_template = template
    torch.manual_seed(3)
    model = build_model(build_config("wd-spikingformer-tiny", len(tokenizer), SHAPE)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("amplitude"):
                parameter += 0.3 * torch.randn_like(parameter)
    return Engine(pack(model, tokenizer, "int8"), threads=1)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return make_engine(tmp_path, TEMPLATE)


@pytest.fixture
def plain(tmp_path: Path) -> Engine:
    """Without a chat template."""
    return make_engine(tmp_path, None)


def rendered(*turns: tuple[str, str], end: Any) -> str:
    return "".join(f"<{role}>{content}{end}\n" for role, content in turns) + "<assistant>"


def test_the_first_answer_is_that_of_generate(engine: Engine) -> None:
    for temperature in (0.0, 0.9):
        options: dict[str, Any] = {"max_new_tokens": 20, "temperature": temperature, "seed": 7}
        written = generate_text(engine, "a spike", chat=True, **options)
        pieces: list[str] = []
        answer = Chat(engine, **options).answer("a spike", show=pieces.append)
        assert (answer.text, answer.finish_reason) == (written.text, written.finish_reason)
        assert "".join(pieces) == answer.text
        assert answer.stats.tokens == written.tokens == 20


def test_the_second_answer_continues_the_whole_conversation(engine: Engine) -> None:
    chat = Chat(engine, system="be brief", max_new_tokens=12, temperature=0)
    first = chat.answer("a spike").text
    second = chat.answer("wins").text
    assert chat.messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a spike"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "wins"},
        {"role": "assistant", "content": second},
    ]
    history = [("system", "be brief"), ("user", "a spike"), ("assistant", first), ("user", "wins")]
    text = rendered(*history, end=engine.tokenizer.eos_token)
    ids = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
    alone = list(engine.generate(ids, 12))
    assert second == engine.tokenizer.decode(alone)


def test_only_what_is_new_is_read(plain: Engine) -> None:
    """A byte is a token: 7 of the message, 5 written, of which the last is not read yet."""
    chat = Chat(plain, max_new_tokens=5, temperature=0)
    special = len(plain.tokenizer("")["input_ids"])
    first = chat.answer("a spike")
    assert first.stats.read == special + 7 + 4
    assert first.stats.predictions == 1 + 4
    if "\ufffd" not in first.text:
        second = chat.answer("wins")
        assert second.stats.read == 1 + len("\n") + 4 + 4


def test_without_a_template_each_message_is_a_new_line_of_the_text(plain: Engine) -> None:
    chat = Chat(plain, max_new_tokens=6, temperature=0)
    assert not chat.has_template
    first = chat.answer("a spike").text
    second = chat.answer("wins").text
    assert first == generate_text(plain, "a spike", max_new_tokens=6, temperature=0).text
    so_far = f"a spike{first}" + ("" if first.endswith("\n") else "\n")
    assert second == generate_text(plain, f"{so_far}wins", max_new_tokens=6, temperature=0).text
    with pytest.raises(UsageError, match="no chat template"):
        Chat(plain, system="be brief")


def test_the_same_messages_after_a_reset_get_the_same_answers(engine: Engine) -> None:
    chat = Chat(engine, max_new_tokens=10, temperature=1.0, seed=5)
    first = [chat.answer(message).text for message in ("a spike", "wins")]
    assert (
        first[0] != Chat(engine, max_new_tokens=10, temperature=1.0, seed=6).answer("a spike").text
    )
    chat.reset()
    assert chat.messages == []
    assert [chat.answer(message).text for message in ("a spike", "wins")] == first
    assert chat.stats.answers == 4


def test_a_stopped_answer_is_kept_as_far_as_it_came(engine: Engine) -> None:
    chat = Chat(engine, max_new_tokens=40, temperature=0)
    whole = Chat(engine, max_new_tokens=40, temperature=0).answer("a spike").text
    looks: list[int] = []

    def stopped() -> bool:
        looks.append(1)
        return len(looks) > 8

    answer = chat.answer("a spike", stopped=stopped)
    assert answer.finish_reason == "stopped"
    assert 0 < answer.stats.tokens < 10
    assert whole.startswith(answer.text)
    assert chat.messages[-1] == {"role": "assistant", "content": answer.text}
    assert chat.answer("wins").finish_reason == "length"


def test_a_prompt_that_is_stopped_leaves_an_empty_answer(engine: Engine) -> None:
    chat = Chat(engine, max_new_tokens=5, temperature=0)
    answer = chat.answer("a spike", stopped=lambda: True)
    assert (answer.text, answer.finish_reason, answer.stats.read) == ("", "stopped", 0)
    assert chat.answer("wins").stats.tokens == 5


def test_stats_are_the_engines_counters(engine: Engine) -> None:
    before = engine.counters()
    chat = Chat(engine, max_new_tokens=9)
    for message in ("a spike", "wins"):
        chat.answer(message)
    counters = {name: count - before[name] for name, count in engine.counters().items()}
    stats = chat.stats
    assert (stats.answers, stats.tokens, stats.read) == (2, 18, counters["tokens"])
    assert stats.cost.events == counters["events"] > 0
    assert stats.cost.neurons == counters["neurons"]
    assert stats.cost.weight_bytes == counters["weight_bytes"]
    assert stats.density == counters["events"] / counters["neurons"]
    assert stats.seconds > 0


def test_a_full_context_is_refused_and_changes_nothing(engine: Engine) -> None:
    chat = Chat(engine, max_new_tokens=4, temperature=0)
    chat.answer("a spike")
    before = list(chat.messages)
    with pytest.raises(UsageError, match=r"longer than the context: .* takes 256"):
        chat.answer("x" * 300)
    assert chat.messages == before
    assert chat.stats.answers == 1
    assert chat.answer("wins").finish_reason == "length"


def test_an_answer_ends_with_the_context(engine: Engine) -> None:
    answer = Chat(engine, max_new_tokens=500, temperature=0).answer("x" * 200)
    assert answer.finish_reason == "context"


def test_a_template_that_refuses_a_message_is_an_error(engine: Engine) -> None:
    chat = Chat(engine, max_new_tokens=4)
    with pytest.raises(CheckpointError, match="not this"):
        chat.answer("raise")
    assert chat.messages == []
