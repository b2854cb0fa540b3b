"""Whether the nodes reach what lies outside: package repository, registry, images; and how fast etcd's disk is."""

from __future__ import annotations

import json
import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kops_py.connect.base import Cancel, Fleet, Host
from kops_py.model.errors import HostError, KopsError
from kops_py.model.facts import HostFacts
from kops_py.model.preflight import FsyncProbe, UrlProbe, UrlUse
from kops_py.model.spec import ClusterSpec, Group, HostSpec
from kops_py.model.version import facts_of

SOURCES_TIMEOUT_S = 30.0
FSYNC_WRITES = 100

# Each URL is asked for in the background and answers with one line: index, HTTP status (000: none), why not.
# Proxies as the real users of the URL see them: apt and dnf for repositories, containerd's unit for registries,
# and /etc/environment for all, because sudo drops the variables of the login. A URL may hold a password: it is
# never an argument of a program, only of the shell's own functions.
_SCRIPT = r"""
export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
mark=$1 python=$2
for file in /etc/environment; do
    [ -r "$file" ] || continue
    while IFS= read -r line || [ -n "$line" ]; do
        line=${line#export }; name=${line%%=*}
        case $name in
            http_proxy|https_proxy|no_proxy|HTTP_PROXY|HTTPS_PROXY|NO_PROXY|all_proxy|ALL_PROXY) ;;
            *) continue ;;
        esac
        value=${line#*=}; value=${value#[\"\']}; value=${value%[\"\']}
        export "$name=$value"
    done <"$file"
done
# curl reads http_proxy in lower case only.
[ -n "${http_proxy:-}" ] || { [ -n "${HTTP_PROXY:-}" ] && export http_proxy="$HTTP_PROXY"; }

use_proxy_of_packages() {
    if command -v apt-config >/dev/null; then
        p=$(apt-config shell kops_p Acquire::http::Proxy kops_s Acquire::https::Proxy 2>/dev/null)
        kops_p= kops_s=; eval "$p"
    else
        kops_p=$(sed -n 's/^ *proxy *= *//p' /etc/dnf/dnf.conf 2>/dev/null | tail -n 1) kops_s=$kops_p
    fi
    [ -n "$kops_p" ] && [ "$kops_p" != DIRECT ] && export http_proxy="$kops_p"
    kops_s=${kops_s:-$kops_p}
    [ -n "$kops_s" ] && [ "$kops_s" != DIRECT ] && export https_proxy="$kops_s"
}
use_proxy_of_containerd() {
    for word in $(systemctl show -p Environment --value containerd.service 2>/dev/null); do
        case $word in
            HTTP_PROXY=*|http_proxy=*) export http_proxy="${word#*=}" ;;
            HTTPS_PROXY=*|https_proxy=*) export https_proxy="${word#*=}" ;;
            NO_PROXY=*|no_proxy=*) export no_proxy="${word#*=}" ;;
        esac
    done
}
fetch() {
    if command -v curl >/dev/null; then
        said=$(printf 'url = "%s"\n' "$1" | curl -q -K - -sS -L -o /dev/null -w '%{http_code}' \
            --connect-timeout 6 -m 10 2>&1)
        status=$(printf '%s' "$said" | tail -c 3); why=$(printf '%s' "$said" | head -n 1)
    elif [ -n "$python" ]; then
        said=$(printf '%s\n' "$1" | "$python" -I -c '
import base64, sys, urllib.error, urllib.parse, urllib.request
parts = urllib.parse.urlsplit(sys.stdin.readline().strip())
login, at, place = parts.netloc.rpartition("@")
ask = urllib.request.Request(parts._replace(netloc=place).geturl())
if at:
    coded = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
    ask.add_unredirected_header("Authorization", "Basic " + coded)
try:
    print(urllib.request.urlopen(ask, timeout=6).status)
except urllib.error.HTTPError as e:
    print(e.code)
except Exception as e:
    print("000", str(e).replace("\n", " "))
' 2>&1)
        status=$(printf '%s' "$said" | head -c 3); why=${said#???}
    elif command -v wget >/dev/null; then
        said=$(printf '%s\n' "$1" | wget -S -i - -O /dev/null -T 6 -t 1 2>&1)
        status=$(printf '%s' "$said" | sed -n 's/^ *HTTP\/[0-9.]* \([0-9][0-9][0-9]\).*/\1/p' | tail -n 1)
        why=$(printf '%s' "$said" | tail -n 1)
    else
        status=000 why="no curl, wget or python3 to ask with"
    fi
    case $status in [1-9][0-9][0-9]) why= ;; *) status=000 ;; esac
}
main() {
    index=0
    for pair in "$@"; do
        kind=${pair%%=*} url=${pair#*=}
        (
            case $url in
                http://*|https://*)
                    [ "$kind" = repository ] && use_proxy_of_packages
                    [ "$kind" = registry ] && use_proxy_of_containerd
                    fetch "$url" ;;
                *) path=${url#file://}; if [ -e "$path" ]; then status=200 why=; else status=404 why=; fi ;;
            esac
            printf '%s %s %s %s\n' "$mark" "$index" "$status" "$why"
        ) &
        index=$((index + 1))
    done
    wait
}
"""

