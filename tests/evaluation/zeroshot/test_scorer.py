"""Log-likelihoods: against the harness' own backend, by hand, and independent of how they ran."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")

from spikeformers.errors import ConfigError, DataError, UsageError
from spikeformers.evaluation.zeroshot.cache import LikelihoodCache
from spikeformers.evaluation.zeroshot.scorer import SpikeformersLM

TEXTS = [
    ("the spike", " wins"),
    ("the spike", " loses"),
    ("the spike", " wins again"),  # a choice that begins like another
    ("the spike", " w"),
    ("", "a neuron"),
    ("a trailing space ", "stays"),
    ("all is quiet then it fires again and all is quiet", " x"),
    ("all is quiet then it fires again and all is quiet", " y"),
]


def requests(*pairs: tuple[str, str]) -> list[Any]:
    return [SimpleNamespace(args=pair, task_name="test") for pair in pairs or TEXTS]


def scores(setup: tuple[Any, Any], *pairs: tuple[str, str], **options: Any) -> list[Any]:
    return SpikeformersLM(*setup, **options).loglikelihood(requests(*pairs))


@pytest.mark.parametrize("kind", ["twin", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_harness_backend_gives_the_same_numbers(small: Any, kind: str, batch_size: int) -> None:
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = small(kind)
    backend = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    expected = backend.loglikelihood(requests(), disable_tqdm=True)
    assert scores((model, tokenizer), batch_size=batch_size) == expected  # to the last digit
    assert len({value for value, _ in expected}) == len(TEXTS)


def test_by_hand(small: Any) -> None:
    model, tokenizer = small("wd")
    ids = tokenizer("ab cd", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
    expected = sum(logs[place, ids[place + 1]].item() for place in (1, 2, 3))
    ((value, greedy),) = scores((model, tokenizer), ("ab", " cd"))
    assert value == pytest.approx(expected, abs=1e-5)
    assert greedy is False
    # the end token stands before a text without context
    end = tokenizer.bos_token_id
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([[end, ids[0]]])).logits[0].log_softmax(-1)
    expected = logs[0, ids[0]].item() + logs[1, ids[1]].item()
    assert scores((model, tokenizer), ("", "ab"))[0][0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["wd", "twin", "gpt2"])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 1},
        {"batch_size": 3},
        {"batch_size": 3, "sort": False},
        {"batch_size": "auto"},
        {"batch_size": 5, "padding": "left"},
        {"cached": True},
    ],
    ids=str,
)
def test_how_it_runs_changes_no_score(small: Any, kind: str, options: dict[str, Any]) -> None:
    setup = small(kind)
    plain = scores(setup, batch_size=8)
    other = scores(setup, **options)
    assert [value for value, _ in other] == pytest.approx([value for value, _ in plain], abs=1e-4)
    assert [greedy for _, greedy in other] == [greedy for _, greedy in plain]


@pytest.mark.parametrize("overrides", [{}, {"steps": 4, "neuron": "lif"}, {"wta": "top_k"}])
def test_membranes_do_not_leak_between_neighbours(small: Any, overrides: Any) -> None:
    setup = small("wd", **overrides)
    request, length = ("the spike", " wins"), len("the spike wins")
    quiet = ("z" * (length - 2), "zz")
    loud = ("the spike of a"[: length - 3], "all")
    beside = [scores(setup, request, other, batch_size=2)[0] for other in (quiet, loud)]
    assert beside[0] == beside[1]  # bit for bit, in a batch of the same shape
    assert scores(setup, request)[0][0] == pytest.approx(beside[0][0], abs=1e-4)


def test_options_longer_than_the_context_are_scored_completely(small: Any) -> None:
    model, tokenizer = small("wd")
    lm = SpikeformersLM(model, tokenizer, max_length=4)
    ((value, _),) = lm.loglikelihood(requests(("ab", "cdefghijk")))  # nine tokens, windows of four
    ids = tokenizer("abcdefghijk", add_special_tokens=False)["input_ids"]
    expected = 0.0
    for first, last in ((2, 5), (6, 9), (10, 10)):
        window = ids[max(0, last - 4) : last]
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([window])).logits[0].log_softmax(-1)
        for place in range(first, last + 1):
            expected += logs[place - last - 1, ids[place]].item()
    assert value == pytest.approx(expected, abs=1e-4)
    assert dict(+lm.notes) == {"split": 1}


def test_contexts_lose_their_left_end(small: Any) -> None:
    model, tokenizer = small("twin")
    lm = SpikeformersLM(model, tokenizer, max_length=8)
    ((long, _), (short, _)) = lm.loglikelihood(requests(("x" * 30 + "abcdef", "ghi"),
                                                        ("abcdef", "ghi")))  # fmt: skip
    assert long == short
    assert dict(+lm.notes) == {"truncated": 1}


def test_tokens_that_join_context_and_option_are_counted(small: Any, tmp_path: Path) -> None:
    from spikeformers.data import load_corpus, make_tokenizer

    (tmp_path / "a.txt").write_text("abab cdcd " * 200)
    corpus = load_corpus(str(tmp_path / "a.txt"))
    tokenizer = make_tokenizer("bpe:270", corpus)
    assert len(tokenizer.encode("ab")) == 1
    model, _ = small("twin", vocab_size=len(tokenizer))
    lm = SpikeformersLM(model, tokenizer)
    ((alone, _),) = lm.loglikelihood(requests(("a", "b")))
    assert dict(+lm.notes) == {"merged": 1, "unaligned": 1}
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([tokenizer.encode("a")])).logits[0, -1].log_softmax(-1)
    assert alone == pytest.approx(logs[tokenizer.encode("b")[0]].item(), abs=1e-5)


def test_rolling_scores_the_complete_text(small: Any) -> None:
    setup = small("twin")
    complete = scores(setup, ("", "the spike wins"))[0][0]
    lm = SpikeformersLM(*setup)
    assert lm.loglikelihood_rolling(requests(("the spike wins",)))[0] == pytest.approx(
        complete, abs=1e-4
    )  # type: ignore[arg-type]


def test_an_interrupted_run_continues(small: Any, tmp_path: Path) -> None:
    model, tokenizer = small("wd")
    complete = scores((model, tokenizer), batch_size=2)
    calls = 0

    def stop(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if done >= 4:
            raise KeyboardInterrupt

    def cache() -> LikelihoodCache:
        return LikelihoodCache({"model": "one"}, tmp_path)

    with pytest.raises(KeyboardInterrupt):
        scores((model, tokenizer), batch_size=2, cache=cache(), progress=stop)
    held = cache()
    assert 4 <= len(held.values) < len(TEXTS)
    assert held.path is not None
    with held.path.open("a") as stream:
        stream.write('{"key": "cut of')  # a crash in the middle of a line
    ran: list[int] = []
    forward = model.forward
    model.forward = lambda **kw: ran.append(len(kw["input_ids"])) or forward(**kw)
    assert scores((model, tokenizer), batch_size=2, cache=cache()) == complete
    assert 0 < sum(ran) < len(TEXTS)
    ran.clear()
    assert scores((model, tokenizer), batch_size=2, cache=cache()) == complete
    assert ran == []
    assert LikelihoodCache({"model": "another"}, tmp_path).values == {}


def test_values_that_were_altered_or_cut_off_are_computed_again(
    small: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = small("wd")
    complete = scores((model, tokenizer), batch_size=2)
    held = LikelihoodCache({"model": "one"}, tmp_path)
    scores((model, tokenizer), batch_size=2, cache=held)
    assert held.path is not None
    lines = held.path.read_bytes().splitlines()
    lines[0] = lines[0].replace(b"[-", b"[-1")  # another number, still JSON
    lines[1:4] = [b'{"key": 3}', b"\xff\x00", b'{"key": "cut of']
    held.path.write_bytes(b"\n".join(lines))
    again = LikelihoodCache({"model": "one"}, tmp_path)
    assert len(again.values) == len(lines) - 4
    assert f"4 of {len(lines)} lines are damaged; their values are computed again" in caplog.text
    assert scores((model, tokenizer), batch_size=2, cache=again) == complete
    assert LikelihoodCache({"model": "one"}, tmp_path).values == held.values


def test_a_cache_that_cannot_be_written_is_refused_before_anything_is_scored(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"likelihoods cannot be made: .*file is a file"):
        LikelihoodCache({}, tmp_path / "file" / "likelihoods")


def test_memory_that_runs_out_halves_the_batch(small: Any) -> None:
    model, tokenizer = small("twin")
    plain = scores((model, tokenizer), batch_size=8)
    forward, sizes = model.forward, []

    def picky(**arguments: Any) -> Any:
        sizes.append(len(arguments["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("too much")
        return forward(**arguments)

    model.forward = picky
    scored = scores((model, tokenizer), batch_size="auto")
    assert [value for value, _ in scored] == pytest.approx([value for value, _ in plain], abs=1e-4)
    assert max(sizes) > 2 >= sizes[-1]
    with pytest.raises(torch.OutOfMemoryError):
        scores((model, tokenizer), batch_size=8)


def test_what_is_refused(small: Any) -> None:
    setup = small("twin")
    with pytest.raises(DataError, match="an option of test is the empty text"):
        scores(setup, ("a", ""))
    with pytest.raises(ConfigError, match="batch size is 0"):
        SpikeformersLM(*setup, batch_size=0)
    with pytest.raises(ConfigError, match="must be left or right"):
        SpikeformersLM(*setup, padding="both")
    with pytest.raises(ConfigError, match="writes freely"):
        SpikeformersLM(*setup).generate_until([])


def test_the_harness_knows_it_by_name(small: Any, tmp_path: Path) -> None:
    from lm_eval.api.registry import get_model

    model, tokenizer = small("wd")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    lm = get_model("spikeformers").create_from_arg_string(f"pretrained={tmp_path}")
    assert lm.loglikelihood(requests(TEXTS[0])) == scores((model, tokenizer), TEXTS[0])
