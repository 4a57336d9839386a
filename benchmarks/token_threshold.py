"""Perplexity of trained models whose spikes have a threshold per token, without any tuning.

    python benchmarks/token_threshold.py run --name smollm2-135m --model FOLDER --gguf-file FILE \
        --text wikitext-2=wiki.test.raw --text books=BOOKS/test --calibration train.txt
    python benchmarks/token_threshold.py table --name smollm2-135m

``run`` reads every row of ``rows()`` on the same windows of each text as the dense model, spread
evenly over it, and keeps the loss of every window below ``--folder``: an interrupted run continues.
A text is a file, or a folder of files (``books.py`` makes BOOKS). A row's change is
``exp(mean difference of losses) - 1``; its standard error is that of the mean over windows, in the
same unit. ``table`` writes ``benchmarks/results/token-threshold-NAME.json`` and ``.md``, and fills
docs/results/ between its marks. Everything runs in float32 on one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

from _sweep import RESULTS, commit, fill_pages
from _windows import digest_of, token_ids
from _windows import windows_of as spread_windows
from spikeformers.meters import Stopwatch
from spikeformers.reporting.tables import markdown
from spikeformers.storage import write_text

ALL = ["ffn", "qkv", "out", "head"]
DENSE = "dense"


def rows() -> dict[str, dict[str, Any]]:
    """Name of a row -> fields of NeurTransformerConfig, and ``density`` where it is asked for."""
    kept = {"threshold": "token", "code": "phase", "attention": "kept"}
    ffn, whole = kept | {"spiking_maps": ["ffn"]}, kept | {"spiking_maps": ALL}
    table: dict[str, dict[str, Any]] = {DENSE: {}}
    for steps in (8, 7, 6, 5):
        table[f"ffn, T={steps}"] = {**ffn, "steps": steps}
    for steps in (8, 7, 6, 5):
        table[f"all maps and head, T={steps}"] = {**whole, "steps": steps}
    table["all maps, head real, T=8"] = {**kept, "spiking_maps": ALL[:3], "steps": 8}
    for name, fields, steps in (("all maps and head", whole, 8), ("ffn", ffn, 6)):
        units = {**fields, "steps": steps, "power_of_two_units": True}
        table[f"{name}, T={steps}, units 2^n"] = units
    for name, fields, steps, reach in (
        ("all maps and head", whole, 6, 4.0),
        ("ffn", ffn, 6, 4.0),
        ("all maps and head", whole, 5, 3.0),
        ("ffn", ffn, 5, 3.0),
    ):
        table[f"{name}, T={steps}, w={reach:g}"] = {**fields, "steps": steps, "token_reach": reach}
    for digits in (1, 2, 4):
        name = f"all maps and head, T=8, no softmax: weights of {digits} digits"
        grades = {"attention": "power-of-two", "weight_digits": digits}
        table[name] = {**whole, "steps": 8, **grades}
    for winners in (3, 16):
        competition = {"attention": "cwssa", "wta": "top_k", "winners": winners}
        table[f"all maps and head, T=8, {winners} winners"] = {**whole, "steps": 8, **competition}
    for density in (0.9, 0.8, 0.7):
        name = f"all maps and head, T=8, density {density}"
        table[name] = {**whole, "steps": 8, "density": density}
    return table


def windows_of(path: str, tokenizer: Any, args: argparse.Namespace, number: int) -> Any:
    """``number`` windows of ``--context`` ids, spread evenly over the text, ``[W, T]``."""
    import torch

    first = [tokenizer.bos_token_id] if args.bos else []
    return torch.tensor(
        spread_windows(token_ids(tokenizer, path), number, args.context, first=first)
    )


class Reads:
    """How many values of each layer of neurons fired, and how many of them far ones."""

    def __init__(self, model: Any) -> None:
        from spikeformers.conversion.dead_zones import places_of

        self.places = {place.name: place for place in places_of(model)}
        self.fired = dict.fromkeys(self.places, 0)
        self.far = dict.fromkeys(self.places, 0)
        self.values = dict.fromkeys(self.places, 0)

    def __call__(self, name: str, neuron: Any, spikes: Any) -> None:
        if name in self.places:
            self.fired[name] += int((spikes != 0).sum())
            self.far[name] += int((spikes.abs() > neuron.largest).sum())
            self.values[name] += spikes.numel()

    def shares(self) -> dict[str, float]:
        weights = {name: place.weights for name, place in self.places.items()}
        total = sum(weights.values()) or 1
        return {
            "density": sum(
                weights[name] * self.fired[name] / max(self.values[name], 1) for name in weights
            )
            / total,
            "far": sum(self.far.values()) / max(sum(self.values.values()), 1),
        }


def losses_of(model: Any, windows: Any, kept: list[float], save: Any) -> dict[str, float]:
    """Append the mean loss of every window that ``kept`` has not; shares of the last ones."""
    import torch

    from spikeformers.neurons import observe

    reads = Reads(model)
    with torch.no_grad(), observe(model, reads):
        for window in windows[len(kept) :].split(1):
            logits = model(input_ids=window, use_cache=False).logits[0, :-1].float()
            kept.append(float(torch.nn.functional.cross_entropy(logits, window[0, 1:])))
            save()
    return reads.shares()


def build(
    dense: Any, tokenizer: Any, choices: dict[str, Any], calibration: Any
) -> tuple[Any, list[Any]]:
    """The model of a row, and its dead zones."""
    from spikeformers.conversion import allocate, convert, make_plan, uncalibrated

    if not choices:
        return dense, []
    fields = {key: value for key, value in choices.items() if key != "density"}
    ffn = "signed-if" if "ffn" in fields["spiking_maps"] else "kept"
    plan = make_plan(dense, ffn=ffn, **fields)
    if plan.needs_calibration:
        with tempfile.TemporaryDirectory() as folder:
            return convert(dense, tokenizer, calibration, plan, Path(folder) / "model").model, []
    model = uncalibrated(dense, plan)
    if "density" not in choices:
        return model, []
    return model, allocate(model, calibration, choices["density"])


def run(args: argparse.Namespace) -> None:
    import torch

    from spikeformers.conversion import load_source

    torch.set_num_threads(1)
    dense, tokenizer = load_source(args.model, args.gguf_file)
    texts = dict(text.split("=", 1) for text in args.text)
    windows = {
        name: windows_of(path, tokenizer, args, args.windows) for name, path in texts.items()
    }
    digests = {name: digest_of(ids) for name, ids in windows.items()}
    calibration = None
    folder = Path(args.folder) / args.name
    folder.mkdir(parents=True, exist_ok=True)
    for name, choices in rows().items():
        if args.rows and name not in args.rows.split("|"):
            continue
        path = folder / ("".join(c if c.isalnum() else "_" for c in name) + ".json")
        done = json.loads(path.read_text()) if path.is_file() else {}
        if all(len(done.get("losses", {}).get(text, ())) == args.windows for text in windows):
            continue
        calibrated = "density" in choices or choices.get("attention", "kept") != "kept"
        if calibrated and not args.calibration:
            raise SystemExit(f"{name}: name a text by --calibration.")
        if calibrated and calibration is None:
            each = args.calibration_windows // len(args.calibration)
            calibration = torch.cat(
                [windows_of(text, tokenizer, args, each) for text in args.calibration]
            )
        watch = Stopwatch()
        model, zones = build(dense, tokenizer, choices, calibration)
        record = {
            "row": name, "choices": choices, "losses": {}, "shares": {}, "dead_zones": zones,
            "commit": commit(), "torch": torch.__version__,
            "machine": f"{platform.machine()}, {platform.system()}, one thread",
            "calibration": [Path(text).name for text in args.calibration] if calibrated else None,
            "model": args.name, "parameters": dense.num_parameters(),
            "setting": {"context": args.context, "windows": args.windows, "bos": args.bos,
                        "calibration_windows": args.calibration_windows, "seed": None,
                        "sha256_of_windows": digests},
        } | done  # fmt: skip

        def save(record: dict[str, Any] = record, path: Path = path) -> None:
            write_text(path, json.dumps(record, indent=1))

        for text, ids in windows.items():
            kept = record["losses"].setdefault(text, [])
            if len(kept) < len(ids):
                record["shares"][text] = losses_of(model, ids, kept, save)
        record["cpu_seconds"] = watch.read().cpu
        save()
        print(f"{name}: {json.dumps(record['shares'])}", flush=True)
        del model


def changes(record: dict[str, Any], dense: dict[str, Any], text: str) -> dict[str, float]:
    """Perplexity, its change beside the dense model's, and the standard error of that."""
    ours, theirs = record["losses"][text], dense["losses"][text]
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    ratio = math.exp(statistics.fmean(differences))
    spread = statistics.stdev(differences) / math.sqrt(len(differences))
    return {
        "perplexity": math.exp(statistics.fmean(ours)),
        "change": ratio - 1,
        "standard_error": ratio * spread,
    }


