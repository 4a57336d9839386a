"""Claims, each with its figure and its control, from the JSON in ``benchmarks/results/``.

A comparison of trained models is a claim only if each side has a learning rate of its own, chosen
on validation. Tables at one rate for all are on the pages, and nothing is concluded from them here.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from typing import Any

from _sweep import RESULTS, at_best_rate

Line = tuple[str, str, str]
OWN_RATES = "each at a learning rate of its own"
FASTEST = "engine, T=8, int4 in groups"  # of the real model's rows at no more than Q8_0's loss


def load(name: str) -> Any:
    """The JSON of a result, or None."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def of(results: list[dict[str, Any]], row: str) -> list[dict[str, Any]]:
    """The runs of one row, one per seed."""
    return [result for result in results if result["row"] == row]


def spread(values: list[float], digits: int) -> str:
    """Mean, and the sample deviation of several seeds."""
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) < 2:
        return text
    return f"{text} ± {statistics.stdev(values):.{digits}f}"


def seeds_of(number: int) -> str:
    """A number of seeds in words."""
    return "one seed" if number == 1 else f"{number} seeds"


def trained_pair(row: str, model: str) -> Iterator[Line]:
    """The spiking model and its twin, each at the learning rate that its own search chose."""
    results = load("quality-wikitext-2-searched") or []
    spiking, dense = (at_best_rate(results, each) for each in (row, "dense-rotary"))
    if not spiking or not dense:
        return

    def bits(runs: list[dict[str, Any]]) -> str:
        return spread([run["perplexity"]["bits_per_byte"] for run in runs], 3)

    def nanojoules(runs: list[dict[str, Any]]) -> str:
        picojoules = [run["energy"]["with_elementwise_per_token"] for run in runs]
        return f"{statistics.mean(picojoules) / 1e3:,.0f}"

    read = statistics.mean(run["weights_read"] for run in spiking)
    yield (
        f"{model}, {spiking[0]['parameters'] / 1e6:.1f} M parameters, "
        f"WikiText-2 test, seeds: {len(spiking)} and {len(dense)}",
        f"{bits(spiking)} bits/byte; {read:.0%} of weights read per token; "
        f"{nanojoules(spiking)} nJ/token",
        f"dense twin, a learning rate of its own: {bits(dense)}; {nanojoules(dense)} nJ/token",
    )


def real_model() -> Iterator[Line]:
    """SmolLM2-135M in the engine beside llama.cpp, on the first text and with one thread."""
    from real_model import BASELINE, best
    from real_model import DENSE as UNCONVERTED

    results = load("real-model")
    if not results:
        return
    losses, run = results["losses"], results["speeds"][0]
    text = next(iter(losses[UNCONVERTED]))

    def change(row: str) -> str:
        ours, theirs = (statistics.fmean(losses[name][text]) for name in (row, UNCONVERTED))
        speed = best(run["decode"], row)
        return f"perplexity {math.exp(ours - theirs) - 1:+.2%}, {speed:.0f} tokens/s"

    yield (
        "SmolLM2-135M, every linear map spiking, no training",
        change(FASTEST),
        f"{BASELINE}: {change(BASELINE)}",
    )


def without_softmax() -> Iterator[Line]:
    """SmolLM2-135M with spiking attention beside the same with its softmax kept, on both texts."""
    results = {record["row"]: record for record in load("token-threshold-smollm2-135m") or []}

    def changes(row: str) -> str:
        of_texts = results[row]["results"].items()
        return ", ".join(f"{text} {result['change']:+.1%}" for text, result in of_texts)

    kept = "all maps and head, T=8"
    grades = f"{kept}, no softmax: weights of 4 digits"
    if grades in results:
        yield (
            "SmolLM2-135M, every linear map and attention spiking, no softmax, no training",
            f"perplexity {changes(grades)}",
            f"softmax kept: {changes(kept)}",
        )


def distilled(name: str, source: str) -> Iterator[Line]:
    """BiSpikCLM with all five losses beside cross-entropy, on test."""
    from distill import CONTROL

    results = load(f"distill-{name}-searched") or []
    if not of(results, CONTROL) or not of(results, "all five terms"):
        return

    def figure(row: str) -> str:
        runs = at_best_rate(results, row)
        bits = spread([run["perplexity"]["bits_per_byte"] for run in runs], 3)
        return f"{bits} bits/byte, {seeds_of(len(runs))}"

    yield (
        f"BiSpikCLM with five losses, {source}, test, {OWN_RATES}",
        figure("all five terms"),
        f"cross-entropy only {figure(CONTROL)}",
    )


