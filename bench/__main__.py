"""All benches, one after the other: ``python -m bench [--write] [--rounds N] [NAME...]``.

Each is a program of its own that prints a Markdown table, and says on standard error why it cannot run here (exit
status 3). ``--write`` puts what was printed into docs/bench.md, one section per bench with when and on what it was
measured; sections of benches that did not run stay as they are.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.common import CANNOT_RUN, machine

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "bench.md"
TEAR_DOWN_S = 120
INTRODUCTION = """\
# Measured

Written by `python -m bench --write` (`make bench` prints the same): kops-py beside the bare commands and the peers,
all on one machine and in turn. What the ratios say holds elsewhere better than the seconds do; a machine that also
does other work (see the load average) makes both worse.
"""


@dataclass(frozen=True)
class Bench:
    """One module of this package."""

    name: str
    title: str
    limit_s: float
    plots: bool = False
    """Whether it writes a picture of its own when asked to."""

    def run(self, rounds: int | None, *, write: bool = False) -> tuple[int, str]:
        """Run it; returns its exit status and what it printed. Standard error is passed on."""
        argv = [sys.executable, "-m", f"bench.{self.name}"]
        argv += [] if rounds is None else ["--rounds", str(rounds)]
        argv += ["--write"] if write and self.plots else []
        with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
            try:
                out, _ = process.communicate(timeout=self.limit_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)  # it takes its lab down on the way out
                process.wait(TEAR_DOWN_S)
                return 124, f"not done within {self.limit_s:.0f} s\n"
            except KeyboardInterrupt:  # the terminal has told it, too
                process.wait(TEAR_DOWN_S)
                raise
        return process.returncode, out


BENCHES = (
    Bench("cli_help", "The first answer", 600),
    Bench("ssh_command", "A command on an open connection", 600),
    Bench("ssh_fanout", "A command on many hosts", 2400),
    Bench("preflight", "A look at five hosts", 900),
    Bench("plan_scale", "What blocks a drain, for growing clusters", 1800, plots=True),
    Bench("bootstrap", "Bootstrap of a cluster", 5400),
    Bench("upgrade", "Upgrade of a cluster", 3600),
    Bench("etcd_backup", "A backup of etcd", 1800),
    Bench("drain", "A node with 100 pods drained", 1200),
)


def provenance(load: float) -> str:
    """Say when, from which commit and on what a section was measured."""
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    changed = " with changes" if _git("status", "--porcelain", "--untracked-files=no", "--", ":!docs") else ""
    day = time.strftime("%Y-%m-%d", time.gmtime())
    return f"*{day}, commit {commit}{changed}; {machine()}; load average at the start {load:.1f}.*"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def sections_of(text: str) -> dict[str, str]:
    """Return the sections of the page by title, each without its heading."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return {title: body.strip() for title, body in zip(parts[1::2], parts[2::2], strict=True)}


def write(fresh: dict[str, str]) -> None:
    """Replace these sections of the page; it appears whole or not at all."""
    kept = sections_of(PAGE.read_text()) if PAGE.exists() else {}
    merged = {**kept, **fresh}
    bodies = [f"## {b.title}\n\n{merged[b.title]}\n" for b in BENCHES if b.title in merged]
    partial = PAGE.with_suffix(".partial")
    partial.write_text("\n".join([INTRODUCTION, *bodies]))
    partial.replace(PAGE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(b.name for b in BENCHES))
    parser.add_argument("--write", action="store_true", help="put the tables into docs/bench.md")
    parser.add_argument("--rounds", type=int, help="how often each thing is measured; each bench has its own default")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - {b.name for b in BENCHES}
    if unknown:
        parser.error(f"no bench {', '.join(sorted(unknown))}; there are {', '.join(b.name for b in BENCHES)}")
    failed = False
    for bench in BENCHES:
        if arguments.names and bench.name not in arguments.names:
            continue
        print(f"## {bench.title}\n", flush=True)
        line = provenance(os.getloadavg()[0])
        status, out = bench.run(arguments.rounds, write=arguments.write)
        if status == 0:
            print(f"{line}\n\n{out}", flush=True)
            if arguments.write:
                write({bench.title: f"{line}\n\n{out.strip()}"})
        elif status == CANNOT_RUN:
            print("Cannot run here (the reason is above).\n", flush=True)
        else:
            failed = True
            print(f"{out}\nFailed with {status}.\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