def table(args: argparse.Namespace) -> None:
    folder = Path(args.folder) / args.name
    records = {}
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text())
        records[record["row"]] = record
    dense = records[DENSE]
    other = [name for name, record in records.items() if record["setting"] != dense["setting"]]
    if other:
        raise SystemExit(f"{', '.join(other)}: another setting than the dense row's; measure anew.")
    texts = list(dense["losses"])
    whole = {
        name: records[name]
        for name in rows()
        if name in records
        and all(len(records[name]["losses"].get(t, ())) == len(dense["losses"][t]) for t in texts)
    }
    pairs = [column for text in texts for column in (f"{text}, perplexity", "change")]
    lines = []
    for name, record in whole.items():
        record["results"] = {text: changes(record, dense, text) for text in texts}
        cells = [name]
        for text in texts:
            result = record["results"][text]
            change = f"{result['change']:+.2%} ± {result['standard_error']:.2%}"
            cells += [f"{result['perplexity']:.3f}", "" if name == DENSE else change]
        shares = record["shares"].get(texts[0], {})
        spiking = name != DENSE and shares
        cells += [f"{shares['density']:.3f}", f"{shares['far']:.2%}"] if spiking else ["1", ""]
        lines.append(cells)
    page = markdown(["row", *pairs, "weights read", "far"], lines)
    target = RESULTS / f"token-threshold-{args.name}"
    write_text(target.with_suffix(".json"), json.dumps(list(whole.values()), indent=1) + "\n")
    write_text(target.with_suffix(".md"), page)
    fill_pages(target.name, page)
    print(page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    commands = parser.add_subparsers(dest="command", required=True)
    for name, action in (("run", run), ("table", table)):
        command = commands.add_parser(name)
        command.set_defaults(action=action)
        command.add_argument("--name", required=True)
        command.add_argument("--folder", default="runs/token_threshold")
        if name == "table":
            continue
        command.add_argument("--model", required=True)
        command.add_argument("--gguf-file", default="")
        command.add_argument("--text", action="append", required=True, help="NAME=FILE; repeatable")
        command.add_argument(
            "--calibration",
            action="append",
            default=[],
            help="text for rows that are calibrated; of several, as many windows of each",
        )
        command.add_argument("--calibration-windows", type=int, default=4)
        command.add_argument("--windows", type=int, default=16)
        command.add_argument("--context", type=int, default=512)
        command.add_argument("--bos", action="store_true", help="begin each window with BOS")
        command.add_argument(
            "--rows", default="", help="names of rows, separated by |; all unless given"
        )
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    main()
