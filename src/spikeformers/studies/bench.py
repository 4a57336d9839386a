"""The engine against PyTorch, the dense twin and other programs: speed, and memory per process."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spikeformers.engine import Engine, EngineSystem, Packed, write
from spikeformers.errors import UsageError
from spikeformers.evaluation.memory import (
    Resident,
    resident_of_engine,
    resident_of_llama,
    resident_of_model,
)
from spikeformers.evaluation.peers import builds, running, usable
from spikeformers.evaluation.systems import System, TorchSystem, time_systems, weight_bytes_of
from spikeformers.kernels import choose
from spikeformers.models import MODELS, build_model, control_of, load_model
from spikeformers.models.control import has_control
from spikeformers.packaged import folder_or_path
from spikeformers.progress import Tell
from spikeformers.studies.machine import machine
from spikeformers.studies.on_machine import Pack

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

REFERENCE = "engine-int8"
WEIGHTS = ("int8", "int4", "fp32")
COUNTED = ("events", "neurons", "weight_bytes", "cache_bytes")
LLAMA = "llama.cpp-q8_0"
TWIN = "engine-int8-dense-twin"
MEMORY_TOKENS = 32


@dataclass(frozen=True)
class BenchStudy:
    """Time or memory per system; every figure is measured."""

    what: str
    """"decode", "prefill" or "memory"."""
    results: dict[str, dict[str, Any]]
    """By system: figures of `Timing` and, for the engine, its counters, the share of the weights
    that it reads, and of "decode" the microseconds of a token by part; or bytes."""
    ratios: dict[str, float]
    """engine-int8 to each: tokens per second by the wall clock, or resident bytes."""
    setting: dict[str, Any]
    """model, threads, kernels, machine, peers (how each was built), and for timings also tokens
    and repeats."""
    cpu_ratios: dict[str, float] | None = None
    """Tokens per second by processor time; None for memory."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as ``spikeformers bench --json`` prints them."""
        values = asdict(self)
        setting = values.pop("setting")
        if self.cpu_ratios is None:
            del values["cpu_ratios"]
        return values | setting


def bench_decode(
    model: str | Path,
    pack: Pack,
    *,
    threads: int = 1,
    prompt_tokens: int = 32,
    new_tokens: int = 64,
    repeats: int = 5,
    peers: bool = True,
    progress: Tell | None = None,
) -> BenchStudy:
    """Tokens per second of token-by-token generation, batch 1, of a causal model folder.

    Compares the engine in int8, int4 and fp32, PyTorch, the dense twin in Transformers and in the
    engine (int8) and, with ``peers``, other installed programs with a dense GPT-2 of its shape. The
    model may be dense itself; then it has no twin. All read a text that the model wrote itself.
    The systems take turns; figures are medians of ``repeats``. ``pack`` is ``spikeformers.pack``.
    Raises UsageError for more tokens than the context has and for a model that the engine does not
    run, EngineUnavailable without native kernels.
    """
    opened = _Opened(model, pack, threads, prompt_tokens, new_tokens, progress)
    return opened.timed("decode", repeats, peers)


def bench_prefill(
    model: str | Path,
    pack: Pack,
    *,
    threads: int = 1,
    prompt_tokens: int = 128,
    repeats: int = 5,
    peers: bool = True,
    progress: Tell | None = None,
) -> BenchStudy:
    """Tokens per second of reading a prompt; arguments and errors as `bench_decode`."""
    return _Opened(model, pack, threads, prompt_tokens, 0, progress).timed(
        "prefill", repeats, peers
    )


def bench_memory(
    model: str | Path,
    pack: Pack,
    *,
    threads: int = 1,
    peers: bool = True,
    progress: Tell | None = None,
) -> BenchStudy:
    """Resident bytes of a process that opened the model and ran a text of 32 tokens, by system.

    Interpreter and libraries are included, and also listed separately. Errors as `bench_decode`.
    """
    return _Opened(model, pack, threads, 0, MEMORY_TOKENS, progress).memory(peers)


