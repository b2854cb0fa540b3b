"""``make test``: all parts one after the other, with what took how long and what was skipped and why.

The bundle (Kubernetes packages and images) and the lab's base system are made beside lint, types and unit tests,
so that a machine with nothing on it is not kept waiting twice.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from tests import soak

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LAYER_PACKAGES = ["containerd", "conntrack", "socat", "ethtool", "ebtables", "containernetworking-plugins"]

PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]


def integration_commands() -> list[list[str]]:
    """Return a command for each folder of tests/integration and one for the files beside them, the longest first.

    What a folder starts is shared by its tests, so they run one after the other; the folders do not know each other.
    """
    top = ROOT / "tests" / "integration"
    folders = {p.parent.relative_to(ROOT) for p in top.glob("*/test_*.py")}
    files = sorted(str(p.relative_to(ROOT)) for p in top.glob("test_*.py"))
    first = [name for name in LONGEST if Path("tests/integration", name) in folders]
    names = [*first, *sorted(p.name for p in folders if p.name not in first)]
    return [[*PYTEST, "-m", "not soak", *what] for what in ([f"tests/integration/{n}"] for n in names)] + [
        [*PYTEST, "-m", "not soak", *files]
    ]


def e2e_commands() -> list[list[str]]:
    """Return a command for each scenario that is no soak, the longest first, and one for what there is beside them."""
    folder = ROOT / "tests" / "e2e"
    others = sorted(f"tests/e2e/{p.name}" for p in folder.glob("test_*.py") if p.stem[5:] not in SCENARIOS)
    found = [[f"tests/e2e/test_{name}.py"] for name in SCENARIOS]
    return [[*PYTEST, "-m", "not soak", *what] for what in (*found, others)]


LONGEST = ("ansible", "backup", "etcd")
SCENARIOS = ("upgrade", "stacked", "faults", "manifest", "single_node", "killed")
PARTS: dict[str, list[list[str]]] = {
    "lint": [
        [str(BIN / "ruff"), "check", "."],
        [str(BIN / "ruff"), "format", "--check", "."],
        [str(BIN / "ansible-lint"), "--offline", "-q", "playbooks"],
    ],
    "types": [[str(BIN / "mypy")]],
    "unit": [[*PYTEST, "-n", "2", "--timeout", "120", "-m", "not soak", "tests/unit"]],
    "integration": integration_commands(),
    "e2e": e2e_commands(),
    "soak": [],  # see tests/soak.py
    "pythons": [[sys.executable, "-m", "tests.pythons"]],
}
SINGLE = ("lint", "types")
"""Parts that use one processor: they run beside each other, and what they print comes one after the other."""
CI_PARTS = ("lint", "types", "unit", "integration", "e2e")
SIDE_BY_SIDE = {"integration": 2, "e2e": 2}
"""How many commands of a part run beside each other; what each printed is shown when it has ended."""
NEED_SYSTEMS = {"integration", "e2e", "soak"}


@dataclass(slots=True)
class Result:
    """How a part ended."""

    name: str
    ok: bool
    duration_s: float
    counts: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)


class Preparation:
    """Makes bundle and base system beside the first parts; ``wait`` says what came of it."""

    def __init__(self) -> None:
        self._problems: list[str] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._started = time.monotonic()
        self._thread.start()

    def _work(self) -> None:
        layer = ["-m", "tests.lab", "layer", "k8s", *LAYER_PACKAGES]
        for what, arguments in (
            ("base system", ["-m", "tests.lab", "base"]),
            ("layer with containerd", [*layer, "--lab", f"prepare-{os.getpid()}"]),
            ("bundle of Kubernetes", ["-m", "tests.bundle", "ensure", "--no-upstream"]),
        ):
            say(f"preparing beside the tests: {what}")
            done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                self._problems.append(f"{what}: {(done.stderr or done.stdout).strip()[-600:]}")
                say(f"preparation of the {what} failed:\n{(done.stderr or done.stdout)[-2000:]}")
            else:
                say(f"prepared: {what} ({time.monotonic() - self._started:.0f} s after the start)")

    def wait(self) -> None:
        """Wait for the end; what failed is printed and the tests that need it say that they are skipped."""
        if self._thread.is_alive():
            say("waiting for bundle and base system")
        while self._thread.is_alive():
            self._thread.join(30)
            if self._thread.is_alive():
                say(f"still preparing ({time.monotonic() - self._started:.0f} s)")


def say(text: str) -> None:
    """Print at once."""
    print(f"== {text}", flush=True)


def run_parts(names: Sequence[str], reports: Path) -> list[Result]:
    """Run parts beside each other, and print what each said when all have ended."""
    if len(names) == 1:
        say(names[0])
        return [run_part(names[0], reports, None)]
    say(" and ".join(names))
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in names]
        with ThreadPoolExecutor(len(names)) as pool:
            results = list(pool.map(run_part, names, [reports] * len(names), files))
        for name, file in zip(names, files, strict=True):
            file.seek(0)
            text = file.read()
            if text:
                say(name)
                print(text, end="", flush=True)
    return results


def run_part(name: str, reports: Path, output: TextIO | None) -> Result:
    """Run one part to its end; it prints into a file, or as it goes."""
    started, result = time.monotonic(), Result(name, True, 0.0)
    commands = [
        ([*command, f"--junitxml={reports / f'{name}-{number}.xml'}"] if "pytest" in command else command)
        for number, command in enumerate(PARTS[name])
    ]
    beside = SIDE_BY_SIDE.get(name, 1)
    if beside == 1:
        codes = [run_command(command, output) for command in commands]
    else:
        with ThreadPoolExecutor(beside) as pool:
            codes = list(pool.map(run_and_show, commands))
    for number, command in enumerate(commands):
        report = reports / f"{name}-{number}.xml"
        result.ok = result.ok and codes[number] in ((0, 5) if "pytest" in command else (0,))
        if report.exists():
            count(report, result)
    result.duration_s = time.monotonic() - started
    return result


def run_command(command: Sequence[str], output: TextIO | None) -> int:
    # ansible-lint looks for ansible beside itself
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output).returncode


def run_and_show(command: Sequence[str]) -> int:
    """Run a command and print at once, when it has ended, what it said."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as file:
        code = run_command(command, file)
        file.seek(0)
        say(f"{' '.join(w for w in command if w.startswith('tests/'))}: {time.monotonic() - started:.0f} s")
        print(file.read(), end="", flush=True)
    return code


