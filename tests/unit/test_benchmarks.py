"""The benchmarks that need no kilo, in their smallest form: who breaks one sees it before its next use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SMALLEST = {
    "events": ["--events", "2000", "--clients", "0", "1"],
    "broker": ["--streams", "1", "--requests", "2", "--mb", "1"],
}


@pytest.mark.parametrize("part", SMALLEST)
def test_a_benchmark_runs_and_writes_its_figures(part: str, tmp_path: Path) -> None:
    report = tmp_path / "figures.json"
    command = [sys.executable, "-m", f"bench.{part}", *SMALLEST[part], "--json", str(report)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())
