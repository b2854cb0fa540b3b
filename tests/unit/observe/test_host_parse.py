# ruff: noqa: E501 - recorded output stays as it was printed
"""What real systems print, and odd ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kops_py.model.facts import JobState
from kops_py.observe import host_parse as p
from kops_py.observe.host_script import SECTIONS

DEBIAN = """PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
VERSION_CODENAME=bookworm
ID=debian
HOME_URL="https://www.debian.org/"
"""

ROCKY = """NAME="Rocky Linux"
VERSION="9.4 (Blue Onyx)"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="9.4"
PRETTY_NAME="Rocky Linux 9.4 (Blue Onyx)"
"""

IP_ADDR = r"""1: lo    inet 127.0.0.1/8 scope host lo\       valid_lft forever preferred_lft forever
1: lo    inet6 ::1/128 scope host \       valid_lft forever preferred_lft forever
2: eth0    inet 10.0.0.11/24 brd 10.0.0.255 scope global eth0\       valid_lft forever preferred_lft forever
2: eth0    inet6 fd00::2/64 scope global nodad \       valid_lft forever preferred_lft forever
2: eth0    inet6 fe80::fc:ff:fe00:1/64 scope link \       valid_lft forever preferred_lft forever
3: tun0    inet 10.8.0.6 peer 10.8.0.5/32 scope global tun0\       valid_lft forever preferred_lft forever
4: docker0    inet 172.17.0.1/16 brd 172.17.255.255 scope global docker0\       valid_lft forever preferred_lft forever
5: veth1@if4    inet 169.254.1.1/32 scope link veth1\       valid_lft forever preferred_lft forever
"""

LINKS = """lo 00:00:00:00:00:00 virtual
eth0 52:54:00:AA:bb:01 device
eth1 52:54:00:aa:bb:02 device
host0 02:4d:0a:cc:00:0b virtual
docker0 02:42:aa:aa:aa:aa virtual
cali0 ee:ee:ee:ee:ee:ee virtual
ib0 80:00:00:00:fe:80:00:00:00:00:00:00:00:00:00:00:00:00:00:00 device
"""

ROUTES = """default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.11 metric 100 \n\
10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.11 \n\
10.8.0.5 dev tun0 proto kernel scope link src 10.8.0.6 \n\
192.168.0.0/16 via 10.0.0.254 dev eth0 \n\
unreachable 172.30.0.0/16 \n\
blackhole 10.99.0.0/26 proto bird \n\
fd00::/64 dev eth0 proto kernel metric 256 pref medium
fe80::/64 dev eth0 proto kernel metric 256 pref medium
default via fd00::1 dev eth0 metric 1024 pref medium
"""

SS = """LISTEN 0      128          0.0.0.0:22         0.0.0.0:*    users:(("sshd",pid=34,fd=3))
LISTEN 0      4096       127.0.0.1:10248      0.0.0.0:*    users:(("kubelet",pid=812,fd=20))
LISTEN 0      4096               *:6443             *:*    users:(("kube-apiserver",pid=999,fd=3))
LISTEN 0      128             [::]:22            [::]:*    users:(("sshd",pid=34,fd=4))
LISTEN 0      4096   127.0.0.53%lo:53         0.0.0.0:*    users:(("systemd-resolve",pid=5,fd=14))
LISTEN 0      128        [fd00::2]:9100          [::]:*
"""

PROC_TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:07E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1590 1 0 100 0 0 10 0
   1: 020200C0:B5E0 507100CB:0050 06 00000000:00000000 03:00000EF0 00000000     0        0 0 3 0
   0: 00000000000000000000000000000000:192B 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00 0 0 0 1
"""


def test_os_release() -> None:
    assert p.os_release(DEBIAN)["ID"] == "debian"
    assert p.os_release(ROCKY)["ID_LIKE"] == "rhel centos fedora"
    assert p.os_release("ID='x\nBROKEN\n# VERSION_ID=3\n=\nVERSION_ID=\n") == {"ID": "x", "": "", "VERSION_ID": ""}


def test_addresses() -> None:
    found = p.addresses_by_link(IP_ADDR)
    assert found == {
        "eth0": {"10.0.0.11/24", "fd00::2/64"},
        "tun0": {"10.8.0.6/32"},
        "docker0": {"172.17.0.1/16"},
    }


def test_macs_are_of_devices_and_of_the_interface_the_node_is_known_by() -> None:
    by_link = {"host0": frozenset({"10.0.0.11/24"}), "docker0": frozenset({"172.17.0.1/16"})}
    assert p.macs(LINKS, by_link, frozenset({"10.0.0.11"})) == {
        "52:54:00:aa:bb:01",
        "52:54:00:aa:bb:02",
        "02:4d:0a:cc:00:0b",
    }


def test_routes() -> None:
    assert p.routes(ROUTES) == {"10.0.0.0/24", "192.168.0.0/16", "172.30.0.0/16", "10.99.0.0/26", "fd00::/64"}


def test_listening() -> None:
    found = p.listening(SS, "")
    assert found == {
        22: "sshd",
        53: "systemd-resolve",
        6443: "kube-apiserver",
        9100: "",
        10248: "kubelet",
    }
    assert p.listening("", PROC_TCP) == {2024: "", 6443: ""}
    header = "State  Recv-Q Send-Q Local Address:Port Peer Address:Port Process\n"
    assert p.listening(header + SS, PROC_TCP) == found


