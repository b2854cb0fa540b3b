"""How long a person waits for the first answer: ``kops-py --help`` beside ``ansible --version``.

    python -m bench.cli_help [--rounds 15]

The two are run in turn, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import statistics

from bench.common import script, timed

LIMIT_S = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    ways = {
        "kops-py --help": [str(script("kops-py")), "--help"],
        "ansible --version": [str(script("ansible")), "--version"],
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, argv in ways.items():
            duration_s, _ = timed(argv, limit_s=LIMIT_S)
            if number:  # the first one fills the page cache
                times[name].append(duration_s)
    best = statistics.median(times["kops-py --help"])
    print(f"Median of {rounds} runs, taken in turn\n")
    print("| command | s | times kops-py |\n|---|---:|---:|")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.2f} | {median / best:.1f} |")


if __name__ == "__main__":
    main()
