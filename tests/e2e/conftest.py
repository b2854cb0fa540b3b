"""Fixtures of the scenarios: the bundle, a lab of their own, the program, and a report when one fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.bundle import Bundle, ensure
from tests.bundle.shell import BundleError
from tests.e2e.bed import Bed
from tests.e2e.program import Program, installed_program
from tests.lab import Lab, unavailable_reason

PROJECT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here boots systems and builds clusters."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            for name in ("e2e", "lab", "bundle"):
                item.add_marker(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the program printed, its journal and the systems' consoles to the report of a failure."""
    report = yield
    bed = getattr(item, "funcargs", {}).get("bed")
    if isinstance(bed, Bed) and call.when == "call" and call.excinfo is not None:
        report.sections.append(("what the scenario left", bed.report()))
    return report


@pytest.fixture(scope="session")
def lab_or_skip() -> None:
    reason = unavailable_reason()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def bundle(lab_or_skip: None) -> Bundle:
    """Packages and images of Kubernetes; built when there are none yet, which takes minutes."""
    try:
        return ensure()
    except BundleError as error:
        pytest.skip(f"no Kubernetes bundle: {error}")


@pytest.fixture
def bed(request: pytest.FixtureRequest, bundle: Bundle, tmp_path: Path) -> Iterator[Bed]:
    """A lab named after the test, not yet booted, and an empty folder to run the program in."""
    word = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")
    name = f"e2e-{word[:18].strip('-')}-{os.getpid() % 1000000}"
    folder = tmp_path / "operator"
    folder.mkdir()
    lab = Lab(name)
    lab.down()  # a test run of this name that was killed may have left something
    try:
        yield Bed(lab, bundle, Program(installed_program(), folder))
    finally:
        lab.down()
    assert lab.leaks() == []


@pytest.fixture(scope="session")
def wheel_program(lab_or_skip: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kops-py installed from its wheel into a fresh environment: nothing of the checkout is in reach."""
    folder = tmp_path_factory.mktemp("wheel")
    uv = _uv()
    _sh([*uv, "build", "--quiet", "--wheel", "--out-dir", str(folder / "dist"), str(PROJECT)])
    (wheel,) = (folder / "dist").glob("kops_py-*.whl")
    environment = folder / "venv"
    _sh([*uv, "venv", "--quiet", "--python", sys.executable, str(environment)])
    _sh([*uv, "pip", "install", "--quiet", "--python", str(environment / "bin/python"), str(wheel)])
    return environment / "bin/kops-py"


def _uv() -> list[str]:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        pytest.skip("uv is not there, which builds and installs the wheel: python -m pip install uv")
    return [found]


def _sh(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr[-2000:]}"
