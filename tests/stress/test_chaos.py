"""Processes that are hit at random moments; chaos.py says how. `make stress` runs hundreds."""

from __future__ import annotations

import os

import chaos
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and fork of POSIX")


@pytest.mark.parametrize("name", ["bert-mean", "qwen3-last"])
def test_hits_at_random_moments_end_in_no_hang_and_no_crash(name, tiny, figures):
    trials = chaos.run(len(chaos.KINDS), 1, tiny(name))
    figures(f"{name}: {chaos.summary(trials)}")
    faults = [f"{t.kind}, seed {t.seed}: {t.fault}" for t in trials if t.fault is not None]
    assert not faults, "\n\n".join(faults)


def test_a_hang_and_a_crash_are_faults(tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    monkeypatch.setattr(chaos, "CHILD", child)
    monkeypatch.setattr(chaos, "DEADLINE_S", 1)
    programs = {
        "hangs": "import time\nprint('ready', flush=True)\nwhile True: time.sleep(1)",
        "is silent": "import time\nwhile True: time.sleep(1)",
        "crashes": "import os\nprint('ready', flush=True)\nos.abort()",
        "exits": "print('ready')\nraise SystemExit(3)",
        "complains": "import sys\nprint('ready\\ndone {}')\nprint('Exception', file=sys.stderr)",
    }
    for name, program in programs.items():
        child.write_text(program)
        assert chaos.run_trial("fork", 1, tmp_path).fault is not None, name
