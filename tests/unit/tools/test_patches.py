"""What updates a host has: the real scripts, run with package managers that say what real ones have said."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kops_py.model.patches import Selection, Update
from kops_py.tools.patches import install_updates_script, look_script, parse_look

DEBIAN = """\
Reading package lists...
Building dependency tree...
Reading state information...
Calculating upgrade...
The following packages were automatically installed and are no longer required:
  linux-image-6.1.0-18-amd64
Use 'apt autoremove' to remove them.
The following NEW packages will be installed:
  linux-image-6.1.0-25-amd64
The following packages have been kept back:
  containerd kubeadm kubectl kubelet
The following packages will be upgraded:
  docker-ce-cli krb5-locales libc6 libc6:i386 linux-image-amd64 perl-base security-tools tzdata
8 upgraded, 1 newly installed, 0 to remove and 4 not upgraded.
Inst libc6:i386 [2.36-9+deb12u4] (2.36-9+deb12u8 Debian:12.7/stable [i386]) [libc6:amd64 ]
Conf libc6:i386 (2.36-9+deb12u8 Debian:12.7/stable [i386]) [libc6:amd64 ]
Inst libc6 [2.36-9+deb12u4] (2.36-9+deb12u8 Debian:12.7/stable [amd64])
Conf libc6 (2.36-9+deb12u8 Debian:12.7/stable [amd64])
Inst perl-base [5.36.0-7] (5.36.0-7+deb12u1 Debian:12.7/stable, Debian-Security:12/stable-security [amd64])
Conf perl-base (5.36.0-7+deb12u1 Debian:12.7/stable, Debian-Security:12/stable-security [amd64])
Inst krb5-locales [1.20.1-2] (1.20.1-2+deb12u2 Debian-Security:12/oldstable [all])
Inst linux-image-6.1.0-25-amd64 (6.1.106-3 Debian-Security:12/stable-security [amd64])
Inst linux-image-amd64 [6.1.76-1] (6.1.106-3 Debian-Security:12/stable-security [amd64])
Inst docker-ce-cli [5:27.1.1-1~debian.12~bookworm] (5:27.2.0-1~debian.12~bookworm Docker CE:bookworm [amd64])
Inst security-tools [1.0] (1.1 security.example.com [all])
Inst tzdata [2024a-0+deb12u1] (2024b-0+deb12u1 Debian:12-updates/stable-updates [all])
Conf krb5-locales (1.20.1-2+deb12u2 Debian-Security:12/oldstable [all])
Conf linux-image-6.1.0-25-amd64 (6.1.106-3 Debian-Security:12/stable-security [amd64])
"""

UBUNTU = """\
Reading package lists...
Building dependency tree...
Reading state information...
Calculating upgrade...
The following security updates require Ubuntu Pro with 'esm-apps' enabled:
  libavcodec58
The following upgrades have been deferred due to phasing:
  python3-update-manager update-manager-core
The following packages have been kept back:
  kubelet
The following packages will be upgraded:
  bash curl less tzdata
