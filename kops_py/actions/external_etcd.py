"""Members of an external etcd: configured by Ansible, added and waited for with etcdctl on their hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from kops_py.actions.deps import Deps
from kops_py.actions.prepare import prepare_hosts
from kops_py.connect.base import Host
from kops_py.engine.run import StepContext
from kops_py.model.actions import AddEtcdMember, ConfigureEtcd, WaitEtcd
from kops_py.model.errors import DeadlineError, EtcdError, HostError
from kops_py.model.spec import ExternalEtcd, HostSpec
from kops_py.model.status import EtcdMember
from kops_py.model.version import facts_of
from kops_py.observe.external_etcd import member_entries, observe_external_etcd
from kops_py.tools import etcdctl

_POLL_S = 1.0
_TIMEOUT_S = 30.0
_LEARNERS_SINCE = (3, 4)


def configure_member(deps: Deps, action: ConfigureEtcd, ctx: StepContext) -> None:
    """Configure the member of a cluster that serves: it may restart, so all others must be healthy before and after."""
    etcd, wanted = _external(deps), deps.spec.host(action.host)
    argv = ("systemctl", "is-active", "--quiet", etcd.unit)
    active = deps.fleet.host(action.host).run(argv, check=False, timeout_s=_TIMEOUT_S).ok
    if active:
        _wait(
            lambda: unhealthy_members(deps, etcd, except_for=wanted.member_name),
            ctx,
            "the other members are not healthy",
        )
    _play(deps, ctx)
    _wait(lambda: unhealthy_members(deps, etcd), ctx, "etcd is not healthy after its member was configured")


def add_member(deps: Deps, action: AddEtcdMember, ctx: StepContext) -> None:
    """Make an empty host a member: a lost one of its name goes first, and it gets its vote when it has caught up.

    Every part looks first at what is true already, so that it goes on wherever it was cut off.
    """
    etcd, wanted = _external(deps), deps.spec.host(action.host)
    host, via = deps.fleet.host(action.host), _other(deps, etcd, wanted)
    entry = _entry_of(wanted, member_entries(via, etcd))
    if entry is not None and entry.name and not _has_data(host, etcd):
        lost = entry.name
        ctx.progress(f"removing the lost member {lost}")
        _wait(lambda: unhealthy_members(deps, etcd, except_for=lost), ctx, "the other members are not healthy")
        number = entry.member_id
        argv = etcdctl.member_remove_argv(number, pki=etcd.pki)
        gone = _reconfigured(via, etcd, argv, lambda es: all(e.member_id != number for e in es))
        _wait(gone, ctx, "the lost member is not removed")
        entry = None
    if entry is None:
        _wait(lambda: unhealthy_members(deps, etcd), ctx, "etcd is not healthy, and no member is added")
        learner = _has_learners(observe_external_etcd(via, etcd))
        argv = etcdctl.member_add_argv(wanted.member_name, wanted.peer_url, learner=learner, pki=etcd.pki)
        _wait(
            _reconfigured(via, etcd, argv, lambda es: _entry_of(wanted, es) is not None), ctx, "the member is not added"
        )
    entries = member_entries(via, etcd)
    deps.etcd_initial[wanted.name] = ",".join(
        f"{wanted.member_name if wanted.peer_url in e.peer_urls else e.name}={url}"
        for e in entries
        for url in e.peer_urls
    )
    _play(deps, ctx)
    _wait(lambda: _not_promoted(via, etcd, wanted), ctx, "the new member has not caught up")
    _wait(lambda: unhealthy_members(deps, etcd), ctx, "etcd is not healthy after a member was added")


def wait_etcd(deps: Deps, action: WaitEtcd, ctx: StepContext) -> None:
    """Wait until these hosts' members are healthy voters of one cluster, in a version the API server can work with.

    Raises EtcdError.
    """
    etcd = _external(deps)
    names = [deps.spec.host(name).member_name for name in action.hosts]
    _wait(lambda: _lacking(deps, etcd, names), ctx, "etcd is not healthy")
    minimum = facts_of(deps.spec.kubernetes.version).external_etcd_minimum
    old = [m for m in _members(deps, etcd) if minimum is not None and m.version and _numbers(m.version) < minimum]
    if old and minimum is not None:
        raise EtcdError(
            f"etcd {old[0].version} is too old for Kubernetes {deps.spec.kubernetes.version}",
            where=old[0].name,
            why=f"it needs {'.'.join(map(str, minimum))}",
            hint="use hosts whose distribution has a newer etcd, or a repository of your own that has "
            "(kops_etcd_packages), or set kubernetes.version to an older release",
        )


def _lacking(deps: Deps, etcd: ExternalEtcd, names: Iterable[str]) -> tuple[str, ...]:
    found = {m.name: m for m in _members(deps, etcd)}
    problems = [f"etcd member {name}: it is not in the member list" for name in names if name not in found]
    for name in names:
        member = found.get(name)
        if member is not None and (not member.healthy or member.is_learner):
            problems.append(f"etcd member {name}: {member.problem or 'it has no vote yet'}")
    clusters = {found[n].cluster_id for n in names if n in found and found[n].cluster_id}
    if len(clusters) > 1:
        problems.append("the members belong to different clusters")
    return tuple(problems)


def unhealthy_members(deps: Deps, etcd: ExternalEtcd, *, except_for: str = "") -> tuple[str, ...]:
    """Name the members of the list that are not healthy, one left out."""
    return tuple(
        f"etcd member {m.name or f'{m.member_id:x}'}: {m.problem or 'not healthy'}"
        for m in _members(deps, etcd)
        if not m.healthy and (not except_for or m.name != except_for)
    )


def _members(deps: Deps, etcd: ExternalEtcd) -> tuple[EtcdMember, ...]:
    """Ask the first member that answers; raises EtcdError when none does."""
    said: list[str] = []
    for name in etcd.hosts:
        try:
            return observe_external_etcd(deps.fleet.host(name), etcd)
        except (HostError, ValueError) as error:
            said.append(f"{name}: {error}")
    raise EtcdError("no member of etcd answers", why="; ".join(said[:3]), hint=f"journalctl -u {etcd.unit} shows why")


def _other(deps: Deps, etcd: ExternalEtcd, wanted: HostSpec) -> Host:
    """Return another host whose member answers; raises EtcdError."""
    said: list[str] = []
    for name in etcd.hosts:
        if name == wanted.name:
            continue
        host = deps.fleet.host(name)
        try:
            if member_entries(host, etcd):
                return host
        except (HostError, ValueError) as error:
            said.append(f"{name}: {error}")
    raise EtcdError(
        "no other member of etcd answers that could take a new one",
        where=wanted.name,
        why="; ".join(said[:3]),
        hint="bring the other members back first, or restore a backup",
    )


def _entry_of(wanted: HostSpec, entries: Iterable[etcdctl.EtcdMemberEntry]) -> etcdctl.EtcdMemberEntry | None:
    same = [e for e in entries if wanted.peer_url in e.peer_urls or e.name == wanted.member_name]
    return next(iter(same), None)


def _not_promoted(via: Host, etcd: ExternalEtcd, wanted: HostSpec) -> tuple[str, ...]:
    """Give the new member its vote; return why it has none yet."""
    entry = _entry_of(wanted, member_entries(via, etcd))
    if entry is None:
        return ("it is not in the member list",)
    if not entry.is_learner:
        return ()
    argv = etcdctl.member_promote_argv(entry.member_id, pki=etcd.pki)
    answer = via.run(argv, sudo=True, check=False, timeout_s=_TIMEOUT_S)
    return () if answer.ok else (_last_line(answer.err) or "it is a learner still",)


def _has_learners(members: Iterable[EtcdMember]) -> bool:
    versions = [_numbers(m.version) for m in members if m.version]
    return bool(versions) and min(versions)[:2] >= _LEARNERS_SINCE


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("-")[0].split(".") if part.isdigit())


def _has_data(host: Host, etcd: ExternalEtcd) -> bool:
    return host.run(("test", "-e", f"{etcd.data_dir}/member"), sudo=True, check=False, timeout_s=_TIMEOUT_S).ok


def _reconfigured(
    via: Host, etcd: ExternalEtcd, argv: tuple[str, ...], is_done: Callable[[Sequence[etcdctl.EtcdMemberEntry]], bool]
) -> Callable[[], tuple[str, ...]]:
    """Return what changes the member list unless it is as wanted already, and why it could not.

    etcd refuses ("unhealthy cluster") until its members were connected for five seconds on end, and an answer that
    was lost does not say that nothing was done: so the list is read before each attempt.
    """

    def attempt() -> tuple[str, ...]:
        if is_done(member_entries(via, etcd)):
            return ()
        answer = via.run(argv, sudo=True, check=False, timeout_s=_TIMEOUT_S)
        return () if answer.ok else (_last_line(answer.err) or "etcdctl did not say why",)

    return attempt


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:300]


def _play(deps: Deps, ctx: StepContext) -> None:
    error: Mapping[str, Exception | None] = prepare_hosts(deps, [ctx])
    problem = error[ctx.step.id]
    if problem is not None:
        raise problem


def _wait(lacking: Callable[[], tuple[str, ...]], ctx: StepContext, failure: str) -> None:
    while True:
        try:
            problems = lacking()
        except (EtcdError, HostError, ValueError) as error:
            problems = (str(error),)
        if not problems:
            return
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        ctx.progress(problems[0] + more, waiting=True)
        try:
            ctx.remaining_s()
        except DeadlineError as error:
            raise EtcdError(
                f"{failure} after {ctx.step.timeout_s:.0f} s",
                where=ctx.step.node,
                why="; ".join(problems[:6]),
                hint="journalctl -u etcd on that host shows why; mend the cause, then run the same command again",
            ) from error
        ctx.cancel.wait(_POLL_S)


def _external(deps: Deps) -> ExternalEtcd:
    etcd = deps.spec.external
    if etcd is None:
        raise TypeError("this step is for an external etcd")
    return etcd