def converted(name: str, subject: str, lines: list[tuple[str, list[str]]]) -> Iterator[Line]:
    """Rows of a converted model beside its original."""
    by_row = {result["row"]: result for result in load(f"conversion-{name}") or []}
    for what, rows in lines:
        present = [by_row[row] for row in rows if row in by_row]
        if len(present) < len(rows):
            continue
        first = present[0]["original"]

        def say(result: dict[str, Any], original: dict[str, Any] = first) -> str:
            energy = result["spiking"]["energy"]["papers"] / original["energy"]["papers"]
            kind = result["row"].removeprefix("ffn ").removeprefix("whole ")
            return f"{result['spiking']['perplexity']:.2f} ({kind}; {energy:.2f} of the energy)"

        yield (
            f"{subject}, {what}",
            "perplexity " + "; ".join(say(result) for result in present),
            f"original {first['perplexity']:.2f}, {first['tokens']:,} tokens",
        )


def zeroshot() -> Iterator[Line]:
    """A dense model over the eight sets; how often the models trained here are above chance."""

    def accuracies(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {name: by_task["metrics"]["acc"] for name, by_task in result["tasks"].items()}

    for result in load("zeroshot-smollm2") or []:
        by_task = accuracies(result)
        yield (
            f"{result['model']['name']} (dense), zero-shot accuracy, all documents",
            ", ".join(f"{name} {100 * acc['value']:.1f}" for name, acc in by_task.items()),
            "chance " + ", ".join(f"{100 * acc['chance']:.1f}" for acc in by_task.values()),
        )
    results = load("zeroshot-models") or []
    scores = [acc for result in results for acc in accuracies(result).values()]
    if scores:
        above = sum(acc["value"] > acc["chance"] and not acc["at_chance"] for acc in scores)
        documents = max(
            by_task["documents"] for result in results for by_task in result["tasks"].values()
        )
        largest = max(result["model"]["parameters"] for result in results) / 1e6
        means = [result["means"]["commonsense"]["acc"] for result in results]
        low, high = (100 * pick(mean["value"] for mean in means) for pick in (min, max))
        yield (
            f"{len(results)} models trained here, spiking and dense, up to {largest:.1f} M "
            f"parameters, zero-shot, up to {documents:,} documents per set",
            f"{above} of {len(scores)} accuracies above chance by two standard errors; mean of the "
            f"three commonsense sets {low:.1f} to {high:.1f}",
            f"chance; that mean: {100 * means[0]['chance']:.1f}, published for 0.4 B of "
            "arXiv 2604.11321: 43.2",
        )


def sentences() -> Iterator[Line]:
    """A small masked model fine-tuned on tasks of GLUE, beside its twin and one answer."""
    from spikeformers.training.glue import summarise

    if results := load("glue-glue-searched"):
        kept = [run for row in {r["row"] for r in results} for run in at_best_rate(results, row)]
        kept.sort(key=lambda run: run["row"])
        spiking, dense = (
            summarise([run for run in kept if run["row"].startswith(f"{model},")])
            for model in ("spiking", "dense twin")
        )
        result, before = results[0], results[0]["pretrained"]
        tokens = before["steps"] * before["batch_size"] * before["context"] / 1e6
        seeds = len({run["seed"] for run in results})
        tasks = list(spiking["tasks"])
        mean_of = f"mean of {len(tasks)} tasks of GLUE" if len(tasks) > 1 else tasks[0].upper()
        same = {task: x["majority"]["standard"] for task, x in spiking["tasks"].items()}
        yield (
            f"WE-Spikingformer tiny ({result['parameters'] / 1e6:.1f} M, {tokens:.1f} M tokens of "
            f"books), {mean_of}, dev sets, {seeds} seeds, {OWN_RATES}",
            _scores(spiking),
            f"dense twin {_scores(dense)}; the same answer to all "
            f"{spiking['majority_means']['standard']:.1f}{_each(same)}",
        )


def _scores(summary: dict[str, Any]) -> str:
    of_task = {task: x["standard"]["mean"] for task, x in summary["tasks"].items()}
    return f"{summary['means']['standard']:.1f}{_each(of_task)}"


def _each(of_task: dict[str, float]) -> str:
    """The scores behind a mean; of one task nothing more is to say."""
    each = ", ".join(f"{task} {score:.1f}" for task, score in of_task.items())
    return f" ({each})" if len(of_task) > 1 else ""


def images() -> Iterator[Line]:
    """A2OS2A beside all binary and the ViT twin."""
    sets = {"digits": "digits", "fashion-mnist": "Fashion-MNIST", "cifar10-jpeg": "CIFAR-10 (JPEG)"}
    for name, title in sets.items():
        results = load(f"vision-{name}-searched") or []
        if not all(of(results, row) for row in ("a2os2a", "all-binary", "dense")):
            continue

        def score(row: str, results: list[dict[str, Any]] = results) -> str:
            runs = at_best_rate(results, row)
            return spread([100 * result["accuracy"] for result in runs], 1)

        runs = at_best_rate(results, "a2os2a")
        yield (
            f"A2OS2A on {title}, {runs[0]['images_seen']:,} images seen, {OWN_RATES}",
            f"{score('a2os2a')} %, {seeds_of(len(runs))}",
            f"binary Q, K and V {score('all-binary')}; ViT twin {score('dense')}",
        )


def engine() -> Iterator[Line]:
    """Speed and memory of 12 x 768 beside dense models of its shape."""
    record = load("engine")
    if not record:
        return
    names = {
        "llama.cpp-q8_0": "llama.cpp Q8_0",
        "ctranslate2-int8": "CTranslate2 int8",
        "transformers-fp32": "Transformers fp32",
        "dense-twin": "Transformers fp32",
    }

    def times(ratios: dict[str, float]) -> str:
        named = {names[key]: value for key, value in ratios.items() if key in names}
        return ", ".join(f"{value:.1f} times {name}" for name, value in named.items())

    for phase, title in (("decode", "decode"), ("prefill", "a prompt of 512 tokens")):
        speeds, beside = [], []
        for threads, spelled in (("threads 1", "one thread"), ("threads 2", "two threads")):
            results = record[threads]["trained"]["results"]
            mine = results["spiking, engine-int8"]
            speed = mine[phase]["tokens_per_second"]
            ratios = {
                key.removeprefix("its shape, "): speed / figures[phase]["tokens_per_second"]
                for key, figures in results.items()
                if key.startswith("its shape")
            }
            speeds.append(f"{speed:,.0f} tokens/s with {spelled}")
            beside.append(times(ratios))
        density = mine["density"]
        yield (
            f"engine, int8, 12 x 768 trained to a density of {density:.2f}, {title}",
            "; ".join(speeds),
            "; ".join(beside),
        )
    figures = record["threads 1"]["model"]["0.15"]
    yield (
        "synthetic spikes, density 0.15, decode, one thread",
        f"{figures['decode']['engine-int8']['tokens_per_second']:,.0f} tokens/s",
        times(figures["decode_ratios"]),
    )
    context = record["threads 1"]["context"]
    results = {key: value["wall"] for key, value in context["results"].items()}
    yield (
        f"the same, {context['tokens']:,} tokens into a text",
        f"{results['engine-int8']:.0f} tokens/s",
        f"with an fp16 cache: Transformers {results['pytorch fp16']:.2f}, "
        f"llama.cpp {results['llama.cpp-q8_0']:.1f}",
    )
    memory = {
        key: figures["resident_bytes"] / 2**20
        for key, figures in record["threads 1"]["memory"].items()
    }
    yield (
        "resident memory at 12 x 768, random weights",
        f"{memory['engine-int8']:.0f} MiB (int4: {memory['engine-int4']:.0f})",
        f"dense twin in PyTorch {memory['dense-twin']:.0f} MiB",
    )


def tiny() -> Iterator[Line]:
    """Speed of the tiny pair of about equal quality."""
    if record := load("engine-tiny"):
        results = record["threads 1"]["trained"]["results"]

        def rate(name: str) -> str:
            return f"{results[name]['decode']['cpu_tokens_per_second']:,.0f}"

        mine, theirs = results["spiking, engine-int8"], results["dense, llama.cpp-q8_0"]
        yield (
            f"tiny, trained to about equal quality ({mine['bits_per_byte']:.2f} bits/byte; dense "
            f"{theirs['bits_per_byte']:.2f} on half the tokens), decode, by processor time",
            f"{rate('spiking, engine-int8')} tokens/s",
            f"llama.cpp Q8_0 {rate('dense, llama.cpp-q8_0')}, "
            f"CTranslate2 int8 {rate('dense, ctranslate2-int8')}",
        )


def energy() -> Iterator[Line]:
    """Energy of the tiny pair, memory included."""
    if record := load("energy-tiny"):
        sides = record["prices"]["horowitz45"]

        def cost(side: str, phase: str, context: int) -> float:
            rows = sides[side]["formats"]["int8"]
            row = next(r for r in rows if (r["phase"], r["context"]) == (phase, context))
            return float(row["picojoules"]) / 1e6

        prompt = cost("model", "prefill", 128) / cost("control", "prefill", 128)
        yield (
            "energy with memory, tiny, int8, decode at 1,024 tokens",
            f"{cost('model', 'decode', 1024):.0f} uJ per token",
            f"int8 twin {cost('control', 'decode', 1024):.0f} uJ; in a prompt of 128 tokens "
            f"{prompt:.2f} of the twin's",
        )
