"""Slices of the classic books that the benchmarks use: 40 books to train, 7 to validate, 5 to test.

    python benchmarks/books.py FOLDER_OF_MARKDOWN OUT [--training 190]

FOLDER has one Markdown file per book (755 public-domain books). A book whose sha256 of the file
name, as a number, is divisible by 50 is validation; one that leaves 1 when divided by 200 is test;
of the others, the 40 with the smallest are training, or as many as ``--training`` says.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from pathlib import Path

TRAINING = 40
VALIDATION_EVERY, TEST_EVERY = 50, 200


def digest(book: Path) -> int:
    """The sha256 of a file's name, as a number."""
    return int(hashlib.sha256(book.name.encode()).hexdigest(), 16)


def main() -> None:
    """Copy the slice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--training", type=int, default=TRAINING, help="how many books to train on")
    args = parser.parse_args()
    books = sorted(args.folder.rglob("*.md"), key=digest)
    if not books:
        raise SystemExit(f"{args.folder} has no Markdown files.")
    if args.out.exists():
        raise SystemExit(f"{args.out} exists; give a new folder, or move that one away.")
    held_out = [book for book in books if digest(book) % VALIDATION_EVERY == 0]
    test = [book for book in books if digest(book) % TEST_EVERY == 1]
    others = [book for book in books if book not in held_out + test]
    splits = {"train": others[: args.training], "validation": held_out, "test": test}
    for split, chosen in splits.items():
        folder = args.out / split
        folder.mkdir(parents=True)
        for book in chosen:
            shutil.copyfile(book, folder / book.name)
        print(f"{split}: {len(chosen)} books, {sum(b.stat().st_size for b in chosen):,} bytes")


if __name__ == "__main__":
    main()
