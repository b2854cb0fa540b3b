"""From an inventory host, its ssh arguments and the user's ssh_config to one resolved address to connect to.

fabric (over paramiko) resolves ssh_config: Host and Match blocks, HostName, tokens. Three things are done here
because the libraries do not do them, or do them otherwise than OpenSSH:

* ``Include`` is not read by paramiko; it is put in place before parsing.
* ``ProxyJump a,b`` goes to a first, then b (ssh_config(5)); fabric builds the chain the other way round.
* Options of the command line apply to the target only, never to its jump hosts, as with ``ssh -o``.
"""

from __future__ import annotations

import getpass
import re
import shlex
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kops_py.model.errors import ConfigError
from kops_py.model.spec import HostSpec

Log = Callable[[str], None]

_MAX_INCLUDE_DEPTH = 16  # as in OpenSSH's readconf.c
_DEFAULT_FILES = (Path("~/.ssh/config"), Path("/etc/ssh/ssh_config"))
_USER_KNOWN_HOSTS = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
_GLOBAL_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"
_DEFAULT_KEYS = ("id_rsa", "id_ecdsa", "id_ed25519")
_FLAGS_WITH_VALUE = frozenset("BbcDEeFIiJLlmOopQRSWw")
_VALUE_FLAGS = {"i": "IdentityFile", "J": "ProxyJump", "l": "User", "p": "Port"}
_USED_OPTIONS = frozenset(
    {
        "addressfamily", "globalknownhostsfile", "hashknownhosts", "hostkeyalias", "hostname", "identitiesonly",
        "identityagent", "identityfile", "port", "proxycommand", "proxyjump", "stricthostkeychecking", "user",
        "userknownhostsfile",
    }
)  # fmt: skip
_HARMLESS_OPTIONS = frozenset(
    {
        "batchmode", "checkhostip", "compression", "connectionattempts", "connecttimeout", "controlmaster",
        "controlpath", "controlpersist", "forwardagent", "forwardx11", "gssapiauthentication",
        "gssapidelegatecredentials", "kbdinteractiveauthentication", "loglevel", "passwordauthentication",
        "preferredauthentications", "pubkeyauthentication", "requesttty", "sendenv", "serveralivecountmax",
        "serveraliveinterval", "tcpkeepalive", "updatehostkeys", "visualhostkey",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """One SSH server as it is to be reached; ``via`` is a jump host, or a command that makes the connection."""

    label: str
    host: str
    port: int
    user: str
    key_file: Path | None = None
    """The key the inventory names; its absence is an error, that of an ssh_config one is not."""
    identity_files: tuple[Path, ...] = ()
    identities_only: bool = False
    agent: str | None = None
    """Socket of the agent; None: SSH_AUTH_SOCK; empty: no agent."""
    host_key_alias: str | None = None
    user_known_hosts: tuple[Path, ...] = ()
    global_known_hosts: tuple[Path, ...] = ()
    accept_new_host_key: bool = False
    hash_known_hosts: bool = False
    family: socket.AddressFamily = socket.AF_UNSPEC
    via: Target | str | None = None

    @property
    def address(self) -> str:
        """Return host and port as a person writes them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SshArguments:
    """What the inventory's ssh arguments say, in the words of ssh_config."""

    options: tuple[tuple[str, str], ...] = ()
    config_file: Path | None = None
    ignored: tuple[str, ...] = ()


def parse_ssh_arguments(text: str, *, where: str = "") -> SshArguments:
    """Read ansible_ssh_common_args and the like; raises ConfigError when they are not a command line."""
    try:
        words = iter(shlex.split(text))
    except ValueError as e:
        raise _bad_arguments(where, text, str(e)) from None
    options: list[tuple[str, str]] = []
    ignored: list[str] = []
    config_file: Path | None = None
    for flag, value in _flags(words, where, text):
        if flag == "o":
            key, option = _key_and_value(value, where)
            options.append((key, option))
            if key.lower() not in _USED_OPTIONS | _HARMLESS_OPTIONS:
                ignored.append(f"-o {key}")
        elif flag == "F":
            config_file = Path(value).expanduser()
        elif flag in "46":
            options.append(("AddressFamily", "inet" if flag == "4" else "inet6"))
        elif flag in _VALUE_FLAGS:
            options.append((_VALUE_FLAGS[flag], value))
        elif flag in _FLAGS_WITH_VALUE:
            ignored.append(f"-{flag}")
    return SshArguments(tuple(options), config_file, tuple(ignored))


def _flags(words: Iterator[str], where: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield each flag with its value (empty when it has none), as getopt reads them."""
    for word in words:
        if not word.startswith("-") or word in {"-", "--"}:
            raise _bad_arguments(where, text, f"{word!r} is not an option")
        letters = word[1:]
        while letters:
            flag, letters = letters[0], letters[1:]
            if flag not in _FLAGS_WITH_VALUE:
                yield flag, ""
                continue
            value = letters or next(words, "")
            if not value:
                raise _bad_arguments(where, text, f"option -{flag} needs a value")
            yield flag, value
            letters = ""


def _key_and_value(option: str, where: str) -> tuple[str, str]:
    match = re.fullmatch(r"\s*(\w+)(?:\s*=\s*|\s+)(.+)", option)
    if match is None:
        raise _bad_arguments(where, f"-o {option}", "expected Keyword=value")
    return match.group(1), match.group(2).strip()


def _bad_arguments(where: str, text: str, why: str) -> ConfigError:
    return ConfigError(
        f"the ssh arguments {text!r} cannot be read",
        where=where,
        why=why,
        hint="correct ansible_ssh_common_args or ansible_ssh_extra_args in the inventory",
    )


def read_config_text(path: Path, *, user_file: bool, depth: int = 0) -> str:
    """Return an ssh_config file with its Include lines replaced by what they name; "" when it does not exist.

    After an included file the block it stood in is opened again, as OpenSSH does. Raises ConfigError.
    """
    if depth > _MAX_INCLUDE_DEPTH:
        raise ConfigError("ssh_config includes itself", where=str(path), hint="remove the Include line")
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    except OSError as e:
        raise ConfigError(
            "ssh_config cannot be read", where=str(path), why=e.strerror or str(e), hint=f"ls -l {path}"
        ) from e
    block = "Host *"
    text: list[str] = []
    for line in lines:
        match = re.match(r"\s*(\w+)(?:\s*=\s*|\s+)(.*)", line)
        keyword = match.group(1).lower() if match else ""
        if match is None or keyword != "include":
            if keyword in {"host", "match"}:
                block = line.strip()
            text.append(line)
            continue
        for file in _included(match.group(2), user_file):
            text += [read_config_text(file, user_file=user_file, depth=depth + 1), block]
    return "\n".join(text) + "\n"


def _included(value: str, user_file: bool) -> Iterator[Path]:
    base = Path("~/.ssh").expanduser() if user_file else Path("/etc/ssh")
    for pattern in shlex.split(value, comments=True):
        full = base / Path(pattern).expanduser()
        yield from sorted(Path(full.anchor).glob(str(full.relative_to(full.anchor))))


class Resolver:
    """Resolves inventory hosts; reads each ssh_config once. Not thread-safe: the fleet holds a lock around it."""

    def __init__(self, ssh_config: Path | None, known_hosts: Path | None, log: Log) -> None:
        self._ssh_config = ssh_config
        self._known_hosts = known_hosts
        self._log = log
        self._texts: dict[Path | None, str] = {}
        self._told: set[str] = set()

    def resolve(self, spec: HostSpec) -> Target:
        """Return how to reach this host; raises ConfigError."""
        where = f"host {spec.name}"
        arguments = parse_ssh_arguments(spec.ssh_args, where=where)
        for name in arguments.ignored:
            self._tell(f"{where}: ssh argument {name} has no meaning for kops-py and is not used")
        options: list[tuple[str, str]] = []
        # Ansible puts its own variables before ansible_ssh_*_args only where they are set in the inventory
        if spec.user:
            options.append(("User", spec.user))
        if spec.port != 22 or {"ansible_port", "ansible_ssh_port"} & spec.variables.keys():
            options.append(("Port", str(spec.port)))
        options += arguments.options
        text = self._text(arguments.config_file or self._ssh_config)
        return self._target(spec.name, spec.address, text, options, spec.key_file, ())

    def _target(
        self,
        label: str,
        destination: str,
        text: str,
        options: Sequence[tuple[str, str]],
        key_file: Path | None,
        seen: tuple[str, ...],
    ) -> Target:
        from fabric import Connection

        config = _fabric_config(text, destination, options, label)
        try:
            # gateway=False: fabric must not build its own jump chain (see the top of this file)
            connection = Connection(destination, config=config, gateway=False)
        except Exception as e:
            raise ConfigError(f"ssh_config cannot be used for {destination}", where=label, why=str(e)) from e
        found: dict[str, Any] = dict(connection.ssh_config)
        host, port, user = str(connection.host), int(connection.port), str(connection.user)

        def get(key: str) -> str:
            return str(found.get(key) or "").strip()

        def paths(value: str) -> tuple[Path, ...]:
            return tuple(_expand(word, host, port, user) for word in shlex.split(value) if word.lower() != "none")

        strict = get("stricthostkeychecking").lower()
        if strict in {"no", "off"}:
            self._tell(
                f"{label}: StrictHostKeyChecking={strict} is not followed, host keys are always checked "
                "(--accept-new-host-keys records unknown ones)"
            )
        user_known_hosts = paths(get("userknownhostsfile") or _USER_KNOWN_HOSTS)
        identities = tuple(_expand(str(f), host, port, user) for f in found.get("identityfile") or ())
        return Target(
            label=label,
            host=host,
            port=port,
            user=user,
            key_file=key_file.expanduser() if key_file else None,
            identity_files=identities or tuple(Path("~/.ssh").expanduser() / name for name in _DEFAULT_KEYS),
            identities_only=get("identitiesonly").lower() == "yes",
            agent=_agent(get("identityagent")),
            host_key_alias=get("hostkeyalias") or None,
            user_known_hosts=(self._known_hosts,) if self._known_hosts else user_known_hosts,
            global_known_hosts=paths(get("globalknownhostsfile") or _GLOBAL_KNOWN_HOSTS),
            accept_new_host_key=strict == "accept-new",
            hash_known_hosts=get("hashknownhosts").lower() == "yes",
            family={"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(
                get("addressfamily").lower(), socket.AF_UNSPEC
            ),
            via=self._via(
                label,
                get("proxyjump"),
                found.get("proxycommand"),
                text,
                seen or (destination,),
                (destination, port),
            ),
        )

    def _via(
        self,
        label: str,
        jump: str,
        command: str | None,
        text: str,
        seen: tuple[str, ...],
        itself: tuple[str, int],
    ) -> Target | str | None:
        if not jump or jump.lower() == "none":
            return None if jump or not command or command.lower() == "none" else str(command)
        via: Target | None = None
        for number, hop in enumerate(jump.split(",")):
            user, host, port = _split_hop(hop.strip(), label)
            if number == 0 and (host, int(port or itself[1])) == itself:
                return None  # a "Host *" block that names its own jump host
            if hop in seen:
                raise ConfigError("the jump hosts lead in a circle", where=label, why=" -> ".join((*seen, hop)))
            options = [("User", user)] * bool(user) + [("Port", port)] * bool(port)
            if number:
                options.append(("ProxyJump", "none"))
            reached = self._target(f"{label} (jump host {host})", host, text, options, None, (*seen, hop))
            via = _replace_via(reached, via) if number else reached
        return via

    def _text(self, path: Path | None) -> str:
        if path not in self._texts:
            if path is None:
                files = [(f.expanduser(), f == _DEFAULT_FILES[0]) for f in _DEFAULT_FILES]
                # a block header between the files ends the last block of the first one
                self._texts[path] = "Host *\n".join(read_config_text(f, user_file=u) for f, u in files)
            else:
                if not path.exists():
                    raise ConfigError("the ssh_config file does not exist", where=str(path), hint=f"ls -l {path}")
                self._texts[path] = read_config_text(path, user_file=True)
        return self._texts[path]

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._log(message)


def _replace_via(target: Target, via: Target | None) -> Target:
    from dataclasses import replace

    return replace(target, via=via)


def _fabric_config(text: str, destination: str, options: Sequence[tuple[str, str]], label: str) -> Any:
    """Return a fabric configuration in which ``options`` win over ``text`` (the first value counts)."""
    from fabric import Config
    from paramiko.config import SSHConfig
    from paramiko.ssh_exception import ConfigParseError

    if any("\n" in value for _, value in options):
        raise ConfigError("an ssh option holds a line break", where=label)
    first = "".join(f"    {key} {value}\n" for key, value in options)
    try:
        parsed = SSHConfig.from_text(f"Host {destination}\n{first}Host *\n{text}")
    except (ConfigParseError, ValueError) as e:
        raise ConfigError(
            "ssh_config cannot be read", where=label, why=str(e), hint="ssh -G HOST shows how ssh reads it"
        ) from e
    # lazy: none of fabric's own settings files (fabric.yaml and so on) may have a say
    return Config(ssh_config=parsed, lazy=True)


def _split_hop(hop: str, label: str) -> tuple[str, str, str]:
    """Split ``[user@]host[:port]`` or ``ssh://...``, with IPv6 addresses in brackets."""
    host = r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:@/]+))"
    match = re.fullmatch(rf"(?:ssh://)?(?:(?P<user>.+)@)?{host}(?::(?P<port>\d+))?/?", hop)
    if match is None:
        bare = re.fullmatch(r"(?:(?P<user>.+)@)?(?P<host>[0-9a-fA-F:.]+)", hop)  # an IPv6 address without brackets
        if bare is None:
            raise ConfigError(f"the jump host {hop!r} cannot be read", where=label, hint="write user@host:port")
        return bare["user"] or "", bare["host"], ""
    return match["user"] or "", match["v6"] or match["host"], match["port"] or ""


def _expand(path: str, host: str, port: int, user: str) -> Path:
    values = {"%": "%", "d": str(Path.home()), "h": host, "p": str(port), "r": user, "u": getpass.getuser()}
    text = re.sub(r"%(.)", lambda m: values.get(m.group(1), m.group(0)), path)
    return Path(text).expanduser()


def _agent(value: str) -> str | None:
    if not value or value == "SSH_AUTH_SOCK":
        return None
    return "" if value.lower() == "none" else str(Path(value).expanduser())
