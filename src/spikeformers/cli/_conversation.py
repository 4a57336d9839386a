"""A chat on the terminal: messages and commands come in, answers go out as they are written."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from spikeformers.cli._output import say
from spikeformers.errors import DataError, SpikeformersError
from spikeformers.values import bytes_in_words

if TYPE_CHECKING:
    from spikeformers.generation import Chat

BLOCK = '"""'
COMMANDS = {
    "/reset": "begin a new conversation",
    "/stats": "show tokens, speed, density, bytes of weights and estimated energy",
    "/help": "list the commands",
    "/quit": "leave, as Ctrl-D does",
}
SEVERAL_LINES = (
    f"A line that ends with \\ continues in the next one; {BLOCK} begins and ends a block."
)
ENDS = {
    "length": "the limit of --max-new-tokens is reached",
    "context": "the context is full; /reset begins a new conversation",
    "stopped": "stopped",
}


class Conversation:
    """Reads messages from standard input until it ends."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.on_terminal = sys.stdin.isatty()
        self._prompts = self.on_terminal and sys.stdout.isatty()

    def run(self) -> None:
        """Answer each message; returns at the end of input, or after /quit."""
        self._greet()
        while True:
            try:
                message = self._message()
            except EOFError:
                if self.on_terminal:
                    say("")
                return
            except KeyboardInterrupt:
                if not self.on_terminal:
                    raise
                say("\n/quit or Ctrl-D leaves.", "dim")
                continue
            if message.rstrip() == "/quit":
                return
            self._take(message)

    def _take(self, message: str) -> None:
        """Run a command, or answer a message."""
        word = message.rstrip()
        commands: dict[str, Callable[[], None]] = {
            "/reset": self._reset, "/stats": self.show_stats, "/help": self._help,
        }  # fmt: skip
        if word in commands:
            commands[word]()
        elif message.startswith("/") and " " not in word and "\n" not in word:
            say(f"there is no command {word}; /help lists them.", "yellow")
        elif word.strip():
            self._answer(message)

    def _answer(self, message: str) -> None:
        try:
            with _interrupts() as interrupted:
                answer = self.chat.answer(message, show=_write, stopped=interrupted.is_set)
        except SpikeformersError as error:
            say(str(error), "red")
            return
        _write("\n")
        if (ended := ENDS.get(answer.finish_reason)) is not None:
            say(f"({ended})", "dim")

    def _message(self) -> str:
        """A message of one line or several. EOFError at the end of input."""
        line = self._line("> ")
        if line.strip() == BLOCK:
            return self._block()
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self._line(". "))
        return "\n".join(lines)

    def _block(self) -> str:
        lines: list[str] = []
        while (line := self._line(". ")).strip() != BLOCK:
            lines.append(line)
        return "\n".join(lines)

    def _line(self, prompt: str) -> str:
        try:
            return input(prompt if self._prompts else "")
        except UnicodeDecodeError as error:
            raise DataError(f"the message is not UTF-8 text: {error.reason}.") from error

    def _greet(self) -> None:
        if self._prompts:
            with suppress(ImportError):
                import readline  # noqa: F401  (`input` gets a history and keys from it)
        way = (
            "Messages are written in the model's chat template."
            if self.chat.has_template
            else "This model has no chat template: it continues the text, of which each message "
            "is a new line."
        )
        say(way, "bold")
        if self.on_terminal:
            say(
                f"{SEVERAL_LINES} Ctrl-C stops an answer, Ctrl-D leaves, /help lists commands.",
                "dim",
            )

    def _reset(self) -> None:
        self.chat.reset()
        say("A new conversation.", "dim")

    def _help(self) -> None:
        _say_rows(COMMANDS)
        say(f"{SEVERAL_LINES} A message that begins with / is written after a space.", "dim")

    def show_stats(self) -> None:
        """Print what the answers of this program took."""
        from spikeformers.serving.spikes import SpikeMeter

        stats = self.chat.stats
        meter = SpikeMeter(self.chat.engine)
        spikes = meter.usage(stats.cost, stats.read, stats.predictions).as_dict()
        read, dense = spikes["weight_bytes_read"], spikes["dense_weight_bytes"]
        share = f" ({read / dense:.1%} of a dense model's {bytes_in_words(dense)})" if dense else ""
        rows = {
            "answers": f"{stats.answers:,}",
            "tokens written": f"{stats.tokens:,}",
            "tokens read": f"{stats.read:,}",
            "speed": f"{stats.tokens_per_second:,.1f} tokens/s, measured, prompts included",
            "density": f"{stats.density:.4f} of the neurons fired",
            "weights read": f"{bytes_in_words(read)}{share}",
            "energy": f"{spikes['estimated_nanojoules'] / 1e6:,.3f} mJ, estimated",
        }
        _say_rows(rows)


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, in place of ending the program."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def on_interrupt(number: int, frame: Any) -> None:
        interrupted.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _say_rows(rows: Mapping[str, str]) -> None:
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        say(f"{name:{width}}{value}")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
