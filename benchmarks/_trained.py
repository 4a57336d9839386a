"""Trained models at the quality that they have: speed beside bits per byte.

Spiking models run in the engine, dense ones (any of this project's twins) as a GPT-2 of their shape
in llama.cpp and CTranslate2, whose speed does not depend on the weights. Where no dense model is
given, those peers and the dense twin in Transformers have the first spiking model's shape, and
random weights. All read the same text.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from spikeformers.data import load_corpus, tokenize_corpus
from spikeformers.engine import Engine, EngineSystem
from spikeformers.evaluation import perplexity
from spikeformers.evaluation.peers import running
from spikeformers.evaluation.systems import System, TorchSystem, time_systems
from spikeformers.export import pack
from spikeformers.models import (
    WDSpikingformerConfig,
    WDSpikingformerForCausalLM,
    build_model,
    control_of,
    load_model,
)

TOKENS = 20_000  # of the validation split, which bits per byte are measured on


def trained(models: list[str], data: str | None, threads: int, repeats: int) -> dict[str, Any]:
    """Decode and prefill of models NAME=FOLDER that share a tokenizer, beside bits per byte."""
    if not models or data is None:
        raise SystemExit("the part `trained` needs --data TEXT and --model NAME=FOLDER.")
    corpus = load_corpus(data)
    systems: dict[str, System] = {}
    engines: dict[str, Engine] = {}
    records: dict[str, dict[str, Any]] = {}
    text: list[int] | None = None
    spiking: WDSpikingformerConfig | None = None
    dense = False
    shortest = 1 << 20
    with ExitStack() as stack:
        for given in models:
            name, _, folder = given.partition("=")
            model, tokenizer = load_model(folder)
            part = tokenize_corpus(corpus, tokenizer).split("validation")
            ids = part.tokens[:2048].tolist()
            if text is not None and ids != text:
                raise SystemExit(f"{folder} has another tokenizer: give models that share one.")
            text = ids
            config: Any = model.config
            shortest = min(shortest, config.max_position_embeddings)
            report = perplexity(model, tokenizer, part, max_tokens=TOKENS)
            records[name] = {
                "bits_per_byte": report.bits_per_byte,
                "nats_per_token": report.nats_per_token,
                "parameters": model.num_parameters(),
            }
            if isinstance(model, WDSpikingformerForCausalLM):
                spiking = spiking or config
                for weights in ("int8", "int4"):
                    engine = Engine(pack(model, None, weights), threads=threads)
                    engines[f"{name}, engine-{weights}"] = engine
                    systems[f"{name}, engine-{weights}"] = EngineSystem(engine)
                continue
            dense = True
            shape = WDSpikingformerConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
                intermediate_size=getattr(config, "intermediate_size", None),
                max_position_embeddings=config.max_position_embeddings,
            )
            for peer, system in stack.enter_context(running(shape, threads)).items():
                systems[f"{name}, {peer}"] = system
        if spiking is not None and not dense:
            systems |= {
                f"its shape, {n}": s
                for n, s in stack.enter_context(running(spiking, threads)).items()
            }
            systems["its shape, transformers-fp32"] = TorchSystem(build_model(control_of(spiking)))
        assert text is not None
        prompt = shortest // 2
        prefill, decode = time_systems(
            systems, text[: shortest - 1], prompt_tokens=prompt, repeats=repeats
        )
    results: dict[str, Any] = {}
    for system in systems:
        row = records.get(system.split(", ")[0], {}) | {
            "decode": decode[system].as_dict(),
            "prefill": prefill[system].as_dict(),
        }
        if system in engines:
            counted = engines[system].counters()
            row["density"] = counted["events"] / counted["neurons"]
        results[system] = row
        quality = f"{row['bits_per_byte']:.3f} bits/byte" if "bits_per_byte" in row else ""
        print(
            f"{system:32s}{quality:18s} density {row.get('density', 1):.3f}; tokens/s: decode "
            f"{decode[system].tokens_per_second:,.0f}, prefill "
            f"{prefill[system].tokens_per_second:,.0f}; of processor time "
            f"{decode[system].cpu_tokens_per_second:,.0f}, "
            f"{prefill[system].cpu_tokens_per_second:,.0f}",
            flush=True,
        )
    return {"models": models, "data": data, "prompt_tokens": prompt, "results": results}
