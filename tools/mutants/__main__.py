"""`python -m tools.mutants`: draws small changes to the code and says which of them the tests notice."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from tools.mutants.mutate import draw
from tools.mutants.run import scratch
from tools.mutants.tests_of import measured

__all__ = ["main"]

_REPOSITORY = Path(__file__).parents[2]
_FOLDERS = ("tests/unit", "tests/http", "tests/git", "tests/faults")
_NOTICED = {"caught", "hang"}


def main() -> int:
    asked = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    paths = [path for place in asked.places for path in _python_files(_REPOSITORY / place)]
    tests_of = measured(_REPOSITORY, asked.tests, _REPOSITORY / ".mutants")
    verdicts: Counter[str] = Counter()
    with scratch(_REPOSITORY) as copy:
        for mutant in draw(paths, asked.count, asked.seed):
            name = mutant.path.relative_to(_REPOSITORY / "src").as_posix()
            tests = tests_of.tests(name, mutant.line)
            limit = 30 + 5 * sum(tests_of.seconds.get(test, 0.0) for test in tests)
            began = time.monotonic()
            verdict = copy.verdict(mutant, tests, min(limit, asked.seconds)) if tests else "no test"
            verdicts[verdict] += 1
            place = f"{mutant.path.relative_to(_REPOSITORY)}:{mutant.line}"
            spent = f"{time.monotonic() - began:.0f} s"
            print(f"{verdict:9} {len(tests):5} tests {spent:>6}  {place}  {str(mutant)[:160]}", flush=True)
    noticed, of = sum(verdicts[word] for word in _NOTICED), verdicts.total()
    each = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.most_common())
    print(f"{noticed} of {of} noticed ({100 * noticed / max(of, 1):.0f} %): {each}; seed {asked.seed}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=30, help="how many mutants are drawn")
    parser.add_argument("--seed", type=int, default=1, help="the same seed and code give the same mutants")
    parser.add_argument("--seconds", type=float, default=600, help="the most that one mutant may take")
    parser.add_argument("--tests", nargs="+", default=_FOLDERS, help="folders or files of tests that may notice")
    parser.add_argument("places", nargs="*", default=["src/gastown"], help="files or folders that are changed")
    return parser.parse_args()


def _python_files(place: Path) -> list[Path]:
    found = [place] if place.is_file() else place.rglob("*.py")
    return [path for path in found if not path.is_relative_to(_REPOSITORY / "src/gastown/testing")]


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        sys.stderr.write("mutants: interrupted\n")
        raise SystemExit(130) from None