# Appends as etcd's log does, into a file without a name: nothing can stay behind, however this ends.
_FSYNC = r"""
import os, sys, tempfile, time
count, path = int(sys.argv[1]), sys.argv[2]
while not os.path.isdir(path):
    path = os.path.dirname(path)
try:
    fd = os.open(path, os.O_TMPFILE | os.O_RDWR, 0o600)
except (OSError, AttributeError):
    fd, name = tempfile.mkstemp(prefix=".kops-py-", dir=path)
    os.unlink(name)
os.posix_fallocate(fd, 0, count * 4096)
os.fsync(fd)
block, taken, end = b"\0" * 4096, [], time.monotonic() + 4
while len(taken) < count and time.monotonic() < end:
    os.pwrite(fd, block, len(taken) * 4096)
    begin = time.monotonic()
    os.fdatasync(fd)
    taken.append((time.monotonic() - begin) * 1000)
taken.sort()
def at(q):
    return taken[min(len(taken) - 1, int(q * len(taken)))]
print("fsync %d %.3f %.3f %s" % (len(taken), at(0.5), at(0.98), path))
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A URL a host needs; ``subject`` groups alternatives."""

    use: UrlUse
    subject: str
    url: str


def without_password(text: str) -> str:
    """Return a text without the user and password of any URL in it."""
    return re.sub(r"(?<=://)[^/\s@]+@", "", text)


def uses_rpm(facts: HostFacts) -> bool:
    """Whether the host's packages are rpm."""
    family = {facts.os_id, *facts.os_like.split()}
    return bool(family & {"rhel", "fedora", "centos", "rocky", "almalinux", "ol"})


def registries(spec: ClusterSpec) -> Mapping[str, tuple[str, ...]]:
    """Return the registry images are pulled from, with the base URLs containerd would try in order."""
    if spec.kubernetes.images is not None:
        return {}
    repository = spec.kubernetes.image_repository or facts_of(spec.kubernetes.version).default_registry
    registry = repository.partition("/")[0]
    return {registry: (*spec.containerd.mirrors.get(registry, ()), f"https://{registry}")}


def wanted_urls(spec: ClusterSpec, host: HostSpec, facts: HostFacts) -> tuple[Wanted, ...]:
    """Return the URLs this host must be able to read."""
    if not host.is_kubernetes:
        return ()
    kubernetes = spec.kubernetes
    base = f"{kubernetes.repository.rstrip('/')}/{kubernetes.version.minor_text}"
    metadata = f"{base}/rpm/repodata/repomd.xml" if uses_rpm(facts) else f"{base}/deb/Release"
    found = [Wanted(UrlUse.REPOSITORY, metadata, metadata)]
    key = kubernetes.repository_key
    if key is not None and key.startswith(("http://", "https://")):
        found.append(Wanted(UrlUse.REPOSITORY, key, key))
    for registry, urls in registries(spec).items():
        found.extend(
            Wanted(UrlUse.REGISTRY, registry, url.rstrip("/") + ("" if "/v2" in url else "/v2/")) for url in urls
        )
    if kubernetes.images is not None and kubernetes.images.startswith(("http://", "https://")):
        url = f"{kubernetes.images.rstrip('/')}/{kubernetes.version}/images.json"
        found.append(Wanted(UrlUse.IMAGES, url, url))
    return tuple(found)


