"""Whether the nodes reach each other on the ports the cluster needs.

Where nothing listens yet a short-lived listener stands in: it ends by itself after LIFETIME_S even when kops-py
is killed, and earlier when kops-py says so. It is never started on a node of a running cluster, nor beside a
running job, where it could take a port from the real service, nor outside the operator's limit. Work is bounded:
targets go in groups, and each host that probes gets one round trip a group.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kops_py.connect.base import Cancel, Fleet, Host
from kops_py.model.errors import HostError, KopsError
from kops_py.model.facts import HostFacts, JobState
from kops_py.model.preflight import PortProbe, Reach
from kops_py.model.spec import ClusterSpec, Group, HostSpec

LIFETIME_S = 20
CONNECT_TIMEOUT_S = 3.5
GROUP_SIZE = 32
"""How many targets are probed at once; their listeners must outlive the connections of all sources."""
PEERS = 16
"""From how many neighbours in the inventory a port that every node needs is tried, beside the control planes."""

API_PORT = 6443
KUBELET_PORT = 10250
ETCD_PORTS = (2379, 2380)

_LISTENER = r"""
import os, select, signal, socket, struct, sys
lifetime, address, ports = int(sys.argv[2]), sys.argv[3], [int(p) for p in sys.argv[4:]]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
sockets = []
for port in ports:
    s = socket.socket(family, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        s.bind((address, port))
        s.listen(128)
        sockets.append(s)
        print("port %d ok" % port)
    except OSError as e:
        print("port %d errno %d %s" % (port, e.errno, e.strerror))
sys.stdout.flush()
if sockets:
    ready, done = os.pipe()
    child = os.fork()
    if child:
        # sudo may run this on a terminal of its own: go only when the child no longer belongs to it.
        os.close(done)
        os.read(ready, 1)
        print("pid %d" % child)
        sys.exit(0)
    signal.alarm(lifetime)
    os.setsid()
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(ready)
    os.close(done)
    while True:
        for s in select.select(sockets, [], [])[0]:
            c = s.accept()[0]
            # Reset instead of a lingering TIME_WAIT on a port that a service wants soon.
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            c.close()
"""

# Returns when the listener is gone, so that its port is free; looks again 20 times a second, for 2 s at most.
_STOP = r"""
is_ours() { [ -r "/proc/$1/cmdline" ] && tr '\0' ' ' <"/proc/$1/cmdline" | grep -q -- "$2"; }
if is_ours "$@"; then kill "$1"; fi
looks=0
while is_ours "$@" && [ "$looks" -lt 40 ]; do looks=$((looks + 1)); sleep 0.05; done
"""

_CONNECT_PYTHON = r"""
import errno, os, select, socket, sys, time
limit, pairs = float(sys.argv[1]), [p.rsplit(",", 1) for p in sys.argv[2:]]
def say(pair, code):
    print("%s %s %s %s" % (pair[0], pair[1], errno.errorcode.get(code, code) if code else "ok", os.strerror(code)))
while pairs:
    batch, pairs = pairs[:200], pairs[200:]
    waiting, poll, end = {}, select.poll(), time.time() + limit
    for pair in batch:
        s = socket.socket(socket.AF_INET6 if ":" in pair[0] else socket.AF_INET, socket.SOCK_STREAM)
        s.setblocking(False)
        code = s.connect_ex((pair[0], int(pair[1])))
        if code == errno.EINPROGRESS:
            waiting[s.fileno()] = (s, pair)
            poll.register(s, select.POLLOUT | select.POLLERR | select.POLLHUP)
        else:
            say(pair, code)
            s.close()
    while waiting and time.time() < end:
        for fd, _ in poll.poll(max(1, (end - time.time()) * 1000)):
            s, pair = waiting.pop(fd)
            say(pair, s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            poll.unregister(fd)
            s.close()
    for s, pair in waiting.values():
        say(pair, errno.ETIMEDOUT)
"""

# bash is asked for where there is no Python: each attempt in the background, one line each.
_CONNECT_SHELL = r"""
limit=$1; shift
for pair in "$@"; do
    (
        said=$(timeout "$limit" bash -c 'exec 3<>"/dev/tcp/$0/$1"' "${pair%,*}" "${pair##*,}" 2>&1); rc=$?
        case $rc:$said in
            0:*) code=ok ;;
            124:*) code=ETIMEDOUT ;;
            *refused*) code=ECONNREFUSED ;;
            *"No route"*) code=EHOSTUNREACH ;;
            *unreachable*) code=ENETUNREACH ;;
            *"timed out"*) code=ETIMEDOUT ;;
            *) code=EIO ;;
        esac
        printf '%s %s %s %s\n' "${pair%,*}" "${pair##*,}" "$code" "$code"
    ) &
