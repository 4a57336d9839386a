"""The built-in corpus: the running interpreter's own English documentation.

There is one document per topic of ``pydoc_data.topics`` (the language reference) and one per module
of the standard library (its docstrings in source order, without repeats). Source files are parsed
with ``ast``; nothing is imported or run. Text and hash depend on the Python version.
"""

from __future__ import annotations

import ast
import functools
import gc
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from spikeformers.errors import DataError

# Test suites and bundled programs: not documentation, and absent from many distributions.
SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idlelib", "turtledemo", "pydoc_data", "site-packages", "dist-packages"}
    | {"_bundled", "__pycache__", "lib-dynload"}
)


@functools.lru_cache(maxsize=1)
def builtin_documents() -> tuple[tuple[str, str], ...]:
    """``(name, text)`` of every document: ``topics/...`` then ``stdlib/...``, each sorted by name.

    Raises DataError if the interpreter was installed without its documentation and its sources.
    """
    documents = (*_topics(), *_modules(Path(sysconfig.get_paths()["stdlib"])))
    if not documents:
        raise DataError(
            "the built-in corpus is empty: this Python was installed without pydoc_data and "
            "without the sources of its standard library. Name a text file or folder instead."
        )
    return documents


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Docstrings of a module, its classes and its functions, in source order."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield text
        inner: list[ast.AST] = []
        for field in ("body", "handlers", "orelse", "finalbody", "cases"):
            value = getattr(node, field, None)
            if isinstance(value, list):  # a lambda's body is a single expression
                inner.extend(value)
        pending.extend(reversed(inner))


def _topics() -> Iterator[tuple[str, str]]:
    try:
        from pydoc_data.topics import topics  # a plain dict of strings
    except ModuleNotFoundError:  # some distributions package it separately
        return
    for name in sorted(topics):
        text = topics[name].strip()
        if text:
            yield f"topics/{name}", text + "\n"


def _modules(stdlib: Path) -> Iterator[tuple[str, str]]:
    paths = (path.relative_to(stdlib) for path in stdlib.rglob("*.py"))
    sources = sorted(p.as_posix() for p in paths if not SKIPPED_FOLDERS & set(p.parts))
    texts: set[str] = set()
    collecting = gc.isenabled()
    gc.disable()  # syntax trees hold no cycles; halves the time
    try:
        for relative in sources:
            fresh = []
            for text in docstrings(ast.parse((stdlib / relative).read_bytes(), relative)):
                if text not in texts:
                    texts.add(text)
                    fresh.append(text.strip())
            joined = "\n\n".join(text for text in fresh if text)
            if joined:
                yield f"stdlib/{relative.removesuffix('.py')}", joined + "\n"
    finally:
        if collecting:
            gc.enable()
