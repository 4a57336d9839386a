from __future__ import annotations

import json
import platform

import torch

from spikeformers.studies.machine import machine, versions


def test_what_a_number_was_measured_with():
    told = machine()
    assert told["cores"] >= 1
    assert told["threads"] == torch.get_num_threads()
    assert told["processor"]
    assert json.loads(json.dumps(told)) == told
    assert versions()["python"] == platform.python_version()
    assert versions()["torch"] == str(torch.__version__)
