"""Rows of a table, each a training run in a separate process: run, resume, collect, fill pages.

A script defines its rows and two functions, one that trains a row and one that writes the table.
Finished rows are kept, unfinished ones resume (a resumed run has no CPU time). Rows that are
already in ``benchmarks/results/``, from any machine, count as finished, so that a table can grow
over several sessions. ``one`` trains a row in any case, and its result replaces the old one.

With ``--search`` each row gets its own learning rate: seed 0 runs at each of the row's rates, and
at half or double the best rate while that is the lowest or highest one, compared by
``validation_loss`` of the results; then the other seeds run at the best rate. The test split is not
used for this choice. A sweep may choose where a row's search begins by the results so far.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spikeformers.reporting.tables import markdown
from spikeformers.storage import write_text

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "results.md",
    *sorted((ROOT / "docs" / "results").glob("*.md")),
)
MOST_RATES = 6
Setup = Callable[[argparse.ArgumentParser], None]


@dataclass(frozen=True)
class Sweep:
    """The rows of a table: ``name`` of the folder under ``runs/``, ``seeds`` of each row.

    ``train(args, out)`` trains ``args.row`` with ``args.seed`` into ``out`` and returns the result,
    or None if it was interrupted; ``table(name, results)`` is Markdown. ``more`` are tables of the
    same results under other marks, empty if there is nothing to show. ``rates``: the first learning
    rates of each row's search, for a sweep that offers one; ``start(row, results)`` chooses others.
    ``verbs``: further commands, each with its options and its action.
    """

    script: str
    name: str
    seeds: Mapping[str, tuple[int, ...]]
    train: Callable[[argparse.Namespace, Path], dict[str, Any] | None]
    table: Callable[[str, list[dict[str, Any]]], str]
    options: Setup
    rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    more: Mapping[str, Callable[[list[dict[str, Any]]], str]] = field(default_factory=dict)
    start: Callable[[str, list[dict[str, Any]]], tuple[float, ...]] | None = None
    verbs: Mapping[str, tuple[Setup, Callable[[argparse.Namespace], None]]] = field(
        default_factory=dict
    )

    @property
    def runs(self) -> Path:
        return Path("runs") / self.name

    def main(self, doc: str | None) -> None:
        parser = argparse.ArgumentParser(description=doc)
        commands = parser.add_subparsers(dest="command", required=True)
        run = commands.add_parser("run", help="train rows")
        run.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
        run.add_argument("--rows", help="'ssa|softmax': rows, separated by a bar; all unless given")
        run.add_argument("--seeds", default="0,1,2", help="only these of each row's seeds")
        one_row = commands.add_parser("one", help="train one row here")
        one_row.add_argument("--row", required=True, choices=list(self.seeds))
        one_row.add_argument("--seed", type=int, required=True)
        for sub in (run, one_row):
            sub.add_argument("--data", default="builtin", help="builtin, or a corpus folder")
            sub.add_argument("--name", help="of table and folder; the corpus' unless given")
            sub.add_argument("--steps", type=int, default=1000)
            sub.add_argument("--batch", type=int, default=16)
            sub.add_argument("--context", type=int, default=128)
            self.options(sub)
        if self.rates:
            run.add_argument("--search", action="store_true", help="a learning rate for each row")
            run.add_argument(
                "--most-rates",
                type=int,
                default=MOST_RATES,
                help=f"end each row's search after so many rates; {MOST_RATES} unless given",
            )
            one_row.add_argument("--rate", type=float, help="learning rate; the row's unless given")
        commands.add_parser("table", help="write the tables of all results")
        for verb, (setup, _) in self.verbs.items():
            setup(commands.add_parser(verb))
        args, rest = parser.parse_known_args()
        if rest:
            parser.error(f"unknown arguments: {' '.join(rest)}")
        if args.command == "run":
            self._run(args)
        elif args.command == "one":
            self._one(args)
        elif args.command in self.verbs:
            self.verbs[args.command][1](args)
        else:
            self._tables()

    def folder(
        self, args: argparse.Namespace, row: str, seed: int, rate: float | None = None
    ) -> Path:
        """Run folder of one row and seed, and of the learning rate if it is searched."""
        name = "".join(c if c.isalnum() or c in "-." else "_" for c in row)
        name += f"-s{seed}" if rate is None else f"-s{seed}-lr{rate:g}"
        return self.runs / (args.name or Path(args.data).name) / name

    def _run(self, args: argparse.Namespace) -> None:
        rows = args.rows.split("|") if args.rows else list(self.seeds)
        seeds = [int(seed) for seed in args.seeds.split(",")]
        name = args.name or Path(args.data).name
        shared = _options_of(sys.argv[sys.argv.index("run") + 1 :])

        def train(seed: int, row: str, rate: float | None = None) -> bool:
            """Train one row unless it is finished; returns whether it has a result now."""
            if _result_of(self.results(name), row, seed, rate):
                return True
            command = [sys.executable, self.script, "one", "--row", row, "--seed", str(seed)]
            if rate is not None:
                command += ["--rate", repr(rate)]
            folder = self.folder(args, row, seed, rate)
            log = folder.with_name(f"{folder.name}.log")
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8") as stream:
                code = subprocess.run(
                    [*command, *shared], stdout=stream, stderr=stream, check=False
                ).returncode
            outcome = "done" if code == 0 else f"exit {code}, see {log}"
            at = "" if rate is None else f" at {rate:g}"
            print(f"{row} seed {seed}{at}: {outcome}", flush=True)
            return code == 0

        def search(row: str) -> None:
            """Find the row's learning rate with its first seed, then run its other seeds."""
            first, *others = [seed for seed in seeds if seed in self.seeds[row]]
            start = self.start and self.start(row, self.results(name))
            rates = list(start or self.rates[row])
            for rate in rates:  # grows while the best is the lowest or highest
                if not train(first, row, rate):
                    return
                if len(rates) < args.most_rates and rate == rates[-1]:
                    best = best_rate(self.results(name), row)
                    rates += [best / 2] if best == min(rates) else []
                    rates += [best * 2] if best == max(rates) else []
            for seed in others:
                train(seed, row, best_rate(self.results(name), row))

        with ThreadPoolExecutor(args.jobs) as pool:
            if self.rates and args.search:
                list(pool.map(search, rows))
            else:
                work = [(seed, row) for seed in seeds for row in rows if seed in self.seeds[row]]
                list(pool.map(lambda item: train(*item), work))

    def _one(self, args: argparse.Namespace) -> None:
        import torch

        out = self.folder(args, args.row, args.seed, getattr(args, "rate", None))
        if (out / "result.json").is_file():
            return
        torch.set_num_threads(1)
        result = self.train(args, out)
        if result is None:
            sys.exit(130)
        result |= {
            "row": args.row,
            "seed": args.seed,
            "commit": commit(),
            "machine": f"{platform.machine()}, {platform.system()}, one thread",
            "torch": torch.__version__,
        }
        write_text(out / "result.json", json.dumps(result, indent=1))

    def results(self, name: str) -> list[dict[str, Any]]:
        """All finished rows of one table, from this machine and from ``benchmarks/results/``."""
        paths = sorted((self.runs / name).glob("*/result.json"))
        results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        results = with_kept(f"{self.name}-{name}", results)
        return sorted(results, key=lambda result: (result["row"], _seed(result), _rate(result)))

    def _tables(self) -> None:
        for folder in sorted(p for p in self.runs.iterdir() if p.is_dir()):
            results = self.results(folder.name)
            if results:
                save_table(f"{self.name}-{folder.name}", self.table(folder.name, results), results)
                for mark, further_table in self.more.items():
                    if text := further_table(results):
                        fill_pages(f"{mark}-{folder.name}", text)
                        print(text)


