"""The built-in corpus: this interpreter's documentation, read without running anything."""

from __future__ import annotations

import ast
import sys

import pytest

from spikeformers.data import builtin
from spikeformers.errors import DataError

SOURCE = '''
"""Module."""
import nowhere_to_be_found
raise SystemExit("never run")

class First:
    """Class."""

    if True:
        def method(self):
            """Method, in a branch."""

            def inner():
                """Inner."""

try:
    async def second():
        """Second."""
except OSError:
    def second():
        """Handler."""
f = lambda: "no docstring"
'''


def test_docstrings_in_source_order():
    texts = list(builtin.docstrings(ast.parse(SOURCE)))
    assert texts == ["Module.", "Class.", "Method, in a branch.", "Inner.", "Second.", "Handler."]


def test_modules_are_parsed_and_sorted_without_repeats(tmp_path):
    (tmp_path / "b.py").write_text('"""B."""\ndef f():\n    """Shared."""\n')
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "__init__.py").write_text('"""A."""\ndef f():\n    """Shared."""\n')
    (tmp_path / "c.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "t.py").write_text('"""A test."""')
    assert list(builtin._modules(tmp_path)) == [
        ("stdlib/a/__init__", "A.\n\nShared.\n"),
        ("stdlib/b", "B.\n"),
    ]


def test_this_interpreter():
    documents = dict(builtin.builtin_documents())
    assert len(documents) == len(builtin.builtin_documents())
    size = sum(len(text.encode()) for text in documents.values())
    assert 1_200_000 < size < 4_000_000
    assert documents["topics/assert"].startswith('The "assert" statement')
    assert "JSON (JavaScript Object Notation)" in documents["stdlib/json/__init__"]
    assert not [name for name in documents if "/test" in name]


def test_no_documentation_at_all(monkeypatch, tmp_path):
    builtin.builtin_documents.cache_clear()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    monkeypatch.setattr(builtin.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(DataError, match="built-in corpus is empty"):
        builtin.builtin_documents()
    builtin.builtin_documents.cache_clear()