def count(report: Path, result: Result) -> None:
    """Add up a JUnit file."""
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kind = next((c.tag for c in case if c.tag in {"failure", "error", "skipped"}), "passed")
        result.counts[kind] += 1
        if kind == "skipped":
            node = case.find("skipped")
            result.skipped[(node.get("message") if node is not None else "") or "no reason given"] += 1


def summary(results: list[Result], wall_s: float) -> str:
    """Return what a person reads at the end; ``wall_s`` is how long all of it took."""
    lines = []
    for result in results:
        counted = ", ".join(f"{n} {kind}" for kind, n in sorted(result.counts.items())) or "-"
        lines.append(f"{'ok  ' if result.ok else 'FAIL'} {result.name:<12} {result.duration_s:7.1f} s  {counted}")
        lines += [f"       skipped {n}: {reason}" for reason, n in result.skipped.most_common()]
    load = f"load at the end {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    lines.append(f"total {wall_s:.0f} s; {load}")
    return "\n".join(lines)


def run_soak(words: list[str], document: Path | None) -> Result:
    """Run the long tests whose id holds any of the words (all without words), and keep each result at once."""
    result, known, started = Result("soak", True, 0.0), soak.names(), time.monotonic()
    names = soak.chosen(known, words)
    for number, name in enumerate(names, 1):
        say(f"soak {number} of {len(names)}: {name}")
        record = soak.run_one(name, document)
        say(f"{name}: {record.outcome} after {record.duration_s} s")
        if document is not None:
            soak.keep(document, record, known)
        result.counts[record.outcome] += 1
        if record.outcome == "skipped":
            result.skipped[record.said] += 1
    result.ok = set(result.counts) <= {"passed", "skipped"}
    result.duration_s = time.monotonic() - started
    return result


def groups(names: Sequence[str]) -> list[list[str]]:
    """Return the parts in their order, those beside each other that use one processor each together."""
    found: list[list[str]] = []
    for name in names:
        if found and name in SINGLE and found[-1][-1] in SINGLE:
            found[-1].append(name)
        else:
            found.append([name])
    return found


def options(arguments: list[str], name: str) -> tuple[list[str], list[str]]:
    """Take every ``NAME VALUE`` out of the arguments; returns the values and the rest."""
    values, rest, left = [], [], list(arguments)
    while left:
        word = left.pop(0)
        if word == name and left:
            values.append(left.pop(0))
        else:
            rest.append(word)
    return values, rest


def main(arguments: list[str]) -> int:
    """Run the named parts, or what CI runs.

    For the soak, ``--write FILE`` keeps what came of each test, and ``--only WORD`` (as often as wanted) runs the
    tests whose id holds the word.
    """
    targets, arguments = options(arguments, "--write")
    words, arguments = options(arguments, "--only")
    names = arguments or list(CI_PARTS)
    unknown = set(names) - set(PARTS)
    if unknown:
        print(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    started = time.monotonic()
    preparation = Preparation() if NEED_SYSTEMS & set(names) else None
    results = []
    with tempfile.TemporaryDirectory(prefix="kops-py-reports-") as folder:
        for group in groups(names):
            if NEED_SYSTEMS & set(group) and preparation is not None:
                preparation.wait()
                preparation = None
            if group == ["soak"]:
                results.append(run_soak(words, Path(targets[-1]) if targets else None))
            else:
                results += run_parts(group, Path(folder))
    text = summary(results, time.monotonic() - started)
    print(f"\n{text}")
    return 0 if all(r.ok for r in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