done
wait
"""

_OUTCOMES = {
    "ok": Reach.OPEN,
    # A reset comes only after the connection stood; a refusal has its own code.
    "ECONNRESET": Reach.OPEN,
    "ECONNREFUSED": Reach.REFUSED,
    "ETIMEDOUT": Reach.TIMEOUT,
    "EHOSTUNREACH": Reach.NO_ROUTE,
    "ENETUNREACH": Reach.NO_ROUTE,
}


def required_ports(spec: ClusterSpec, host: HostSpec) -> Mapping[int, str]:
    """Return the TCP ports other hosts must reach on this one, and the program that will listen there."""
    ports: dict[int, str] = {}
    if host.is_control_plane:
        ports[API_PORT] = "kube-apiserver"
    if Group.ETCD in host.groups if spec.external_etcd else host.is_control_plane:
        ports.update(dict.fromkeys(ETCD_PORTS, "etcd"))
    if host.is_kubernetes:
        ports[KUBELET_PORT] = "kubelet"
    if host.is_load_balancer:
        ports[spec.endpoint.port] = "haproxy"
    return ports


def sources_of(spec: ClusterSpec, target: HostSpec, port: int) -> tuple[HostSpec, ...]:
    """Return the hosts that must reach a port of another host."""
    control_planes = spec.control_planes
    if port in ETCD_PORTS:
        members = tuple(h for h in spec.hosts if Group.ETCD in h.groups) if spec.external_etcd else control_planes
        wanted = members + (control_planes if port == ETCD_PORTS[0] else ())
    else:
        everyone = [h for h in spec.hosts if h.is_kubernetes or h.is_load_balancer]
        at = next((i for i, h in enumerate(everyone) if h.name == target.name), 0)
        neighbours = (everyone[at + 1 :] + everyone[:at])[:PEERS]
        wanted = (*control_planes, *neighbours)
        if port != KUBELET_PORT:
            wanted = (*wanted, *spec.load_balancers)
    return tuple({h.name: h for h in wanted if h.name != target.name}.values())


def may_listen(facts: HostFacts) -> bool:
    """Whether a stand-in listener can do no harm: no member of a cluster, and no job of ours at work."""
    busy = any(state is JobState.RUNNING for state in facts.jobs.values())
    etcd = facts.etcd_digest or (facts.etcd_ca and facts.has_etcd_data)
    return bool(facts.python_path) and not (facts.has_kubelet_conf or facts.manifests or busy or etcd)


@dataclass(frozen=True, slots=True)
class _Listener:
    """A stand-in on one host; ``until_s`` (monotonic) is when it is surely still there."""

    pid: int
    ports: frozenset[int]
    until_s: float


def listener_ports(text: str) -> tuple[int, frozenset[int]]:
    """Read a listener's answer: its process id (0: none) and the ports that are open on the host now."""
    pid, ports = 0, set()
    for line in text.splitlines():
        match line.split():
            case ["pid", number] if number.isdigit():
                pid = int(number)
            case ["port", port, "ok"] if port.isdigit():
                ports.add(int(port))
            case ["port", port, "errno", "98", *_] if port.isdigit():
                ports.add(int(port))  # in use: something listens already
    return pid, frozenset(ports)


def connections(text: str) -> Mapping[tuple[str, int], tuple[Reach, str]]:
    """Read what the connecting script printed: (address, port) → outcome and the system's own words."""
    found = {}
    for line in text.splitlines():
        words = line.split(" ", 3)
        if len(words) == 4 and words[1].isdigit():
            found[words[0], int(words[1])] = (_OUTCOMES.get(words[2], Reach.ERROR), words[3])
    return found


