"""A model as NIR files, as far as NIR can say it, and a list of what it cannot.

NIR (https://neuroir.org, Pedersen et al. 2024) describes graphs of linear maps, convolutions and
neurons that integrate and reset to a value. It has no product of two spike trains, no norm, no
embedding and no soft reset, so that a transformer is written in stretches: each file holds one
sequence of modules, such as an MLP, whose input and output are the numbers that the model has at
that place. `nir_graphs` says how each module is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from spikeformers.attention import Attention
from spikeformers.errors import ConfigError, UsageError
from spikeformers.export.nir_chains import chains_of
from spikeformers.export.nir_graphs import DT, ChainWriter, Graph, Row, kind_of, reason_of
from spikeformers.models._adapters import refuse_adapters
from spikeformers.models._weights import check_finite
from spikeformers.neurons import Neuron
from spikeformers.storage import check_folder, write_text
from spikeformers.storage.files import replacing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COVERAGE = "coverage.json"


@dataclass(frozen=True)
class Coverage:
    """What was written, and what was not."""

    rows: list[Row]
    parameters: int
    """Of the model, each counted once."""
    written: int
    """Parameters of modules that are in a file."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [asdict(row) for row in self.rows]
        return {"parameters": self.parameters, "written": self.written, "dt": DT, "modules": rows}


def export_nir(model: PreTrainedModel, out: str | Path) -> Coverage:
    """Write the stretches of ``model`` that NIR can say into the folder ``out``.

    Each file, ``<place>.nir``, is a graph from one input to one output; ``coverage.json`` lists
    every module with its file, or with the reason why it has none. Raises ConfigError if the
    package ``nir`` is missing, UsageError for a model without spiking chains or a folder that is
    not empty, CheckpointError for weights that are not finite.
    """
    nir = _library()
    folder = Path(out)
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"--out {folder} is not empty; name a new folder for the NIR files.")
    refuse_adapters(model, "export to NIR")
    check_finite(model, type(model).__name__)
    graphs, coverage = written_by_nir(model)
    for graph in graphs:
        with replacing(folder / f"{graph.name}.nir") as temporary:
            nir.write(temporary, node_graph(graph))
    write_text(folder / COVERAGE, json.dumps(coverage.as_dict(), indent=2) + "\n")
    return coverage


def written_by_nir(model: PreTrainedModel) -> tuple[list[Graph], Coverage]:
    """The graphs of a model and the coverage list. Raises UsageError if there is nothing."""
    writers = [ChainWriter(chain) for chain in chains_of(model)]
    graphs = [graph for writer in writers for graph in writer.graphs]
    if not graphs:
        raise UsageError(
            f"NIR can say no part of a {type(model).__name__}: it needs linear maps and binary or "
            "integer neurons in a row, as a WD- or WE-Spikingformer, a BiSpikCLM and a spiking "
            "vision transformer have."
        )
    rows = _once([row for writer in writers for row in writer.rows])
    rows += list(_outside(model, {row.module for row in rows}))
    names = {row.module for row in rows if row.file}
    parts = [module for name, module in model.named_modules() if name in names]
    inside = {id(p): p.numel() for part in parts for p in part.parameters()}
    total = {id(p): p.numel() for p in model.parameters()}
    return graphs, Coverage(rows, sum(total.values()), sum(inside.values()))


def node_graph(graph: Graph) -> Any:
    """A graph of the package ``nir``."""
    nir = _library()
    nodes: dict[str, Any] = {"input": nir.Input({"input": np.array(graph.shape)})}
    for number, (kind, values) in enumerate(graph.nodes):
        nodes[f"{kind.lower()}_{number}"] = getattr(nir, kind)(**values)
    nodes["output"] = nir.Output({"output": np.array(graph.out)})
    names = list(nodes)
    edges = list(pairwise(names))
    facts = {
        "dt": DT,
        "modules": ", ".join(link.name for link in graph.modules),
        "units_per_value": graph.levels,
        "value_of_a_spike": graph.unit,
    }
    return nir.NIRGraph(nodes, edges, metadata=facts)


def _once(rows: list[Row]) -> list[Row]:
    """One row per module: a neuron that begins three chains is in the file of the first."""
    seen: dict[str, Row] = {}
    for row in rows:
        if row.module not in seen or (row.file and not seen[row.module].file):
            seen[row.module] = row
    return list(seen.values())


def _outside(model: nn.Module, known: set[str]) -> Iterator[Row]:
    """Rows of the modules that stand in no chain and do something."""
    for name, module in model.named_modules():
        if name in known or any(name.startswith(f"{other}.") for other in known):
            continue
        if isinstance(module, Attention):
            yield Row(name, kind_of(module), "", "NIR has no product of two spike trains.")
        elif isinstance(module, nn.Embedding):
            yield Row(name, kind_of(module), "", "NIR has no table to look up.")
        elif isinstance(module, Neuron) or next(module.parameters(recurse=False), None) is not None:
            yield Row(name, kind_of(module), "", reason_of(module))


def _library() -> Any:
    try:
        import nir
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"NIR files are written by the package nir: pip install nir. Missing: {error.name}."
        ) from error
    return nir
