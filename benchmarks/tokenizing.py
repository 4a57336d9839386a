"""Speed and memory of ``spikeformers tokenize``, beside the bare tokenizer's own speed.

    python benchmarks/tokenizing.py [--megabytes 2000] [--text FOLDER] [--workers 1 2] [--json FILE]

Builds a JSON Lines file of the given size from the built-in corpus, or from the text files below a
folder (documents are repeated as often as needed), tokenises it with each number of workers, and
reports MB of text per second, by the clock and by the processor time of all its processes (which
other work disturbs less), and the most memory that they held together. The bare tokenizer encodes
the same batches in one process with one thread, and writes nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from spikeformers.data import load_corpus, make_tokenizer
from spikeformers.data.encoding import batches
from spikeformers.storage import write_text

EVERY = 1.0  # seconds between two looks at the memory; a look takes milliseconds from the work


def build(path: Path, megabytes: float, text: str) -> int:
    """Write documents until the file has the size; returns the bytes of their text."""
    documents = list(load_corpus(text).documents("train"))
    size = 0
    with path.open("w", encoding="utf-8") as out:
        for document in itertools.cycle(documents):
            out.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
            size += len(document.encode())
            if size >= megabytes * 1e6:
                return size
    raise AssertionError  # a cycle does not end


def bare(path: Path, tokenizer: Any, megabytes: float) -> tuple[float, float]:
    """MB per second of the tokenizer alone, by the clock and by processor time."""
    corpus = load_corpus(path, validation_fraction=0)
    backend = tokenizer.backend_tokenizer
    size = seconds = processor = 0.0
    for pieces in batches(corpus.documents("train"), False):
        texts = [text for text, _ in pieces]
        start, used = time.perf_counter(), time.process_time()
        backend.encode_batch_fast(texts, add_special_tokens=False)
        seconds += time.perf_counter() - start
        processor += time.process_time() - used
        size += sum(len(text.encode()) for text in texts)
        if size >= megabytes * 1e6:
            break
    return size / 1e6 / seconds, size / 1e6 / processor


def family(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from family(int(child))


def memory(pid: int) -> int:
    """Proportional set size of a process in bytes: pages that several share count once."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def processor_seconds() -> float:
    """Processor time of all processes that this one started and waited for, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(path: Path, out: Path, tokenizer: str, workers: int) -> dict[str, float]:
    """Time one run of the verb in a process of its own, and follow its memory."""
    command = [sys.executable, "-m", "spikeformers", "tokenize", str(path), "--out", str(out)]
    command += ["--tokenizer", tokenizer, "--workers", str(workers), "--json"]
    start, used, most = time.perf_counter(), processor_seconds(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, sum(memory(pid) for pid in family(process.pid)))
            time.sleep(EVERY)
        seconds = time.perf_counter() - start
        assert process.stdout is not None
        result = json.loads(process.stdout.read())
    size = sum(split["bytes"] for split in result["splits"].values())
    return {
        "seconds": seconds,
        "encoding_seconds": result["seconds"],
        "megabytes_per_second": size / 1e6 / result["seconds"],
        "megabytes_per_processor_second": size / 1e6 / (processor_seconds() - used),
        "peak_megabytes": most / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=2000)
    parser.add_argument("--text", default="builtin")
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--bare-megabytes", type=float, default=50)
    parser.add_argument("--note", default="", help="kept with the result: what else ran meanwhile")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "text.jsonl"
        tokenizer = make_tokenizer(f"bpe:{args.vocabulary}", load_corpus(args.text))
        tokenizer.save_pretrained(Path(folder) / "tokenizer")
        size = build(source, args.megabytes, args.text)
        alone, alone_processor = bare(source, tokenizer, args.bare_megabytes)
        print(
            f"{size / 1e6:,.0f} MB of text; bare tokenizer {alone:.2f} MB/s, "
            f"{alone_processor:.2f} MB per processor second",
            flush=True,
        )
        result: dict[str, Any] = {
            "text": args.text,
            "megabytes": size / 1e6,
            "vocabulary": args.vocabulary,
            "bare_megabytes_per_second": alone,
            "bare_megabytes_per_processor_second": alone_processor,
            "workers": {},
            "machine": f"{platform.machine()}, {os.cpu_count()} processors",
            "note": args.note,
        }
        for workers in args.workers:
            out = Path(folder) / f"store-{workers}"
            result["workers"][workers] = row = run(source, out, f"{folder}/tokenizer", workers)
            print(
                f"{workers} worker(s): {row['megabytes_per_second']:.2f} MB/s, "
                f"{row['megabytes_per_second'] / alone:.2f} of the bare tokenizer; "
                f"{row['megabytes_per_processor_second']:.2f} MB per processor second; at most "
                f"{row['peak_megabytes']:,.0f} MB in all processes",
                flush=True,
            )
            if args.json:  # after each row: the next may take an hour
                write_text(args.json, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
