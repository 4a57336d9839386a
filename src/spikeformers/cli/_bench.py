"""What `spikeformers bench` measures, of one model."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeformers.engine import Engine, EngineSystem, write
from spikeformers.errors import UsageError
from spikeformers.evaluation.memory import (
    Resident,
    resident_of_engine,
    resident_of_llama,
    resident_of_model,
)
from spikeformers.evaluation.peers import builds, running, usable
from spikeformers.evaluation.systems import System, TorchSystem, time_systems
from spikeformers.export import pack
from spikeformers.models import build_model, control_of, load_model
from spikeformers.progress import Tell
from spikeformers.reporting.machine import machine

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

OURS = "engine-int8"
COUNTED = ("events", "neurons", "weight_bytes", "cache_bytes")


class Bench:
    """A model in every system, with one text for all."""

    def __init__(
        self,
        folder: Path,
        threads: int,
        prompt_tokens: int,
        new_tokens: int,
        repeats: int,
        peers: bool,
        progress: Tell,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.folder, self.threads, self.peers = folder, threads, peers
        self.prompt_tokens, self.new_tokens, self.repeats = prompt_tokens, new_tokens, repeats
        self.tell = progress
        self.tell("packing the weights", 0, None)
        self.model, self.tokenizer = load_model(folder)
        self.packed = {
            f"engine-{kind}": pack(self.model, self.tokenizer, kind)
            for kind in ("int8", "int4", "fp32")
        }
        self.engines = {
            name: Engine(packed, threads=threads) for name, packed in self.packed.items()
        }
        engine = self.engines[OURS]
        if prompt_tokens + new_tokens > engine.context:
            raise UsageError(
                f"{prompt_tokens + new_tokens} tokens are more than the context of "
                f"{engine.context}; ask for fewer."
            )
        first = int(np.random.default_rng(0).integers(engine.vocabulary))
        wanted = prompt_tokens + new_tokens - 1
        self.tell("writing the text", 0, None)
        self.ids = [first, *engine.generate([first], wanted, temperature=1.0)]

    def timed(self, what: str) -> dict[str, Any]:
        """Timings of "decode" or "prefill"."""
        self.tell("opening the systems", 0, None)
        config = self.model.config
        systems: dict[str, System] = {
            name: EngineSystem(engine) for name, engine in self.engines.items()
        }
        systems["pytorch"] = TorchSystem(self.model)
        systems["dense-twin"] = TorchSystem(build_model(control_of(config)))
        with ExitStack() as stack:
            if self.peers and _is_gpt2(config):
                systems |= stack.enter_context(running(config, self.threads))
            before = {name: engine.counters() for name, engine in self.engines.items()}
            reading, stepping = time_systems(
                systems, self.ids, prompt_tokens=self.prompt_tokens, repeats=self.repeats,
                progress=lambda done, of: self.tell("turns", done, of),
            )  # fmt: skip
        timings = stepping if what == "decode" else reading
        results = {name: timing.as_dict() for name, timing in timings.items()}
        for name, engine in self.engines.items():
            results[name] |= _counted(before[name], engine.counters())
            text = engine.sequence()
            engine.feed(text, self.ids)
            results[name]["cache_bytes_per_token"] = text.bytes / text.tokens
        return {
            "what": what,
            "results": results,
            "ratios": _ratios(results, "tokens_per_second"),
            "cpu_ratios": _ratios(results, "cpu_tokens_per_second"),
            **self._asked(),
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "repeats": self.repeats,
        }

    def memory(self) -> dict[str, Any]:
        """Peak resident bytes of a process of its own for each system."""
        results: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, packed in self.packed.items():
                file = Path(folder) / name
                size = write(packed, file)
                self.tell(f"a process of {name}", 0, None)
                results[name] = _resident(resident_of_engine(file, self.threads), size)
            twin = build_model(control_of(self.model.config))
            twin.save_pretrained(Path(folder) / "twin")
            for name, model, at in (
                ("pytorch", self.model, self.folder),
                ("dense-twin", twin, Path(folder) / "twin"),
            ):
                self.tell(f"a process of {name}", 0, None)
                size = sum(p.numel() * p.element_size() for p in model.parameters())
                results[name] = _resident(resident_of_model(at, self.threads), size)
            peer = "llama.cpp-q8_0"
            if self.peers and _is_gpt2(self.model.config) and usable(peer, self.model.config):
                resident = resident_of_llama(self.model.config, self.threads, "Q8_0")
                results[peer] = _resident(resident, None)
        ratios = {
            name: results[OURS]["resident_bytes"] / found["resident_bytes"]
            for name, found in results.items()
        }
        return {"what": "memory", "results": results, "ratios": ratios, **self._asked()}

    def _asked(self) -> dict[str, Any]:
        choice = str(self.engines[OURS].choice)
        return {
            **{"model": str(self.folder), "threads": self.threads},
            **{"kernels": choice, "machine": machine(), "peers": builds() if self.peers else {}},
        }


def _resident(resident: Resident, weight_bytes: int | None) -> dict[str, int | None]:
    return {
        "resident_bytes": resident.total,
        "library_bytes": resident.libraries,
        "weight_bytes": weight_bytes,
    }


def _is_gpt2(config: PreTrainedConfig) -> bool:
    """Whether a GPT-2 has this shape; LLaMA's gated blocks have no peer yet."""
    source = getattr(config, "source", None)
    return source is None or source["model_type"] in ("gpt2", "gpt_neox")


def _ratios(results: dict[str, Any], key: str) -> dict[str, float]:
    return {name: results[OURS][key] / found[key] for name, found in results.items()}


def _counted(before: dict[str, int], after: dict[str, int]) -> dict[str, float]:
    moved = {key: after[key] - before[key] for key in (*COUNTED, "tokens")}
    return {
        "density": moved["events"] / moved["neurons"],
        "weight_bytes_per_token": moved["weight_bytes"] / moved["tokens"],
        "cache_bytes_read_per_token": moved["cache_bytes"] / moved["tokens"],
    }