class _Probing:
    """One run over all hosts; keeps what is shared between the rounds."""

    def __init__(self, fleet: Fleet, spec: ClusterSpec, hosts: Mapping[str, HostFacts], cancel: Cancel | None) -> None:
        self.fleet, self.spec, self.cancel = fleet, spec, cancel
        self.hosts = {name: facts for name, facts in hosts.items() if facts.reachable}
        self.mark = f"kops-py-probe-{secrets.token_hex(6)}"
        self.problems: dict[str, KopsError] = {}

    def listen(self, host: Host) -> _Listener:
        """Open the missing ports of one target."""
        facts, wanted = self.hosts[host.name], self.spec.host(host.name)
        ports = required_ports(self.spec, wanted)
        there = frozenset(port for port in ports if port in facts.listening)
        missing = [str(port) for port in ports if port not in there]
        allowed = self.spec.limit is None or host.name in self.spec.limit
        if not missing or not allowed or not may_listen(facts):
            return _Listener(0, there, float("inf"))
        started_s = time.monotonic()
        argv = (facts.python_path, "-I", "-S", "-", self.mark, str(LIFETIME_S), wanted.node_ip, *missing)
        result = host.run(argv, sudo=True, stdin=_LISTENER.encode(), timeout_s=15.0, check=False, cancel=self.cancel)
        pid, opened = listener_ports(result.out)
        return _Listener(pid, there | opened, started_s + LIFETIME_S)

    def stop(self, listeners: Mapping[str, _Listener]) -> None:
        """End the listeners; also when the run is cancelled."""

        def end(host: Host) -> None:
            argv = ("sh", "-s", "--", str(listeners[host.name].pid), self.mark)
            host.run(argv, sudo=True, stdin=_STOP.encode(), timeout_s=10.0, check=False)

        self.fleet.map([name for name, listener in listeners.items() if listener.pid], end)

    def connect(self, host: Host, pairs: Sequence[tuple[str, int]]) -> tuple[str, float]:
        """Try every pair from one host; returns what it printed and when it was done."""
        facts, words = self.hosts[host.name], [f"{address},{port}" for address, port in pairs]
        if facts.python_path:
            argv = (facts.python_path, "-I", "-S", "-", str(CONNECT_TIMEOUT_S), *words)
            program = _CONNECT_PYTHON
        else:
            argv, program = ("sh", "-s", "--", str(CONNECT_TIMEOUT_S), *words), _CONNECT_SHELL
        rounds = 1 + len(words) // 200
        result = host.run(
            argv,
            stdin=program.encode(),
            timeout_s=10.0 + rounds * CONNECT_TIMEOUT_S,
            check=False,
            cancel=self.cancel,
        )
        return result.out, time.monotonic()

    def group(self, targets: Sequence[str]) -> Iterable[PortProbe]:
        """Probe one group of targets from all their sources."""
        answers: dict[str, Any] = {}
        try:
            answers = self.fleet.map(targets, self.listen, cancel=self.cancel)
            listeners = {name: a for name, a in answers.items() if isinstance(a, _Listener)}
            self.note(answers)
            work: dict[str, list[tuple[str, int, str]]] = {}
            for name, listener in listeners.items():
                target = self.spec.host(name)
                for port in sorted(listener.ports):
                    for source in sources_of(self.spec, target, port):
                        if source.name in self.hosts:
                            work.setdefault(source.name, []).append((target.node_ip, port, name))

            def go(host: Host) -> tuple[str, float]:
                return self.connect(host, [(address, port) for address, port, _ in work[host.name]])

            results = self.fleet.map(list(work), go, cancel=self.cancel)
            self.note(results)
            for source_name, answer in results.items():
                if isinstance(answer, KopsError):
                    continue
                text, done_s = answer
                said = connections(text)
                for address, port, name in work[source_name]:
                    if (address, port) not in said:
                        continue
                    outcome, detail = said[address, port]
                    # A listener that may be gone by now proves nothing by refusing.
                    if outcome is Reach.OPEN or done_s < listeners[name].until_s:
                        yield PortProbe(source_name, name, address, port, outcome, detail)
        finally:
            self.stop({name: a for name, a in answers.items() if isinstance(a, _Listener)})

    def note(self, answers: Mapping[str, Any]) -> None:
        """Keep the hosts on which probing itself failed."""
        self.problems.update({name: a for name, a in answers.items() if isinstance(a, HostError)})


def probe_network(
    fleet: Fleet, spec: ClusterSpec, hosts: Mapping[str, HostFacts], *, cancel: Cancel | None = None
) -> tuple[tuple[PortProbe, ...], Mapping[str, KopsError]]:
    """Connect from node to node on the ports the cluster needs; unreachable hosts are left out.

    Returns the attempts and the hosts on which probing itself failed. Raises CancelledError.
    """
    probing = _Probing(fleet, spec, hosts, cancel)
    targets = [h.name for h in spec.hosts if h.name in probing.hosts and required_ports(spec, h)]
    found: list[PortProbe] = []
    for start in range(0, len(targets), GROUP_SIZE):
        if cancel is not None:
            cancel.check()
        found.extend(probing.group(targets[start : start + GROUP_SIZE]))
    if cancel is not None:
        cancel.check()
    return tuple(found), probing.problems