4 upgraded, 0 newly installed, 0 to remove and 3 not upgraded.
Inst bash [5.1-6ubuntu1] ({bash} [amd64])
Inst curl [7.81.0-1] (7.81.0-1ubuntu1.18 Ubuntu:22.04/jammy-security, Ubuntu:22.04/jammy-updates [amd64])
Inst less [590-1build1] (590-1ubuntu0.22.04.3+esm1 UbuntuESM:22.04/jammy-infra-security [amd64])
Inst tzdata [2024a-0ubuntu0.22.04] (2024a-0ubuntu0.22.04.1 Ubuntu:22.04/jammy-updates [all])
"""
SUPERSEDED = "5.1-6ubuntu1.2 Ubuntu:22.04/jammy-updates"
SECURE = "5.1-6ubuntu1.1 Ubuntu:22.04/jammy-security"

UNREACHABLE = """\
W: Failed to fetch http://archive.example.com/dists/stable/InRelease  Could not connect to archive.example.com:80
W: Some index files failed to download. They have been ignored, or old ones used instead.
"""
HARMLESS = "W: Download is performed unsandboxed as root as file couldn't be accessed by user '_apt'. (13: Denied)\n"

UPGRADES_4 = """\
Available Upgrades
NetworkManager.x86_64                 1:1.46.0-8.el9_4                     baseos
bind-libs.x86_64                      32:9.16.23-18.el9_4.6                appstream
curl.x86_64                           7.76.1-29.el9_4.1                    baseos
glibc.i686                            2.34-100.el9_4.3                     baseos
glibc.x86_64                          2.34-100.el9_4.3                     baseos
kernel.x86_64                         5.14.0-427.18.1.el9_4                baseos
libcurl.x86_64                        7.76.1-29.el9_4.1                    baseos
python3.11.x86_64                     3.11.7-1.el9                         appstream
tzdata.noarch                         2024b-2.el9                          baseos
"""
ADVISORIES_4 = """\
RLSA-2024:2551 Important/Sec. bind-libs-32:9.16.23-18.el9_4.1.x86_64
RLSA-2024:5529 Moderate/Sec.  libcurl-7.76.1-29.el9_4.1.x86_64
RLSA-2024:2758 Important/Sec. kernel-5.14.0-427.16.1.el9_4.x86_64
RLSA-2024:4077 Low/Sec.       python3.11-libs-3.11.7-1.el9.x86_64
RLSA-2024:2551 Important/Sec. tzdata-2024b-2.el9.src
"""
INSTALLED = {
    "NetworkManager": "1.44.0-3.el9",
    "bind-libs": "9.16.23-14.el9",
    "curl": "7.76.1-26.el9",
    "glibc": "2.34-83.el9\n2.34-83.el9",
    "kernel": "5.14.0-362.8.1.el9_3\n5.14.0-427.13.1.el9_4",
    "libcurl": "7.76.1-26.el9",
    "python3.11": "3.11.5-1.el9",
    "tzdata": "2024a-1.el9",
}

UPGRADES_5 = """\
Available upgrades
bash.x86_64           5.2.32-1.fc41       updates
vim-minimal.x86_64    2:9.1.825-1.fc41    updates
"""
ADVISORIES_5 = """\
Name                   Type     Severity                          Package              Issued
FEDORA-2024-2fa3bd7a8c security Moderate vim-minimal-2:9.1.825-1.fc41.x86_64 2024-11-03 02:37:16
"""


@dataclass
class Host:
    """A host whose programs are made up, and strict: whatever is not expected of them ends with 99."""

    root: Path
    programs: dict[str, str] = field(default_factory=lambda: {"uname": "echo 6.1.0-25-amd64"})

    def apt(self, simulation: str, *, security: str = "", update: tuple[int, str] = (0, ""), status: int = 0) -> None:
        """``security``: what is simulated with preferences; ``update``: exit status and standard error."""
        what = shlex.quote
        self.programs["apt-get"] = f"""
lists='' preferences='' simulate='' verb=''
while [ $# -gt 0 ]; do
  case "$1" in
    -o) case "$2" in
          Dir::State::Lists=*) lists=${{2#*=}} ;;
          Dir::Etc::Preferences=*) preferences=${{2#*=}} ;;
        esac; shift ;;
    -s) simulate=yes ;;
    update | dist-upgrade | install) verb="$*"; break ;;
  esac
  shift
done
[ -d "$lists/partial" ] || exit 99
if [ "$verb" = update ]; then
  find "$lists" -type f -delete  # as apt does
  printf %s {what(update[1])} >&2
  exit {update[0]}
fi
[ -n "$simulate" ] || exit 99
echo "$verb" >>{what(str(self.root / "simulated"))}
if [ -n "$preferences" ]; then cat "$preferences" >{what(str(self.root / "preferences"))} || exit 99; fi
if [ -n "$preferences" ]; then printf %s {what(security)}; else printf %s {what(simulation)}; fi
exit {status}
"""

    def dnf(self, upgrades: str, advisories: str, *, makecache: int = 0, updateinfo: int = 0) -> None:
        self.programs["dnf"] = f"""
case "$*" in
  "-q makecache --refresh") exit {makecache} ;;
  "-q updateinfo list --security --available") printf %s {shlex.quote(advisories)}; exit {updateinfo} ;;
  "-q list --upgrades" | "-q list --upgrades --disableexcludes=all kernel") printf %s {shlex.quote(upgrades)} ;;
  *) exit 99 ;;
