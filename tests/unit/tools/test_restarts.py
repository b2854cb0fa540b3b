"""When a host wants a restart: the real script, run against folders that look like the host's."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kops_py.tools.restarts import restart_function, restart_needed_script

LONG_AGO, LATER = 1000, 99_999_999_999
DEBIAN = ("6.1.0-9-amd64", "6.1.0-18-amd64")
RHEL = ("5.14.0-427.el9.x86_64", "5.14.0-427.13.1.el9_4.x86_64")


@dataclass
class Host:
    """A host's /boot, /run, /proc and programs below a folder, with a kernel that runs."""

    root: Path
    running: str = ""
    programs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("boot", "run", "proc", "bin"):
            (self.root / name).mkdir(parents=True)
        for name in ("grep", "sed", "sort", "stat", "tail"):  # and no needs-restarting of this machine
            (self.root / "bin" / name).symlink_to(str(shutil.which(name)))
        self.started(LONG_AGO)

    def kernels(self, *versions: str) -> None:
        for version in versions:
            (self.root / "boot" / f"vmlinuz-{version}").write_bytes(b"MZ")

    def started(self, at_s: int) -> None:
        (self.root / "proc" / "stat").write_text(f"cpu  1 2 3\nbtime {at_s}\nprocesses 9\n")

    def asks(self) -> None:
        (self.root / "run" / "reboot-required").write_text("*** System restart required ***\n")

    def needed(self, family: str) -> bool:
        for name, text in {"uname": f'[ "$*" = -r ] && echo {self.running}', **self.programs}.items():
            program = self.root / "bin" / name
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(0o755)
        environment = {"PATH": str(self.root / "bin"), "LANG": "C.UTF-8"}
        argv = [str(shutil.which("sh")), "-c", restart_needed_script(family, root=str(self.root))]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert (done.stdout, done.stderr) == ("", "")
        assert done.returncode in (0, 1)
        return done.returncode == 0


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "a host's root")


@pytest.mark.parametrize(
    ("family", "old", "new"),
    [
        ("debian", *DEBIAN),
        ("debian", "6.12.9+deb13-amd64", "6.12.48+deb13-amd64"),
        ("debian", "5.15.0-99-generic", "5.15.0-101-generic"),
        ("debian", "5.15.0-101-generic", "6.8.0-40-generic"),
        ("debian", "6.13~rc7-amd64", "6.13-amd64"),
        ("redhat", *RHEL),
        ("redhat", "4.18.0-553.el8_10.x86_64", "4.18.0-553.5.1.el8_10.x86_64"),
        ("redhat", "5.14.0-427.el9.aarch64", "5.14.0-427.13.1.el9_4.aarch64"),
        ("redhat", "5.14.0-427.9.1.el9_4.x86_64", "5.14.0-427.13.1.el9_4.x86_64"),
        ("redhat", "6.1.79-99.164.amzn2023.x86_64", "6.1.102-108.177.amzn2023.x86_64"),
    ],
)
def test_a_newer_kernel_that_came_since_the_start_needs_one_and_an_older_one_does_not(
    host: Host, family: str, old: str, new: str
) -> None:
    host.kernels(old, new)
    host.running = old
    assert host.needed(family)
    host.running = new
    assert not host.needed(family)


@pytest.mark.parametrize("family", ["debian", "redhat"])
def test_a_host_without_a_kernel_of_its_own_needs_none(host: Host, family: str) -> None:
    host.running = "6.1.0-9-amd64"
    assert not host.needed(family)
    (host.root / "boot").rmdir()
    assert not host.needed(family)


def test_a_kernel_from_elsewhere_needs_none_unless_the_host_asks_for_it(host: Host) -> None:
    host.kernels(*DEBIAN)
    host.running = "6.1.0-9-amd64-of-a-hypervisor"
    assert not host.needed("debian")
    host.running = "6.1.0-9"  # the beginning of a kernel's version is not its version
    assert not host.needed("debian")
    host.running = "6.1.0-9.amd64"  # nor is it a pattern
    assert not host.needed("debian")
    host.asks()
    assert host.needed("debian")


def test_a_kernel_that_the_start_has_passed_over_is_not_waited_for_again(host: Host) -> None:
    host.kernels(*DEBIAN)
    host.running = DEBIAN[0]
    host.started(LATER)
    assert not host.needed("debian")


def test_without_the_time_of_the_start_every_newer_kernel_counts(host: Host) -> None:
    host.kernels(*DEBIAN)
    host.running = DEBIAN[0]
    (host.root / "proc" / "stat").write_text("cpu  1 2 3\n")
    assert host.needed("debian")


@pytest.mark.parametrize(
    "other",
    [
        "0-rescue-5a1c9e0d2b7f4b6e8d3f1a2b3c4d5e6f",
        "6.9.0-1-amd64.old",
        "6.9.0-1-amd64.bak",
        "6.9.0-1-amd64.dpkg-new",
        "6.9.0-1-amd64.dpkg-bak",
        "6.9.0-1.x86_64.rpmsave",
    ],
)
def test_what_no_boot_loader_offers_by_itself_does_not_count(host: Host, other: str) -> None:
    host.kernels(DEBIAN[1], other)
    host.running = DEBIAN[1]
    assert not host.needed("debian")
    host.kernels("6.9.0-1-amd64")
    assert host.needed("debian")


def test_links_beside_the_kernels_do_not_count(host: Host) -> None:
    host.kernels(DEBIAN[1])
    host.running = DEBIAN[1]
    (host.root / "boot" / "vmlinuz").symlink_to(f"vmlinuz-{DEBIAN[1]}")
    (host.root / "boot" / "vmlinuz.old").symlink_to(f"vmlinuz-{DEBIAN[0]}")
    (host.root / "boot" / "vmlinuz-6.9.0-1-amd64").symlink_to("gone")
    assert not host.needed("debian")


def test_needs_restarting_is_asked_where_there_is_one_and_the_kernel_in_any_case(host: Host) -> None:
    host.kernels(*RHEL)
    host.running = RHEL[1]
    host.programs["needs-restarting"] = '[ "$*" = -r ] || exit 9; echo "Reboot is required"; exit 1'
    assert host.needed("redhat")
    host.programs["needs-restarting"] = '[ "$*" = -r ] || exit 9; echo "Reboot should not be necessary."; exit 0'
    assert not host.needed("redhat")
    host.running = RHEL[0]
    assert host.needed("redhat")


def test_what_is_known_of_one_family_is_not_asked_of_another(host: Host) -> None:
    host.kernels(RHEL[1])
    host.running = RHEL[1]
    host.asks()
    assert not host.needed("redhat")
    with pytest.raises(ValueError, match="''"):
        restart_function("")
