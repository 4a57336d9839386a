"""Rows of a table, each a training run of its own process: run, resume, collect, fill pages.

A script gives its rows and two functions, one that trains a row and one that writes the table.
Rows that are done are kept, unfinished ones resume (a resumed run has no CPU time of its own).
Rows that stand in ``benchmarks/results/`` already, from whatever machine, count as done: a table
grows over several sittings. ``one`` trains a row all the same, and its result then replaces that.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
Setup = Callable[[argparse.ArgumentParser], None]


@dataclass(frozen=True)
class Sweep:
    """``name`` of the folder under ``runs/``; ``seeds`` of each row; what trains, what tabulates.

    ``train(args, out)`` trains ``args.row`` with ``args.seed`` into ``out`` and returns the result,
    or None where it was interrupted; ``table(name, results)`` is Markdown. ``more`` are tables of
    the same results under other marks, empty where there is nothing to say.
    """

    script: str
    name: str
    seeds: Mapping[str, tuple[int, ...]]
    train: Callable[[argparse.Namespace, Path], dict[str, Any] | None]
    table: Callable[[str, list[dict[str, Any]]], str]
    options: Setup
    more: Mapping[str, Callable[[list[dict[str, Any]]], str]] = field(default_factory=dict)

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
        one = commands.add_parser("one", help="train one row here")
        one.add_argument("--row", required=True, choices=list(self.seeds))
        one.add_argument("--seed", type=int, required=True)
        for sub in (run, one):
            sub.add_argument("--data", default="builtin", help="builtin, or a corpus folder")
            sub.add_argument("--name", help="of table and folder; the corpus' unless given")
            sub.add_argument("--steps", type=int, default=1000)
            sub.add_argument("--batch", type=int, default=16)
            sub.add_argument("--context", type=int, default=128)
            self.options(sub)
        commands.add_parser("table", help="write the tables of all results")
        args, rest = parser.parse_known_args()
        if rest:
            parser.error(f"unknown arguments: {' '.join(rest)}")
        if args.command == "run":
            self._run(args)
        elif args.command == "one":
            self._one(args)
        else:
            self._tables()

    def folder(self, args: argparse.Namespace, row: str, seed: int) -> Path:
        """Run folder of one row and seed."""
        name = "".join(c if c.isalnum() or c in "-." else "_" for c in row)
        return self.runs / (args.name or Path(args.data).name) / f"{name}-s{seed}"

    def _run(self, args: argparse.Namespace) -> None:
        rows = args.rows.split("|") if args.rows else list(self.seeds)
        seeds = [int(seed) for seed in args.seeds.split(",")]
        done = {(r["seed"], r["row"]) for r in self._results(args.name or Path(args.data).name)}
        work = [(seed, row) for seed in seeds for row in rows if seed in self.seeds[row]]
        work = [item for item in work if item not in done]
        start = sys.argv.index("run") + 1
        drop = {"--jobs", "--rows", "--seeds"}
        given = sys.argv[start:]
        shared = [
            part
            for i, part in enumerate(given)
            if part not in drop and not (i and given[i - 1] in drop)
        ]

        def one(item: tuple[int, str]) -> None:
            seed, row = item
            command = [sys.executable, self.script, "one", "--row", row, "--seed", str(seed)]
            log = self.folder(args, row, seed).with_suffix(".log")
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8") as stream:
                code = subprocess.run(
                    [*command, *shared], stdout=stream, stderr=stream, check=False
                ).returncode
            said = "done" if code == 0 else f"exit {code}, see {log}"
            print(f"{row} seed {seed}: {said}", flush=True)

        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(one, work))

    def _one(self, args: argparse.Namespace) -> None:
        import torch

        out = self.folder(args, args.row, args.seed)
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
        partial = out / "result.json.partial"
        partial.write_text(json.dumps(result, indent=1), encoding="utf-8")
        partial.replace(out / "result.json")

    def _results(self, name: str) -> list[dict[str, Any]]:
        paths = sorted((self.runs / name).glob("*/result.json"))
        found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        found = with_kept(f"{self.name}-{name}", found)
        return sorted(found, key=lambda result: (result["row"], result["seed"]))

    def _tables(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        for folder in sorted(p for p in self.runs.iterdir() if p.is_dir()):
            found = self._results(folder.name)
            if found:
                name = f"{self.name}-{folder.name}"
                text = self.table(folder.name, found)
                (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
                (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
                fill_pages(name, text)
                print(text)
                for mark, also in self.more.items():
                    if text := also(found):
                        fill_pages(f"{mark}-{folder.name}", text)
                        print(text)


def with_kept(name: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results of this machine, and those in ``results/NAME.json`` of rows it did not run."""
    kept = RESULTS / f"{name}.json"
    if kept.is_file():
        have = {(result["row"], result.get("seed")) for result in found}
        old = json.loads(kept.read_text(encoding="utf-8"))
        found = found + [one for one in old if (one["row"], one.get("seed")) not in have]
    if len({json.dumps(result["setting"], sort_keys=True) for result in found}) > 1:
        raise SystemExit(
            f"{name}: results of different settings, here and in {kept}. Give the new runs a "
            "--name of their own."
        )
    return found


def commit() -> str:
    """The commit that runs."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def fill_pages(name: str, text: str) -> None:
    """Replace what README and docs/results.md have between the marks of ``name``, if they do."""
    for page in PAGES:
        before, mark, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
        if mark:
            _, end, after = rest.partition("<!-- end -->")
            if not end:
                raise SystemExit(f"{page.name}: {mark.strip()} has no <!-- end -->.")
            page.write_text(f"{before}{mark}\n{text}\n{end}{after}", encoding="utf-8")


def markdown_table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def mean(values: list[float], digits: int) -> str:
    """Mean, and the sample deviation where it shows at so many digits."""
    text = f"{statistics.mean(values):,.{digits}f}"
    spread = f"{statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{text} ± {spread}" if spread.strip("0.") else text


def cpu_seconds(runs: list[dict[str, Any]]) -> str:
    """Mean CPU time of training, over the runs that went through in one piece."""
    whole = [run["train_cpu_seconds"] for run in runs if run["train_cpu_seconds"] is not None]
    return mean(whole, 0) if whole else "-"
