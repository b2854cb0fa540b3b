"""Packages: fields, files, modes; and the same input gives the same bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bundle import debs
from tests.bundle.debs import DebFile, DebSpec
from tests.bundle.recipe import Folders
from tests.bundle.shell import Progress

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not on this machine")


def spec(program: Path) -> DebSpec:
    return DebSpec(
        name="thing",
        version="1.2.3-1.1",
        summary="A thing",
        depends=("iptables (>= 1.4.21)", "mount"),
        files=(
            DebFile("usr/bin/thing", program, 0o755),
            DebFile("etc/default/thing", "ARGS=\n"),
        ),
        empty_folders=("var/lib/thing",),
        conffiles=("/etc/default/thing",),
        scripts={"postinst": "#!/bin/sh\nexit 0\n"},
    )


def test_control_has_what_apt_needs_and_no_empty_field(tmp_path: Path) -> None:
    control = spec(tmp_path).control("amd64", 12)
    assert "Depends: iptables (>= 1.4.21), mount\n" in control
    assert "Installed-Size: 12\n" in control
    assert control.splitlines()[-2:] == [
        "Description: A thing",
        " Built from Debian's sources for test clusters; not for production.",
    ]
    bare = DebSpec(name="bare", version="1", summary="x", files=()).control("amd64", 0)
    assert "Depends" not in bare


@needs_dpkg
def test_package_holds_the_files_and_is_the_same_each_time(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF" * 1000)
    folders = Folders(tmp_path / "bundle", tmp_path / "build")
    quiet = Progress(quiet=True)
    first = debs.build(spec(program), tmp_path / "a", "amd64", folders, quiet)
    os.utime(program, (1, 1))
    second = debs.build(spec(program), tmp_path / "b", "amd64", folders, quiet)
    assert first.name == "thing_1.2.3-1.1_amd64.deb"
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    shown = subprocess.run(["dpkg-deb", "-c", first], capture_output=True, text=True, check=True).stdout
    modes = {line.split()[-1]: line.split()[:2] for line in shown.splitlines()}
    assert modes["./usr/bin/thing"] == ["-rwxr-xr-x", "root/root"]
    assert modes["./etc/default/thing"] == ["-rw-r--r--", "root/root"]
    assert modes["./var/lib/thing/"] == ["drwxr-xr-x", "root/root"]
    conffiles = subprocess.run(["dpkg-deb", "-I", first, "conffiles"], capture_output=True, text=True, check=True)
    assert conffiles.stdout == "/etc/default/thing\n"


@needs_dpkg
def test_package_that_is_there_stays(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "bundle", tmp_path / "build")
    there = tmp_path / "a" / "thing_1.2.3-1.1_amd64.deb"
    there.parent.mkdir()
    there.write_text("as it is")
    built = debs.build(spec(tmp_path / "missing"), there.parent, "amd64", folders, Progress(quiet=True))
    assert built.read_text() == "as it is"
