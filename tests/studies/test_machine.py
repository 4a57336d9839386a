from __future__ import annotations

import json
import platform

import torch

from spikeformers.studies.machine import machine, versions


def test_what_a_number_was_measured_with():
    values = machine()
    assert values["cores"] >= 1
    assert values["threads"] == torch.get_num_threads()
    assert values["processor"]
    assert json.loads(json.dumps(values)) == values
    assert versions()["python"] == platform.python_version()
    assert versions()["torch"] == str(torch.__version__)