def test_swap() -> None:
    swaps = (
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/dm-1  partition\t999420\t0\t-2\n/swap file 1024 0 -3\n"
    )
    fstab = "# /swap none swap sw 0 0\nUUID=1 / ext4 defaults 0 1\n"
    assert p.swap(swaps, fstab) == (1000444 * 1024, False)
    assert p.swap("", fstab + "/dev/dm-1\tnone\tswap\tsw 0 0\n") == (0, True)


@pytest.mark.parametrize(
    ("text", "version"),
    [("cgroup2fs\ncgroup2", 2), ("cgroup2fs", 2), ("tmpfs\ntmpfs", 1), ("UNKNOWN (0x1)\ncgroup2", 2), ("", 0)],
)
def test_cgroup_version(text: str, version: int) -> None:
    assert p.cgroup_version(text) == version


def test_packages_and_holds() -> None:
    dpkg = "installed kubeadm 1.31.2-1.1\nconfig-files kubelet 1.30.0-1.1\ninstalled containerd 1.6.20~ds1-1+deb12u1\n"
    assert p.packages(dpkg, "") == {"kubeadm": "1.31.2-1.1", "containerd": "1.6.20~ds1-1+deb12u1"}
    rpm = "package kubelet is not installed\ninstalled kubeadm 1.31.2-150500.1.1\n"
    assert p.packages("", rpm) == {"kubeadm": "1.31.2-150500.1.1"}
    assert p.held("kubelet\t\thold\nkubeadm:amd64   hold\n", "", "") == {"kubelet", "kubeadm"}
    lock = "# Added lock on Mon\nkubelet-0:1.31.2-150500.1.1.*\ncri-tools-1.31.1-1.*\n0:kubectl-1.31.2-1.*\n"
    assert p.held("", lock, "") == {"kubelet", "cri-tools", "kubectl"}
    assert p.held("", '[[packages]]\nname = "kubernetes-cni"\n', "") == {"kubernetes-cni"}
    assert p.held("", "", "exclude=kubelet kubeadm,kubectl\n") == {"kubelet", "kubeadm", "kubectl"}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1", "1.6.20~ds1"),
        ("containerd containerd.io 1.7.22 7f7fdf5fed64eb6a7caf99b3e12efcf9d60e311c", "1.7.22"),
        (
            "containerd github.com/containerd/containerd/v2 v2.0.0 207ad711eabd375a01713109a8a197d197ff6542",
            "2.0.0",
        ),
        ("", ""),
    ],
)
def test_containerd_version(text: str, version: str) -> None:
    assert p.containerd_version(text) == version


def test_sysctls() -> None:
    text = "/proc/sys/net/ipv4/ip_forward:1\n/proc/sys/kernel/panic:10\ngrep: x: Permission denied\n"
    assert p.sysctls(text) == {"net.ipv4.ip_forward": "1", "kernel.panic": "10"}


def test_jobs() -> None:
    text = "kubeadm-init inactive 0\nkubeadm-join failed 1\na activating -\nb inactive -\nc unknown -\nd active 0\nbroken\n"
    assert p.job_states(text) == {
        "kubeadm-init": JobState.SUCCEEDED,
        "kubeadm-join": JobState.FAILED,
        "a": JobState.RUNNING,
        "b": JobState.INTERRUPTED,
        "c": JobState.RUNNING,
        "d": JobState.SUCCEEDED,
    }


@pytest.mark.parametrize(("text", "digest"), [('{"digest": "ab"}', "ab"), ("{", ""), ("[]", ""), ('{"digest": 1}', "")])
def test_digest(text: str, digest: str) -> None:
    assert p.digest(text) == digest


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1795199932.316237633\n", 1795199932.316237633), ("1795199932.%N", 1795199932.0), ("", None), ("x", None)],
)
def test_clock(text: str, seconds: float | None) -> None:
    assert p.clock_of(text) == seconds


def test_sections_keep_only_what_ended_and_no_content_can_fake_a_border() -> None:
    text = "m begin a\nx\nn end 0\nm2 end 0\ny\n\nm end 0\nm begin b\nhalf"
    assert p.sections(text, "m") == ({"a": "x\nn end 0\nm2 end 0\ny"}, False)
    assert p.sections(text + "\nm end 1\nm finished\n", "m")[1]


def test_a_host_that_says_nothing_gives_empty_facts() -> None:
    facts = p.host_facts("n1", {}, frozenset())
    assert facts.reachable
    assert (facts.cpus, facts.memory_bytes, facts.os_id, facts.cgroup_version) == (0, 0, "", 0)


SECTION = st.sampled_from(SECTIONS)
LINE = st.one_of(st.text(max_size=40), st.sampled_from((IP_ADDR + ROUTES + SS + LINKS + PROC_TCP).splitlines()))


@given(st.dictionaries(SECTION, st.lists(LINE, max_size=4).map("\n".join)))
def test_nothing_a_host_says_raises(found: dict[str, str]) -> None:
    p.host_facts("n1", found, frozenset({"10.0.0.11"}))
