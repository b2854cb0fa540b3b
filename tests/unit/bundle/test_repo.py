"""Packages and Release as apt reads them."""

from __future__ import annotations

import datetime
import hashlib

from tests.bundle.repo import packages_paragraph, release_text

CONTROL = (
    "Package: kubeadm\nVersion: 1.20.2-1.1\nArchitecture: amd64\n"
    "Depends: kubelet (>= 1.19.0)\nDescription: short\n long line\n ."
)


def test_packages_paragraph_adds_what_apt_fetches_by_and_keeps_the_description_last() -> None:
    found = packages_paragraph(CONTROL, "./kubeadm.deb", 12, "m" * 32, "s" * 64)
    assert found.splitlines() == [
        "Package: kubeadm",
        "Version: 1.20.2-1.1",
        "Architecture: amd64",
        "Depends: kubelet (>= 1.19.0)",
        "Filename: ./kubeadm.deb",
        "Size: 12",
        f"MD5sum: {'m' * 32}",
        f"SHA256: {'s' * 64}",
        "Description: short",
        " long line",
        " .",
    ]
    assert "\n\n" not in found


def test_release_lists_each_index_with_its_size_and_both_hashes() -> None:
    indexes = {"Packages": b"Package: a\n", "Packages.gz": b"zipped"}
    date = datetime.datetime(2021, 1, 13, 14, 0, tzinfo=datetime.UTC)
    found = release_text("v1.20", "amd64", indexes, date)
    lines = found.splitlines()
    assert "Date: Wed, 13 Jan 2021 14:00:00 +0000" in lines
    assert "Architectures: amd64 all" in lines
    sha256 = lines[lines.index("SHA256:") + 1 :]
    assert [line.split() for line in sha256] == [
        [hashlib.sha256(data).hexdigest(), str(len(data)), name] for name, data in indexes.items()
    ]
    assert lines.index("MD5Sum:") < lines.index("SHA256:")
    assert found.endswith("\n")
