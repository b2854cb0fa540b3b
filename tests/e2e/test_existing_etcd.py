"""A cluster on an etcd that is somebody else's: three members that kops-py did not build and has no SSH to.

Debian's packages with certificates of an authority of their own, given by their URLs in cluster.yaml.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import backups, canaries, workload
from tests.e2e.bed import Bed
from tests.integration.kube.pki import Authority

NODES = ("n1", "n2")
ETCD = ("n3", "n4", "n5")
PKI = "/etc/etcd-of-theirs"
YEAR = timedelta(days=365)
FILES = ("ca.crt", "client.crt", "client.key")

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]


def test_an_etcd_that_exists(bed: Bed, tmp_path: Path) -> None:
    """Built on it, backed up from it, also when members are gone; nothing of kops-py on its hosts, ever."""
    bed.boot(5)
    authority = Authority("theirs")
    _build_etcd(bed, authority, tmp_path)
    bed.write_inventory(control_planes=NODES[:1], workers=NODES[1:], etcd=None)
    backup, _, private = backups.section(bed)
    given = _give(bed, authority)
    bed.write_cluster("guest", etcd={"topology": "external", "external": given}, backup=backup)
    # What the page says a control plane needs for backups of an etcd to whose hosts there is no SSH.
    bed.node("n1").exec("apt-get update -q; apt-get install -qy etcd-client curl", timeout_s=300)
    built = bed.bootstrap(deadline_s=900)
    bed.say(f"bootstrap on an etcd that exists {built.duration_s:.1f} s")
    _check_built(bed)
    canaries.write(bed, NODES)
    _check_backup(bed, private, "backup and proof")

    status = bed.program.run("etcd", "status", "-o", "json").json()
    assert sorted(m["name"] for m in status["members"] if m["healthy"]) == sorted(ETCD), status
    refused = bed.program.run("etcd", "restore", "newest", "--identity", str(private), "-y", exit_code=2)
    assert "etcd.external" in refused.text, refused.report()

    bed.node("n3").kill()  # the first of the URLs
    workload.assert_answers(bed, NODES)
    _check_backup(bed, private, "with the first member gone, backup and proof")
    assert "member n3" in bed.program.run("etcd", "status", exit_code=12).text
    bed.node("n3").start()

    _give(bed, authority, renewed="a-later-client")
    planned = bed.program.run("bootstrap", "--plan", "-o", "json", exit_code=20).json()
    steps = [s["id"] for w in planned["waves"] for s in w["steps"]]
    assert "etcd-client/n1" in steps, steps
    assert not any("kubeadm" in step or "join" in step for step in steps), steps
    bed.bootstrap()
    subject = bed.node("n1").exec("openssl x509 -noout -subject -in /etc/kubernetes/pki/apiserver-etcd-client.crt")
    assert "a-later-client" in subject.stdout
    bed.assert_nothing_to_do()
    workload.assert_answers(bed, NODES)
    for name in ETCD:
        left = bed.node(name).exec("ls -d /var/lib/kops-py /etc/kops-py", check=False).stdout
        assert left == "", f"kops-py was on {name}, which is not its own"


def _build_etcd(bed: Bed, authority: Authority, folder: Path) -> None:
    """Do what its owners did: packages, certificates, settings, all three started together."""
    cluster = ",".join(f"{name}=https://{bed.node(name).ip}:2380" for name in ETCD)
    for name in ETCD:
        node = bed.node(name)
        node.exec("apt-get update -q; apt-get install -qy etcd-server etcd-client; systemctl stop etcd", timeout_s=300)
        node.exec("find /var/lib/etcd -mindepth 1 -delete")
        authority.issue(name, names=(node.ip, "127.0.0.1", name), valid=YEAR).write(folder, name)
        for suffix in ("crt", "key"):
            node.put_file(folder / f"{name}.{suffix}", f"{PKI}/member.{suffix}", 0o600)
        node.put_file(authority.certificate, f"{PKI}/ca.crt")
        node.exec(f"chown -R etcd: {PKI} /var/lib/etcd")
        own = {"NAME": name, "DATA_DIR": "/var/lib/etcd/theirs", "INITIAL_CLUSTER": cluster}
        own |= {f"{kind}CERT_FILE": f"{PKI}/member.crt" for kind in ("", "PEER_")}
        own |= {f"{kind}KEY_FILE": f"{PKI}/member.key" for kind in ("", "PEER_")}
        own |= {f"{kind}TRUSTED_CA_FILE": f"{PKI}/ca.crt" for kind in ("", "PEER_")}
        own |= {f"{kind}CLIENT_CERT_AUTH": "true" for kind in ("", "PEER_")}
        own |= dict.fromkeys(("LISTEN_PEER_URLS", "INITIAL_ADVERTISE_PEER_URLS"), f"https://{node.ip}:2380")
        own |= dict.fromkeys(("LISTEN_CLIENT_URLS", "ADVERTISE_CLIENT_URLS"), f"https://{node.ip}:2379")
        node.put_file("".join(f"ETCD_{key}={value}\n" for key, value in own.items()).encode(), "/etc/default/etcd")
    for name in ETCD:
        bed.node(name).exec("systemctl start --no-block etcd")
    bed.node("n3").exec(
        f"for i in $(seq 60); do ETCDCTL_API=3 etcdctl --endpoints=https://{bed.node('n3').ip}:2379 "
        f"--cacert={PKI}/ca.crt --cert={PKI}/member.crt --key={PKI}/member.key endpoint health --cluster && exit; "
        "sleep 1; done; exit 1",
        timeout_s=90,
    )


def _give(bed: Bed, authority: Authority, *, renewed: str = "apiserver-of-guest") -> dict[str, Any]:
    """Put what its owners hand out beside cluster.yaml; returns the section that names it."""
    place = bed.folder / "etcd"
    place.mkdir(exist_ok=True)
    authority.issue(renewed, valid=YEAR).write(place, "client")
    (place / "ca.crt").write_bytes(authority.certificate)
    (place / "client.key").chmod(0o600)
    urls = [f"https://{bed.node(name).ip}:2379" for name in ETCD]
    return {"endpoints": urls, **{key: f"etcd/{file}" for key, file in zip(("ca", "cert", "key"), FILES, strict=True)}}


def _check_built(bed: Bed) -> None:
    assert bed.ready_nodes() == dict.fromkeys(NODES, True)
    node = bed.node("n1")
    assert node.exec("ls /etc/kubernetes/manifests/etcd.yaml", check=False).returncode != 0
    assert node.exec("stat -c %a /etc/kubernetes/pki/apiserver-etcd-client.key").stdout == "600\n"
    servers = node.exec("grep -o 'etcd-servers=.*' /etc/kubernetes/manifests/kube-apiserver.yaml").stdout.strip()
    assert servers == "etcd-servers=" + ",".join(f"https://{bed.node(name).ip}:2379" for name in ETCD)
    bed.assert_nothing_to_do()


def _check_backup(bed: Bed, private: Path, what: str) -> None:
    made = bed.program.run("etcd", "backup", "--yes", deadline_s=300)
    bed.say(f"{what} {made.duration_s:.1f} s")
    newest = backups.listed(bed)[0]
    assert newest["state"] == "good", newest
    assert newest["keys"] > 100, newest
    drill = bed.program.run("etcd", "drill", "--identity", str(private))
    assert f"backup {newest['id']} is good" in drill.stdout, drill.report()