def _options_of(arguments: list[str]) -> list[str]:
    """The arguments of ``run`` that ``one`` takes too."""
    drop, flags = {"--jobs", "--rows", "--seeds", "--most-rates"}, {"--search"}
    return [
        part
        for i, part in enumerate(arguments)
        if part not in drop | flags and not (i and arguments[i - 1] in drop)
    ]


def _seed(result: dict[str, Any]) -> int:
    """Seed of a result; 0 in a table of rows without seeds."""
    return int(result.get("seed", 0))


def _rate(result: dict[str, Any]) -> float:
    """Learning rate that a result was searched with; 0 in a table without a search."""
    return result["learning_rate"] if "validation_loss" in result else 0.0


def _result_of(
    results: list[dict[str, Any]], row: str, seed: int, rate: float | None
) -> dict[str, Any] | None:
    for result in results:
        if (result["row"], _seed(result)) == (row, seed) and rate in (None, _rate(result)):
            return result
    return None


def best_rate(results: list[dict[str, Any]], row: str) -> float:
    """The learning rate at which the row's first seed has the least validation loss."""
    of_row = [r for r in results if r["row"] == row]
    first = min(r["seed"] for r in of_row)
    return _rate(min((r for r in of_row if r["seed"] == first), key=lambda r: r["validation_loss"]))


