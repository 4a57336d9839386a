"""Make Transformers' Auto classes know our models, without importing Transformers.

`spikeformers.models` registers its classes with `AutoConfig`, `AutoModelForCausalLM` and so on when
it is imported. That takes seconds, because it brings torch and Transformers along, so
`import spikeformers` does not do it. Yet this must work, in either order of the imports:

    import spikeformers
    from transformers import AutoModelForCausalLM
    AutoModelForCausalLM.from_pretrained("runs/x")

So `register_when_needed`

- imports `spikeformers.models` at once where Transformers' Auto classes are already loaded; else
- puts a `Registrar` into `sys.meta_path`. It finds nothing itself: it lets the other finders find
  the modules of Transformers and of this package, and counts which of them are being executed. When
  none is any more and the Auto classes are there, it imports `spikeformers.models` and takes itself
  out again. Waiting for the outermost import matters: in the middle of one, the modules that the
  models need exist only half.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

AUTO_CLASSES = "transformers.models.auto.configuration_auto"
MODELS = "spikeformers.models"
WATCHED = ("transformers", "spikeformers")


class Registrar:
    """A `sys.meta_path` finder that imports `spikeformers.models` after the Auto classes."""

    def __init__(self) -> None:
        self._running = threading.local()  # .depth: watched modules that this thread is executing

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find; a watched module also reports when it has run."""
        if fullname.partition(".")[0] not in WATCHED:
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(fullname, path, target)):
                self._report_execution(spec)
                return spec
        return None

    def _report_execution(self, spec: ModuleSpec) -> None:
        loader = spec.loader
        execute: Callable[[ModuleType], None] | None = getattr(loader, "exec_module", None)
        if loader is None or execute is None:  # a namespace package has no code
            return

        def exec_module(module: ModuleType) -> None:
            # Only this module's own loader was changed, and is changed back before it runs.
            delattr(loader, "exec_module")
            self._running.depth = getattr(self._running, "depth", 0) + 1
            try:
                execute(module)
            finally:
                self._running.depth -= 1
            if self._running.depth == 0:
                self._register()

        setattr(loader, "exec_module", exec_module)  # noqa: B010  (a method, to the type checker)

    def _register(self) -> None:
        if AUTO_CLASSES in sys.modules:
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            importlib.import_module(MODELS)


def register_when_needed() -> None:
    """Import `spikeformers.models` if the Auto classes are loaded, else as soon as they are."""
    if MODELS in sys.modules:
        return
    if AUTO_CLASSES in sys.modules:
        importlib.import_module(MODELS)
    elif not any(isinstance(finder, Registrar) for finder in sys.meta_path):
        sys.meta_path.insert(0, Registrar())
