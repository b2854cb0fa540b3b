"""Versions, folders, the key of the recipe, and the sources of the private apt configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.bundle import build, recipe
from tests.bundle.recipe import Folders, KubernetesVersion
from tests.bundle.shell import BundleError
from tests.bundle.source import with_sources_deb822, with_sources_one_line

CONSTANTS = """\
\tMinimumControlPlaneVersion = version.MustParseSemantic("v1.19.0")
\tMinimumKubeletVersion = version.MustParseSemantic("v1.19.0")
\tCurrentKubernetesVersion = version.MustParseSemantic("v1.20.0")
\tSupportedEtcdVersion = map[uint8]string{
\t\t20: "3.4.13-0",
\t\t21: "3.4.13-0",
\t}
"""


def test_version_is_read_and_written() -> None:
    version = KubernetesVersion.parse("v1.20.3")
    assert (str(version), version.minor_name, version.package_version) == ("v1.20.3", "v1.20", "1.20.3-1.1")
    assert KubernetesVersion.parse("v1.20.10") > version


@pytest.mark.parametrize("text", ["1.20.2", "v1.20", "v1.20.2-rc.1", "", "v1.19.9", "v1.23.0", "v1.32.0"])
def test_version_that_cannot_be_built_is_refused_with_what_can(text: str) -> None:
    with pytest.raises(BundleError, match=r"v1\.20"):
        KubernetesVersion.parse(text)


def test_constants_of_the_next_minor_move_all_three_and_add_one_etcd() -> None:
    found = build.constants_of_minor(CONSTANTS, 21)
    assert re.findall(r'(\w+) = version\.MustParseSemantic\("(.+?)"\)', found) == [
        ("MinimumControlPlaneVersion", "v1.20.0"),
        ("MinimumKubeletVersion", "v1.20.0"),
        ("CurrentKubernetesVersion", "v1.21.0"),
    ]
    assert re.findall(r'(\d+): +"(.+?)",', found) == [("20", "3.4.13-0"), ("21", "3.4.13-0"), ("22", "3.4.13-0")]


@pytest.mark.parametrize("lost", ["CurrentKubernetesVersion", "SupportedEtcdVersion"])
def test_constants_of_another_shape_are_refused(lost: str) -> None:
    with pytest.raises(BundleError, match=r"constants\.go"):
        build.constants_of_minor(CONSTANTS.replace(lost, "Other"), 21)


def test_link_flags_stamp_both_packages_and_strip() -> None:
    words = build.link_flags(KubernetesVersion.parse("v1.21.0")).split()
    assert words[:2] == ["-s", "-w"]
    stamped = [word for word in words if word.endswith(".gitVersion=v1.21.0")]
    assert [word.rpartition(".gitVersion")[0].rpartition("k8s.io/")[2] for word in stamped] == [
        "component-base/version",
        "client-go/pkg/version",
    ]


def test_digest_tells_parts_apart() -> None:
    assert recipe.digest("ab", "c") != recipe.digest("a", "bc")
    assert recipe.digest("ab", b"c") == recipe.digest(b"ab", "c")


def test_every_recipe_file_exists_and_counts() -> None:
    assert all((recipe.HERE / name).is_file() for name in recipe.RECIPE_FILES)
    whole = recipe.source_digest(*recipe.RECIPE_FILES, "src")
    for name in recipe.RECIPE_FILES:
        assert recipe.source_digest(*(one for one in recipe.RECIPE_FILES if one != name), "src") != whole


def test_folders_follow_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KOPS_BUNDLE_CACHE", raising=False)
    monkeypatch.delenv("KOPS_BUNDLE_BUILD_CACHE", raising=False)
    assert Folders.from_environment() == Folders(tmp_path / "kops-py/bundle", tmp_path / "kops-py/build")
    monkeypatch.setenv("KOPS_BUNDLE_CACHE", str(tmp_path / "elsewhere"))
    assert Folders.from_environment().bundle().parent == tmp_path / "elsewhere"


DEB822 = """\
Types: deb
# a comment
URIs: http://archive.test/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/one.gpg

Types: deb
URIs: http://other.test/x
Suites: nodistro
Components: main

Enabled: no
Types: deb
URIs: http://archive.test/debian
Suites: bookworm-backports
"""


def test_deb822_sources_of_the_release_get_deb_src_and_others_are_left_out() -> None:
    found = with_sources_deb822(DEB822, "bookworm")
    assert found.count("Types: deb deb-src\n") == 1
    assert "Signed-By: /usr/share/keyrings/one.gpg" in found
    assert "other.test" not in found
    assert "backports" not in found


def test_one_line_sources_get_a_twin_with_their_options() -> None:
    text = (
        "# deb http://commented.test/ bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://archive.test/debian bookworm main contrib\n"
        "deb-src http://archive.test/debian bookworm main\n"
        "deb http://packages.test/apt stable main\n"
    )
    assert with_sources_one_line(text, "bookworm").splitlines() == [
        "deb [arch=amd64 signed-by=/k.gpg] http://archive.test/debian bookworm main contrib",
        "deb-src [arch=amd64 signed-by=/k.gpg] http://archive.test/debian bookworm main contrib",
    ]
