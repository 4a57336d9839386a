"""The record of a run to resume, ``run.json``; every part is checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.errors import CheckpointError, ConfigError, UsageError
from spikeformers.foreign import check_object

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from spikeformers.training import TrainConfig

REQUEST = "request"  # key of run.json's data section with the request of the data
DISTILL = "distill"  # key of that request, in a run of `distill`
VISION = "images"  # key of that request, in a run of `train-vision`: its data section
CHOICES = "model_choices"  # key of that request with what was chosen beside the preset
VERB = "verb"  # key of that request that names any other verb

ADVICE = "Use another --out."
MODEL: dict[str, Any] = {"preset": str, "control": bool}
"""Keys of a request for a model built from its preset."""
TEXT: dict[str, Any] = {"source": str, "tokenizer": str}
"""Keys of a request for text."""


@dataclass(frozen=True)
class RunRecord:
    """A run's record: the ``sections`` of the file ``path``."""

    path: Path
    sections: Mapping[str, Any]

    @property
    def request(self) -> dict[str, Any]:
        """The request of the run; empty for a run that no verb started."""
        request = self.sections["data"].get(REQUEST) or {}
        where = self._of("request")
        optional = {VERB: str, CHOICES: dict}
        return dict(check_object(request, {}, where, advice=ADVICE, optional=optional))

    def checked_request(self, *schemas: Mapping[str, Any]) -> dict[str, Any]:
        """The request, with the keys and types of ``schemas``."""
        request = self.request
        for needed in schemas:
            check_object(request, needed, self._of("request"), advice=ADVICE)
        return request

    def part(self, values: Any, needed: Mapping[str, Any], name: str) -> dict[str, Any]:
        """A mapping within the request, checked in the same way."""
        return dict(check_object(values, needed, self._of(name), advice=ADVICE))

    def train_config(self, changes: Mapping[str, Any]) -> TrainConfig:
        """The training config, with ``changes`` on top."""
        from spikeformers.training import TrainConfig

        recorded: TrainConfig = self.build(TrainConfig.from_dict, self.sections["config"], "config")
        return recorded.continued(changes)

    def build(self, make: Any, values: Mapping[str, Any], name: str) -> Any:
        """``make(values)``; the message of an error names this file."""
        try:
            return make(values)
        except ConfigError as error:
            raise CheckpointError(f"{self._of(name)} cannot be used: {error} {ADVICE}") from error

    def model_config(self) -> PreTrainedConfig:
        """The config of the model."""
        from transformers import AutoConfig

        from spikeformers.models import config_errors

        values = self.part(self.sections["model"], {"model_type": str}, "model")
        with config_errors(f"{self._of('model')} cannot be used", CheckpointError):
            return AutoConfig.for_model(**values)

    def _of(self, name: str) -> str:
        return f"{name} in {self.path}"


def read_record(out: Path) -> RunRecord:
    """The record of the run in ``out``; UsageError if there is none."""
    from spikeformers.training.run_folder import read_run

    path = out / "run.json"
    if not path.is_file():
        raise UsageError(f"nothing to resume: {path} does not exist. Start without --resume.")
    return RunRecord(path, read_run(path))


def verb_of(request: Mapping[str, Any]) -> str:
    """The verb that started a run."""
    implied = "distill" if DISTILL in request else "pretrain"
    return str(request.get(VERB) or implied)


def refuse_another_verb(out: Path, request: Mapping[str, Any], own: bool) -> None:
    """Raise ``UsageError``, which names the right verb, unless ``own`` is true."""
    if not own:
        raise UsageError(f"{out} is resumed with `spikeformers {verb_of(request)}`, and its keys.")
