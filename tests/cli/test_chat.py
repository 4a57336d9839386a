"""``spikeformers chat``: piped, and on a pseudo-terminal as a person uses it."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from spikeformers.data import load_corpus, make_tokenizer
from spikeformers.engine import load, write
from spikeformers.export import pack
from spikeformers.generation import Chat
from spikeformers.kernels import choose
from spikeformers.models import build_config, build_model

pty = pytest.importorskip("pty")
pytestmark = pytest.mark.skipif(not choose(), reason="the native kernels are not built")

TEMPLATE = """{% for message in messages %}
<{{ message['role'] }}>{{ message['content'] }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}<assistant>{% endif %}"""
SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 16384,
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Engine files with and without a chat template, of a long context."""
    folder = tmp_path_factory.mktemp("chat")
    source = folder / "text.txt"
    source.write_text("a spike wins or loses\n" * 50)
    tokenizer = make_tokenizer("byte", load_corpus(str(source)))
    torch.manual_seed(3)
    model = build_model(build_config("wd-spikingformer-tiny", len(tokenizer), SHAPE)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("amplitude"):
                parameter += 0.3 * torch.randn_like(parameter)
    paths = {}
    for name, template in (("template", TEMPLATE), ("plain", None)):
        tokenizer.chat_template = template
        paths[name] = folder / f"{name}.engine"
        write(pack(model, tokenizer, "int8"), paths[name])
    return paths


def piped(file: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spikeformers", "chat", str(file), "--threads", "1", *options]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)


def test_piped_messages_get_the_answers_of_the_library(files: dict[str, Path]) -> None:
    done = piped(files["template"], "a spike\nwins\n", "--max-new-tokens", "9", "--seed", "4")
    assert done.returncode == 0, done.stderr
    chat = Chat(load(files["template"]), max_new_tokens=9, seed=4)
    answers = [chat.answer(message).text for message in ("a spike", "wins")]
    assert done.stdout == "".join(f"{answer}\n" for answer in answers)
    assert "the model's chat template" in done.stderr
    assert "limit of --max-new-tokens" in done.stderr


def test_without_a_template_it_says_so_and_continues_the_text(files: dict[str, Path]) -> None:
    done = piped(files["plain"], "a spike\n", "--max-new-tokens", "9", "--temperature", "0")
    chat = Chat(load(files["plain"]), max_new_tokens=9, temperature=0)
    assert done.stdout == f"{chat.answer('a spike').text}\n"
    assert "no chat template" in done.stderr
    refused = piped(files["plain"], "", "--system", "be brief")
    assert refused.returncode == 2
    assert "takes no system message" in " ".join(refused.stderr.split())


def test_messages_of_several_lines(files: dict[str, Path]) -> None:
    """By a backslash, and as a block."""
    text = 'a spike\\\nwins\n"""\nor\n\nloses\n"""\n'
    done = piped(files["template"], text, "--max-new-tokens", "5", "--temperature", "0")
    chat = Chat(load(files["template"]), max_new_tokens=5, temperature=0)
    answers = [chat.answer(message).text for message in ("a spike\nwins", "or\n\nloses")]
    assert done.stdout == "".join(f"{answer}\n" for answer in answers)


def test_commands(files: dict[str, Path]) -> None:
    text = "a spike\n/stats\n/reset\na spike\n/nothing\n/help\n /help\n/quit\nwins\n"
    done = piped(files["template"], text, "--max-new-tokens", "5", "--temperature", "0")
    chat = Chat(load(files["template"]), max_new_tokens=5, temperature=0)
    first = chat.answer("a spike")
    chat.reset()
    answers = [first.text, chat.answer("a spike").text, chat.answer(" /help").text]
    assert answers[1] == first.text
    assert done.stdout == "".join(f"{answer}\n" for answer in answers)
    rows = dict(re.findall(r"^([a-z ]+?)  +(.+)$", done.stderr, re.MULTILINE))
    assert rows["answers"] == "1"
    assert rows["tokens written"] == "5"
    assert rows["tokens read"] == str(first.stats.read)
    assert rows["density"].startswith(f"{first.stats.density:.4f}")
    assert "% of a dense model's" in rows["weights read"]
    assert rows["energy"].endswith("mJ, estimated")
    assert "tokens/s, measured" in rows["speed"]
    assert "no command /nothing" in done.stderr
    for command in ("/reset", "/stats", "/quit"):
        assert re.search(rf"^{command} ", done.stderr, re.MULTILINE)


class Terminal:
    """The program on a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "spikeformers", "chat", *arguments, "--threads", "1"]
        environment = os.environ | {"TERM": "dumb"}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment,
            preexec_fn=own_terminal,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, pattern: str, seconds: float = 60.0) -> str:
        """What came up to and with ``pattern``, which the next call begins after."""
        deadline = time.monotonic() + seconds
        while (match := re.search(pattern, self.seen)) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.seen!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                self.seen += os.read(self.master, 65536).decode("utf-8", "replace")
        before, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return before

    def end(self) -> int:
        """The exit code; the terminal is read until then, so that nothing waits for it."""
        deadline = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    os.read(self.master, 65536)
                except OSError:
                    break
        return self.process.wait(30)


def own_terminal() -> None:
    """Make the pseudo-terminal that of the program, so that its Ctrl-C is a signal."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def terminal(files: dict[str, Path]) -> Iterator[Terminal]:
    started = Terminal(str(files["template"]), "--max-new-tokens", "15000", "--temperature", "0")
    yield started
    if started.process.poll() is None:
        started.process.kill()
    started.process.wait()
    os.close(started.master)


def test_ctrl_c_stops_the_answer_and_ctrl_d_the_program(terminal: Terminal) -> None:
    greeting = terminal.wait_for("> $")
    assert "ends with \\" in greeting
    assert "Ctrl-C stops an answer" in greeting
    terminal.send("a spike\n")
    terminal.wait_for(r"a spike\r?\n")  # the echo
    terminal.wait_for(r"(?s).{40}")  # and some of the answer
    terminal.send("\x03")
    terminal.wait_for(r"\(stopped\)")
    terminal.wait_for("> $")
    assert terminal.process.poll() is None
    terminal.send("/stats\n")
    stats = terminal.wait_for("estimated")
    written = int(re.search(r"tokens written +([\d,]+)", stats)[1].replace(",", ""))  # type: ignore[index]
    assert 1 < written < 15000
    terminal.wait_for("> $")
    time.sleep(0.5)  # until it reads: a prompt is printed before
    terminal.send("\x03")  # at the prompt it ends nothing either
    terminal.wait_for("Ctrl-D leaves")
    terminal.wait_for("> $")
    terminal.send("\x04")
    assert terminal.end() == 0


def test_quit_leaves(terminal: Any) -> None:
    terminal.wait_for("> $")
    terminal.send("/quit\n")
    assert terminal.end() == 0
