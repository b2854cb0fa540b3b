"""The project's own Ansible modules, run the way Ansible runs them."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.playbooks.loading import load, run_module

host_state = load("library/kops_host_state.py")


def test_files_are_written_once_with_their_modes(tmp_path: Path) -> None:
    wanted = [
        {"path": str(tmp_path / "made" / "a"), "content": "one\n", "mode": "0600", "folder_mode": "0700"},
        {"path": str(tmp_path / "b"), "content": "two\n"},
    ]
    first = run_module("kops_files", files=wanted)
    assert (first["changed"], len(first["changed_paths"])) == (True, 2)
    assert (tmp_path / "made" / "a").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700
    assert run_module("kops_files", files=wanted)["changed"] is False
    (tmp_path / "b").chmod(0o666)
    assert run_module("kops_files", files=wanted)["changed_paths"] == [str(tmp_path / "b")]
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o644


def test_files_in_check_mode_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    wanted = [{"path": str(tmp_path / "a"), "content": "one\n"}]
    answer = run_module("kops_files", check_mode=True, files=wanted, absent=[str(tmp_path / "old")])
    assert answer["changed_paths"] == [str(tmp_path / "a"), str(tmp_path / "old")]
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_files_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "below"
    answer = run_module("kops_files", files=[{"path": str(path), "content": ""}])
    assert answer["failed"] is True
    assert str(path) in answer["msg"]


def test_state_is_read_without_a_change() -> None:
    answer = run_module("kops_host_state", sysctl={"kernel.ostype": "Linux", "no.such": "1"}, packages=["no-such-one"])
    assert answer["changed"] is False
    assert answer["sysctl_differs"] == ["no.such"]
    assert answer["packages"] == {}
    assert answer["marker"] == {"exists": False, "digest": ""}


def test_settings_that_a_later_file_takes_back_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "99-z.conf").write_text("# x\nnet.ipv4.ip_forward=0\n-kernel/panic = 10\nvm.swappiness = 1\n")
    (tmp_path / "10-a.conf").write_text("kernel.panic = 0\n")
    monkeypatch.setattr(host_state, "SYSCTL_DIRS", (str(tmp_path),))
    wanted = {"net.ipv4.ip_forward": "1", "kernel.panic": "10"}
    assert host_state.overridden_sysctl(wanted, "/etc/sysctl.d/90-kops-py.conf") == [
        f"{tmp_path}/99-z.conf: net.ipv4.ip_forward = 0"
    ]


@pytest.fixture
def archives(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, directory=str(folder), **options)  # type: ignore[arg-type]

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()


@pytest.fixture
def ctr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A strict stand-in for ctr: lists and imports into a text file; anything else is an error."""
    folder = tmp_path / "bin"
    folder.mkdir()
    images = tmp_path / "images.txt"
    images.write_text("r/there:1\n")
    script = folder / "ctr"
    script.write_text(
        "#!/bin/sh\n"
        '[ "$1 $2 $3" = "--namespace k8s.io images" ] || exit 90\n'
        f'case "$4 $5" in "ls -q") cat {images} ;; "import /"*) cat "$5" >> {images} ;; *) exit 91 ;; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return images


def entry(folder: Path, name: str, ref: str, scope: str = "all") -> dict[str, object]:
    (folder / name).write_text(f"{ref}\n")
    digest = hashlib.sha256(f"{ref}\n".encode()).hexdigest()
    return {"file": name, "refs": [ref], "sha256": digest, "size_bytes": len(ref) + 1, "for": scope}


def test_missing_images_are_fetched_checked_loaded_and_removed(
    archives: tuple[str, Path], ctr: Path, tmp_path: Path
) -> None:
    url, folder = archives
    index = [
        entry(folder, "there.tar", "r/there:1"),
        entry(folder, "new.tar", "r/new:1"),
        entry(folder, "etcd.tar", "r/etcd:1", "control-plane"),
    ]
    (folder / "there.tar").unlink()  # must not be asked for
    (folder / "images.json").write_text(json.dumps(index))
    staging = tmp_path / "staging"
    assert run_module("kops_images", check_mode=True, url=url, directory=str(staging))["loaded"] == ["r/new:1"]
    assert not staging.exists()
    answer = run_module("kops_images", url=url, directory=str(staging))
    assert (answer["changed"], answer["loaded"]) == (True, ["r/new:1"])
    assert ctr.read_text().split() == ["r/there:1", "r/new:1"]
    assert list(staging.iterdir()) == []
    assert run_module("kops_images", url=url, directory=str(staging))["changed"] is False
    answer = run_module("kops_images", url=url, directory=str(staging), control_plane=True)
    assert answer["loaded"] == ["r/etcd:1"]


@pytest.mark.usefixtures("ctr")
def test_a_broken_archive_is_not_loaded(archives: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = archives
    (folder / "images.json").write_text(json.dumps([entry(folder, "new.tar", "r/new:1")]))
    (folder / "new.tar").write_text("something else")
    answer = run_module("kops_images", url=url, directory=str(tmp_path / "staging"))
    assert answer["failed"] is True
    assert "new.tar: sha256 is" in answer["msg"]
    assert list((tmp_path / "staging").iterdir()) == []


@pytest.mark.usefixtures("ctr")
def test_an_archive_that_lies_about_its_images_is_told(archives: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = archives
    liar = {**entry(folder, "new.tar", "r/new:1"), "refs": ["r/other:1"]}
    (folder / "images.json").write_text(json.dumps([liar]))
    answer = run_module("kops_images", url=url, directory=str(tmp_path / "staging"))
    assert "r/other:1" in answer["msg"]


@pytest.mark.usefixtures("ctr")
@pytest.mark.parametrize(
    ("index", "word"),
    [
        (None, "404"),
        ("{", "not JSON"),
        ('[{"file": "x"}]', "is not a list of"),
        ('[{"file": "../x", "refs": [], "sha256": "", "size_bytes": 1, "for": "all"}]', "not a plain file name"),
    ],
)
def test_a_bad_index_is_told(archives: tuple[str, Path], index: str | None, word: str, tmp_path: Path) -> None:
    url, folder = archives
    if index is not None:
        (folder / "images.json").write_text(index)
    answer = run_module("kops_images", url=url, directory=str(tmp_path / "staging"))
    assert answer["failed"] is True
    assert "images.json" in answer["msg"]
    assert word in answer["msg"]
