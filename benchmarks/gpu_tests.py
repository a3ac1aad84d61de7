"""Runs the tests that are marked `gpu`, and writes the outcome of each.

    python -m benchmarks.gpu_tests

On a machine with a GPU they run on it. The file is written after each test. Exits with pytest's status.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report

TESTS = Path(__file__).parent.parent / "tests"
TAIL = 2000  # characters of a failure that are kept


class Recorder:
    """A plugin of pytest that keeps the outcomes of tests."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.failures: dict[str, str] = {}

    def write(self, **facts: Any) -> None:
        report.write(self._args, "gpu_tests", {"results": self.counts, "failures": self.failures, **facts})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":  # what fails or is skipped may do so before the call
            self.counts[report.outcome] += 1
            if report.failed:
                self.failures[report.nodeid] = report.longreprtext[-TAIL:]
            self.write()


def main() -> None:
    args = _arguments()
    recorder = Recorder(args)
    words = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "-c", str(TESTS.parent / "pyproject.toml"), *args.tests]
    status = pytest.main(words, plugins=[recorder])
    recorder.write(finished=True)
    print(f"passed, failed, skipped: {recorder.counts}")
    sys.exit(status)


def _arguments() -> argparse.Namespace:
    parser = report.new_parser(__doc__)
    parser.add_argument("tests", nargs="*", help="files or folders; default: all files with such tests")
    args = report.parse(parser)
    args.tests = args.tests or [str(path) for path in TESTS.rglob("test_*.py") if "mark.gpu" in path.read_text("utf-8")]
    return args


if __name__ == "__main__":
    main()