def at_best_rate(results: list[dict[str, Any]], row: str) -> list[dict[str, Any]]:
    """The row's results at the learning rate that its search chose; without a search, all."""
    of_row = [r for r in results if r["row"] == row]
    best = best_rate(of_row, row) if of_row and "validation_loss" in of_row[0] else 0.0
    return [r for r in of_row if _rate(r) == best]


def search_table(results: list[dict[str, Any]], labels: Mapping[str, str], quantity: str) -> str:
    """Validation loss of each row's first seed at every learning rate that was searched.

    ``labels``: the rows in their order, and what the table calls them; ``quantity``: the loss.
    """
    tried = sorted({run["learning_rate"] for run in results})
    rows = []
    for key, label in labels.items():
        of_row = [run for run in results if run["row"] == key]
        first = min((run["seed"] for run in of_row), default=0)
        losses = {
            run["learning_rate"]: f"{run['validation_loss']:.3f}"
            for run in of_row
            if run["seed"] == first
        }
        if losses:
            rows.append([label, *(losses.get(rate, "-") for rate in tried)])
    return markdown([f"{quantity} at a rate of", *map("{:g}".format, tried)], rows)


def with_kept(name: str, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results of this machine, and those in ``results/NAME.json`` of rows that it did not run."""
    path = RESULTS / f"{name}.json"
    if path.is_file():
        present = {(result["row"], _seed(result), _rate(result)) for result in results}
        old = json.loads(path.read_text(encoding="utf-8"))
        results = results + [r for r in old if (r["row"], _seed(r), _rate(r)) not in present]
    if len({json.dumps(result["setting"], sort_keys=True) for result in results}) > 1:
        raise SystemExit(
            f"{name}: results of different settings, here and in {path}. Give the new runs another "
            "--name."
        )
    return results


def save_table(name: str, text: str, results: Any) -> None:
    """Write ``results/NAME.md`` and ``.json``, fill the pages between the marks, and print."""
    write_text(RESULTS / f"{name}.md", text)
    write_text(RESULTS / f"{name}.json", json.dumps(results, indent=1) + "\n")
    fill_pages(name, text)
    print(text)


def commit() -> str:
    """The commit that runs."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def fill_pages(name: str, text: str, pages: Sequence[Path] = PAGES) -> None:
    """Replace the text between the marks of ``name`` in README and the pages of results."""
    for page in pages:
        before, mark, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
        if mark:
            _, end, after = rest.partition("<!-- end -->")
            if not end:
                raise SystemExit(f"{page.name}: {mark.strip()} has no <!-- end -->.")
            write_text(page, f"{before}{mark}\n{text}\n{end}{after}")


def mean(values: list[float], digits: int) -> str:
    """Mean, and the sample deviation if it is not 0 at this number of digits."""
    text = f"{statistics.mean(values):,.{digits}f}"
    spread = f"{statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{text} ± {spread}" if spread.strip("0.") else text


def cpu_seconds(runs: list[dict[str, Any]]) -> str:
    """Mean CPU time of training, over the runs that were not interrupted."""
    seconds = [run["train_cpu_seconds"] for run in runs if run["train_cpu_seconds"] is not None]
    return mean(seconds, 0) if seconds else "-"