class _Opened:
    """A model opened for all systems, with one text for all."""

    def __init__(
        self,
        folder: str | Path,
        pack: Pack,
        threads: int,
        prompt_tokens: int,
        new_tokens: int,
        progress: Tell | None,
    ) -> None:
        choose()
        torch.set_num_threads(threads)
        self.folder, self.threads, self.pack = folder_or_path(folder), threads, pack
        self.prompt_tokens, self.new_tokens = prompt_tokens, new_tokens
        self.tell = progress or (lambda *_: None)
        self.tell("packing the weights", 0, None)
        self.model, tokenizer = load_model(self.folder)
        self.packed: dict[str, Packed] = {
            f"engine-{kind}": pack(self.model, tokenizer, kind) for kind in WEIGHTS
        }
        self.engines = {
            name: Engine(packed, threads=threads) for name, packed in self.packed.items()
        }
        engine, tokens = self.engines[REFERENCE], prompt_tokens + new_tokens
        if tokens > engine.context:
            raise UsageError(
                f"{tokens} tokens are more than the context of {engine.context}; request fewer."
            )

    def _text(self) -> list[int]:
        """A text that the model writes itself, so that its spike density is realistic."""
        self.tell("writing the text", 0, None)
        engine = self.engines[REFERENCE]
        first = int(np.random.default_rng(0).integers(engine.vocabulary))
        new_tokens = self.prompt_tokens + self.new_tokens - 1
        return [first, *engine.generate([first], new_tokens, temperature=1.0)]

    def timed(self, what: str, repeats: int, peers: bool) -> BenchStudy:
        """Timings of "decode" or "prefill"."""
        ids, config = self._text(), self.model.config
        self.tell("opening the systems", 0, None)
        systems: dict[str, System] = {
            name: EngineSystem(engine) for name, engine in self.engines.items()
        }
        systems["pytorch"] = TorchSystem(self.model)
        systems |= self._twins()
        with ExitStack() as stack:
            if peers and _is_gpt2(config):
                systems |= stack.enter_context(running(config, self.threads))
            before = {name: engine.counters() for name, engine in self.engines.items()}
            reading, stepping = time_systems(
                systems, ids, prompt_tokens=self.prompt_tokens, repeats=repeats,
                progress=partial(self.tell, "turns"),
            )  # fmt: skip
        timings = stepping if what == "decode" else reading
        results = {name: timing.as_dict() for name, timing in timings.items()}
        for name, engine in self.engines.items():
            results[name] |= _counted(before[name], engine)
            text = engine.sequence()
            engine.feed(text, ids)
            results[name]["cache_bytes_per_token"] = text.bytes / text.tokens
            if what == "decode":
                results[name]["microseconds"] = self._parts(engine, ids, repeats)
        tokens = {"prompt_tokens": self.prompt_tokens, "new_tokens": self.new_tokens}
        return BenchStudy(
            what,
            results,
            _ratios(results, "tokens_per_second"),
            self._setting(peers) | tokens | {"repeats": repeats},
            _ratios(results, "cpu_tokens_per_second"),
        )

    def _twins(self) -> dict[str, System]:
        """The dense twin with random weights, on which speed does not depend, in two programs."""
        if not has_control(self.model.config):
            return {}
        twin = build_model(control_of(self.model.config))
        systems: dict[str, System] = {"dense-twin": TorchSystem(twin)}
        entry = MODELS.get(twin.config.model_type)
        if entry is not None and entry.engine:
            packed = self.pack(twin, None, "int8")
            systems[TWIN] = EngineSystem(Engine(packed, threads=self.threads))
        return systems

    def _parts(self, engine: Engine, ids: list[int], repeats: int) -> dict[str, float]:
        """Microseconds of a token by part, of the fastest repeat."""
        best: dict[str, float] = {}
        for _ in range(repeats):
            text = engine.sequence()
            engine.feed(text, ids[: self.prompt_tokens])
            engine.time()
            for token in ids[self.prompt_tokens :]:
                engine.advance(text, token)
            parts = {name: 1e6 * s / self.new_tokens for name, s in engine.seconds().items()}
            engine.time(False)
            if not best or sum(parts.values()) < sum(best.values()):
                best = parts
        return best

    def memory(self, peers: bool) -> BenchStudy:
        """Peak resident bytes of each system, in its own process."""
        results: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as temporary:
            for name, packed in self.packed.items():
                file = Path(temporary) / name
                size = write(packed, file)
                self.tell(f"a process of {name}", 0, None)
                results[name] = _bytes(resident_of_engine(file, self.threads), size)
            systems = [("pytorch", self.model, self.folder)]
            if has_control(self.model.config):
                twin = build_model(control_of(self.model.config))
                twin.save_pretrained(Path(temporary) / "twin")
                systems.append(("dense-twin", twin, Path(temporary) / "twin"))
            for name, model, at in systems:
                self.tell(f"a process of {name}", 0, None)
                resident = resident_of_model(at, self.threads)
                results[name] = _bytes(resident, weight_bytes_of(model))
        if peers and _is_gpt2(self.model.config) and usable(LLAMA, self.model.config):
            resident = resident_of_llama(self.model.config, self.threads, "Q8_0")
            results[LLAMA] = _bytes(resident, None)
        ratios = _ratios(results, "resident_bytes")
        return BenchStudy("memory", results, ratios, self._setting(peers))

    def _setting(self, peers: bool) -> dict[str, Any]:
        return {
            **{"model": str(self.folder), "threads": self.threads},
            "kernels": str(self.engines[REFERENCE].choice),
            **{"machine": machine(), "peers": builds() if peers else {}},
        }


def _bytes(resident: Resident, weight_bytes: int | None) -> dict[str, int | None]:
    return {
        "resident_bytes": resident.total,
        "library_bytes": resident.libraries,
        "weight_bytes": weight_bytes,
    }


def _is_gpt2(config: PreTrainedConfig) -> bool:
    """Whether a GPT-2 has this shape; no peer has LLaMA's gated blocks yet."""
    return not getattr(config, "has_gated_blocks", False)


def _ratios(results: dict[str, Any], key: str) -> dict[str, float]:
    return {name: results[REFERENCE][key] / figures[key] for name, figures in results.items()}


def _counted(before: dict[str, int], engine: Engine) -> dict[str, float]:
    after = engine.counters()
    moved = {key: after[key] - before[key] for key in (*COUNTED, "tokens")}
    read = moved["weight_bytes"] / moved["tokens"]
    return {
        "density": moved["events"] / max(1, moved["neurons"]),
        "weight_bytes_per_token": read,
        "weight_share": read / engine.dense_weight_bytes,
        "cache_bytes_read_per_token": moved["cache_bytes"] / moved["tokens"],
    }