def runs_etcd(spec: ClusterSpec, host: HostSpec) -> bool:
    """Whether etcd keeps its data on this host."""
    return Group.ETCD in host.groups if spec.external_etcd else host.is_control_plane


def url_answers(text: str, mark: str) -> Mapping[int, tuple[int, str]]:
    """Read ``mark index status why`` lines."""
    found = {}
    for line in text.splitlines():
        words = line.split(" ", 3)
        if len(words) >= 3 and words[0] == mark and words[1].isdigit() and words[2].isdigit():
            found[int(words[1])] = (int(words[2]), words[3].strip() if len(words) == 4 else "")
    return found


def fsync_answer(host: str, text: str) -> FsyncProbe | None:
    """Read what the disk probe printed; None when it did not work."""
    for line in text.splitlines():
        match line.split(" ", 4):
            case ["fsync", writes, p50, p99, path] if writes.isdigit():
                return FsyncProbe(host, path, int(writes), float(p50), float(p99))
    return None


def images_problem(spec: ClusterSpec) -> str:
    """Return why the image folder on this machine cannot be used; empty when it can or is not needed."""
    images = spec.kubernetes.images
    if images is None or images.startswith(("http://", "https://")):
        return ""
    index = Path(images) / str(spec.kubernetes.version) / "images.json"
    try:
        json.loads(index.read_bytes())
    except OSError as error:
        return f"{index} cannot be read: {error.strerror}"
    except ValueError as error:
        return f"{index} is not JSON: {error}"
    return ""


def _ask(
    host: Host, wanted: Sequence[Wanted], python: str, etcd: bool, cancel: Cancel | None
) -> tuple[list[UrlProbe], FsyncProbe | None]:
    urls: list[UrlProbe] = []
    fsync: FsyncProbe | None = None
    if wanted:
        mark = f"kops-{secrets.token_hex(8)}"
        call = shlex.join(["main", *(f"{w.use}={w.url}" for w in wanted)])
        result = host.run(
            ("sh", "-s", "--", mark, python),
            sudo=True,
            stdin=f"{_SCRIPT}{call} </dev/null\n".encode(),
            timeout_s=SOURCES_TIMEOUT_S,
            check=False,
            cancel=cancel,
        )
        said = url_answers(result.out, mark)
        for index, item in enumerate(wanted):
            status, why = said.get(index, (0, "the probe said nothing"))
            shown = [without_password(text) for text in (item.subject, item.url, why)]
            urls.append(UrlProbe(host.name, item.use, shown[0], shown[1], status, shown[2]))
    if etcd and python:
        argv = (python, "-I", "-S", "-", str(FSYNC_WRITES), "/var/lib/etcd")
        result = host.run(argv, sudo=True, stdin=_FSYNC.encode(), timeout_s=20.0, check=False, cancel=cancel)
        fsync = fsync_answer(host.name, result.out)
    return urls, fsync


def probe_sources(
    fleet: Fleet, spec: ClusterSpec, hosts: Mapping[str, HostFacts], *, cancel: Cancel | None = None
) -> tuple[tuple[UrlProbe, ...], tuple[FsyncProbe, ...], Mapping[str, KopsError]]:
    """Ask every reachable host for what it must reach, and measure the disks etcd writes to.

    Also returns the hosts on which the probe itself failed. Changes nothing. Raises CancelledError.
    """

    def work(host: Host) -> tuple[list[UrlProbe], FsyncProbe | None]:
        facts, spec_host = hosts[host.name], spec.host(host.name)
        wanted = wanted_urls(spec, spec_host, facts)
        return _ask(host, wanted, facts.python_path, runs_etcd(spec, spec_host), cancel)

    names = [h.name for h in spec.hosts if h.name in hosts and hosts[h.name].reachable]
    answers = fleet.map(names, work, cancel=cancel)
    if cancel is not None:
        cancel.check()
    urls: list[UrlProbe] = []
    fsyncs: list[FsyncProbe] = []
    problems: dict[str, KopsError] = {}
    for name, answer in answers.items():
        if isinstance(answer, HostError):
            problems[name] = answer
        elif not isinstance(answer, KopsError):
            urls.extend(answer[0])
            if answer[1] is not None:
                fsyncs.append(answer[1])
    return tuple(urls), tuple(fsyncs), problems