esac
"""
        known = "\n".join(f"  {name}) printf '%s\\n' {shlex.quote(v)} ;;" for name, v in INSTALLED.items())
        self.programs["rpm"] = f'case "$4" in\n{known}\n  *) echo "package $4 is not installed"; exit 1 ;;\nesac'

    def look(self, family: str, selection: Selection, *names: str) -> tuple[tuple[Update, ...], bool]:
        folder = self.root / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        for tool in ("awk", "cat", "find", "grep", "mkdir", "mktemp", "rm", "sed", "sort", "stat", "tail"):
            if not (folder / tool).exists():
                (folder / tool).symlink_to(str(shutil.which(tool)))
        for name, text in self.programs.items():
            (folder / name).write_text(f"#!{shutil.which('sh')}\n{text}\n")
            (folder / name).chmod(0o755)
        script = look_script(family, selection, names, root=str(self.root))
        temporary = self.root / "tmp"
        temporary.mkdir(exist_ok=True)
        done = subprocess.run(
            [str(shutil.which("sh")), "-c", script],
            env={"PATH": str(folder), "TMPDIR": str(temporary), "LANG": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert list(temporary.iterdir()) == []
        return parse_look(done.stdout, selection)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path / "root")
    for name in ("boot", "proc", "run", "etc/apt"):
        (made.root / name).mkdir(parents=True)
    (made.root / "proc" / "stat").write_text("btime 1000\n")
    return made


def names(found: tuple[tuple[Update, ...], bool]) -> list[str]:
    return [update.name for update in found[0]]


def test_debian_all_updates_but_those_held(host: Host) -> None:
    host.apt(DEBIAN)
    updates, reboot = host.look("debian", Selection.ALL)
    assert not reboot
    assert [(u.name, u.installed, u.candidate) for u in updates] == [
        ("docker-ce-cli", "5:27.1.1-1~debian.12~bookworm", "5:27.2.0-1~debian.12~bookworm"),
        ("krb5-locales", "1.20.1-2", "1.20.1-2+deb12u2"),
        ("libc6", "2.36-9+deb12u4", "2.36-9+deb12u8"),
        ("libc6:i386", "2.36-9+deb12u4", "2.36-9+deb12u8"),
        ("linux-image-6.1.0-25-amd64", "", "6.1.106-3"),
        ("linux-image-amd64", "6.1.76-1", "6.1.106-3"),
        ("perl-base", "5.36.0-7", "5.36.0-7+deb12u1"),
        ("security-tools", "1.0", "1.1"),
        ("tzdata", "2024a-0+deb12u1", "2024b-0+deb12u1"),
    ]
    assert (host.root / "simulated").read_text() == "dist-upgrade\n"


def test_debian_security_by_label_or_archive_and_not_by_the_name_of_a_server(host: Host) -> None:
    host.apt("", security=DEBIAN)
    found = host.look("debian", Selection.SECURITY)
    assert names(found) == ["krb5-locales", "linux-image-6.1.0-25-amd64", "linux-image-amd64", "perl-base"]
    assert all(update.security for update in found[0])


def test_ubuntu_security_where_a_later_update_stands_in_the_place_of_a_security_update(host: Host) -> None:
    host.apt(UBUNTU.format(bash=SUPERSEDED), security=UBUNTU.format(bash=SECURE))
    found = host.look("debian", Selection.SECURITY)
    assert [(u.name, u.candidate) for u in found[0]] == [
        ("bash", "5.1-6ubuntu1.1"),
        ("curl", "7.81.0-1ubuntu1.18"),
        ("less", "590-1ubuntu0.22.04.3+esm1"),
    ]
    everything = host.look("debian", Selection.ALL)[0]
    assert [(u.name, u.candidate, u.security) for u in everything][:2] == [
        ("bash", "5.1-6ubuntu1.2", False),
        ("curl", "7.81.0-1ubuntu1.18", True),
    ]
    assert names((everything, False)) == ["bash", "curl", "less", "tzdata"]


def test_security_puts_its_preferences_before_the_hosts_own(host: Host) -> None:
    own = "Package: bash\nPin: version 5.1*\nPin-Priority: 1001\n"
    (host.root / "etc/apt/preferences").write_text(own)
    host.apt("", security=DEBIAN)
    host.look("debian", Selection.SECURITY)
    first = "Package: *\nPin: release a=/-security$/\nPin-Priority: 990\n\n"
    second = "Package: *\nPin: release l=/-Security$/\nPin-Priority: 990\n\n"
    assert (host.root / "preferences").read_text() == first + second + own


def test_named_packages_are_simulated_even_when_held(host: Host) -> None:
    host.apt("Inst containerd [1.6.20] (1.6.24 Debian:12.7/stable [amd64])\n")
    assert names(host.look("debian", Selection.NAMED, "containerd", "odd name")) == ["containerd"]
    simulated = "install containerd odd name\n"
    assert (host.root / "simulated").read_text() == simulated
    held = "--only-upgrade --allow-change-held-packages install containerd 'odd name'"
    assert held in look_script("debian", Selection.NAMED, ("containerd", "odd name"))


def test_a_repository_that_cannot_be_reached_is_no_host_without_updates(host: Host) -> None:
    host.apt("0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n", update=(0, UNREACHABLE))
    with pytest.raises(ValueError, match="lists could not be read"):
        host.look("debian", Selection.ALL)
    host.apt(DEBIAN, update=(100, "E: The repository does not have a Release file.\n"))
    with pytest.raises(ValueError, match="lists could not be read"):
        host.look("debian", Selection.ALL)
    host.apt(DEBIAN, update=(0, HARMLESS))
    assert len(host.look("debian", Selection.ALL)[0]) == 9


def test_a_simulation_that_fails_is_told(host: Host) -> None:
    host.apt("", status=100)
    with pytest.raises(ValueError, match="cannot be told"):
        host.look("debian", Selection.NAMED, "unheard-of")
    with pytest.raises(ValueError, match="lists could not be read"):
        parse_look("", Selection.ALL)


def test_the_look_says_whether_the_host_wants_a_restart(host: Host) -> None:
    host.apt(DEBIAN)
    host.dnf("", "")
    for kernel in ("6.1.0-25-amd64", "6.1.0-26-amd64"):
        (host.root / "boot" / f"vmlinuz-{kernel}").touch()
    assert host.look("debian", Selection.ALL)[1]
    assert host.look("redhat", Selection.ALL)[1]
    host.programs["uname"] = "echo 6.1.0-26-amd64"
    assert not host.look("debian", Selection.ALL)[1]
    assert not host.look("redhat", Selection.ALL)[1]
    (host.root / "run" / "reboot-required").touch()
    assert host.look("debian", Selection.ALL)[1]


def test_dnf_all_updates_each_once_with_the_newest_of_several_that_are_installed(host: Host) -> None:
    host.dnf(UPGRADES_4, ADVISORIES_4)
    updates, reboot = host.look("redhat", Selection.ALL)
    assert not reboot
    assert [(u.name, u.installed, u.candidate) for u in updates] == [
        ("NetworkManager", "1.44.0-3.el9", "1:1.46.0-8.el9_4"),
        ("bind-libs", "9.16.23-14.el9", "32:9.16.23-18.el9_4.6"),
        ("curl", "7.76.1-26.el9", "7.76.1-29.el9_4.1"),
        ("glibc", "2.34-83.el9", "2.34-100.el9_4.3"),
        ("kernel", "5.14.0-427.13.1.el9_4", "5.14.0-427.18.1.el9_4"),
        ("libcurl", "7.76.1-26.el9", "7.76.1-29.el9_4.1"),
        ("python3.11", "3.11.5-1.el9", "3.11.7-1.el9"),
        ("tzdata", "2024a-1.el9", "2024b-2.el9"),
    ]


def test_dnf_security_by_package_also_where_the_update_is_later_than_the_advisory(host: Host) -> None:
    """Not curl (its name ends libcurl's), not python3.11 (begins another's), not tzdata (only its source is named)."""
    host.dnf(UPGRADES_4, ADVISORIES_4)
    assert names(host.look("redhat", Selection.SECURITY)) == ["bind-libs", "kernel", "libcurl"]
    host.dnf(UPGRADES_4, "")
    assert names(host.look("redhat", Selection.SECURITY)) == []


def test_dnf_5_says_behind_the_package_when_an_advisory_was_issued(host: Host) -> None:
    host.dnf(UPGRADES_5, ADVISORIES_5)
    host.programs["rpm"] = "echo 1.0-1.fc41"
    assert names(host.look("redhat", Selection.SECURITY)) == ["vim-minimal"]
    assert names(host.look("redhat", Selection.ALL)) == ["bash", "vim-minimal"]


def test_dnf_named_packages_are_looked_at_even_when_excluded(host: Host) -> None:
    host.dnf("kernel.x86_64   5.14.0-427.18.1.el9_4   baseos\n", "")
    assert names(host.look("redhat", Selection.NAMED, "kernel")) == ["kernel"]


def test_dnf_without_lists_or_advisories_is_no_host_without_updates(host: Host) -> None:
    host.dnf("", "", makecache=1)
    with pytest.raises(ValueError, match="lists could not be read"):
        host.look("redhat", Selection.ALL)
    host.dnf(UPGRADES_4, "", updateinfo=1)
    with pytest.raises(ValueError, match="cannot be told"):
        host.look("redhat", Selection.SECURITY)
    assert len(host.look("redhat", Selection.ALL)[0]) == 8


def test_exactly_these_versions_are_installed() -> None:
    debian = install_updates_script("debian", [("libc6:i386", "2.36-9+deb12u8"), ("docker-ce-cli", "5:27.2.0-1")])
    assert " install libc6:i386=2.36-9+deb12u8 docker-ce-cli=5:27.2.0-1\n" in debian
    redhat = install_updates_script("redhat", [("bind-libs", "32:9.16.23-18.el9_4.6"), ("curl", "7.76.1-29.el9_4.1")])
    assert redhat.endswith(" install bind-libs-9.16.23-18.el9_4.6 curl-7.76.1-29.el9_4.1\n")


@pytest.mark.parametrize("family", ["", "suse"])
def test_no_other_package_manager_is_known(family: str) -> None:
    with pytest.raises(ValueError, match="no package manager"):
        look_script(family, Selection.ALL)
    with pytest.raises(ValueError, match="no package manager"):
        install_updates_script(family, [("a", "1")])
