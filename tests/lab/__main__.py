"""The lab by hand: `python -m tests.lab --help`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import cgroups, rootfs, serve
from . import config as cfg
from .check import unavailable_reason
from .config import LabError, lab_home
from .lab import Lab

EXIT_UNAVAILABLE = 3


def _up(lab: Lab, args: argparse.Namespace) -> int:
    started = time.monotonic()
    nodes = lab.up(args.count, layers=args.layer, mem_bytes=args.mem, disk_bytes=args.disk)
    for node in nodes:
        print(f"{node.name} {node.ip}")
    print(f"up {len(nodes)} in {time.monotonic() - started:.1f} s: python -m tests.lab ssh --lab {lab.name} n1")
    return 0


def _verb(name: str) -> Callable[[Lab, argparse.Namespace], int]:
    def act(lab: Lab, args: argparse.Namespace) -> int:
        nodes = [lab.node(node) for node in args.nodes]
        if name in ("start", "stop", "kill"):
            getattr(lab, name)(*args.nodes)
        elif name == "reset":
            lab.kill(*args.nodes)
            lab.start(*args.nodes)
        else:
            for node in nodes:
                getattr(node, name)()
        return 0

    return act


def _ssh(lab: Lab, args: argparse.Namespace) -> int:
    argv = lab.node(args.node).ssh_argv(*args.command, user=args.user)
    os.execvp(argv[0], argv)


def _exec(lab: Lab, args: argparse.Namespace) -> int:
    argv = lab.node(args.node).exec_argv(*args.command)
    os.execvp(argv[0], argv)


def _layer(lab: Lab, args: argparse.Namespace) -> int:
    lab.layer(args.name, args.packages, on=args.on, force=args.force)
    return 0


def _swarm(lab: Lab, args: argparse.Namespace) -> int:
    started = time.monotonic()
    hosts = lab.swarm(args.count)
    took = time.monotonic() - started
    print(f"swarm of {len(hosts)} in {took:.1f} s ({1000 * took / len(hosts):.0f} ms each)")
    return 0


def _serve(lab: Lab, args: argparse.Namespace) -> int:
    print(lab.serve(args.directory, args.port))
    return 0


def _serve_start(lab: Lab, args: argparse.Namespace) -> int:
    print(lab.serve_start())
    return 0


def _inventory(lab: Lab, args: argparse.Namespace) -> int:
    path = lab.inventory(
        control_planes=args.control_plane,
        workers=args.workers,
        load_balancers=args.load_balancer,
        external_etcd=args.external_etcd,
        user=args.user,
        path=args.output,
    )
    print(path)
    return 0


def _status(lab: Lab, args: argparse.Namespace) -> int:
    state = lab.state()
    for node in lab.nodes:
        use = cgroups.memory_use(lab.config, node.name) if node.init_pid else None
        memory = "rss+mapped={}M cache={}M kernel={}M".format(*(x >> 20 for x in use)) if use else ""
        net = "" if node.is_reachable else "network cut or dropped"
        print(*filter(None, (node.name, node.ip, "up" if node.is_running else "down", memory, net)))
    if state["swarm_size"]:
        print(f"swarm of {state['swarm_size']}")
    if state["serve"]:
        running = "serving" if serve.is_serving(lab.config) else "stopped"
        print(f"{serve.url(state['octet'], state['serve']['port'])} {running} {state['serve']['directory']}")
    return 0


def _leaks(lab: Lab, args: argparse.Namespace) -> int:
    found = lab.leaks()
    print("\n".join(found) or "no leaks")
    return 1 if found else 0


def _check(lab: Lab, args: argparse.Namespace) -> int:
    reason = unavailable_reason()
    print(reason or "a lab can run here")
    return EXIT_UNAVAILABLE if reason else 0


def _base(lab: Lab, args: argparse.Namespace) -> int:
    rootfs.ensure_base(lab_home())
    return 0


def _down(lab: Lab, args: argparse.Namespace) -> int:
    lab.down()
    return 0


def _swarm_down(lab: Lab, args: argparse.Namespace) -> int:
    lab.swarm_down()
    return 0


def _serve_stop(lab: Lab, args: argparse.Namespace) -> int:
    lab.serve_stop()
    return 0


_VERBS = {
    "start": "boot nodes that are off",
    "stop": "clean shutdown",
    "kill": "power loss",
    "reset": "power loss, then boot",
    "wipe": "power loss and an empty disk; stays off",
    "cut": "unplug the cable: no route to host",
    "heal": "plug it in again",
    "drop": "black hole: timeouts",
    "undrop": "let frames through again",
}


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--lab", default=os.environ.get("KOPS_LAB", cfg.DEFAULT_LAB), help="name of the lab")
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, text: str, act: Callable[[Lab, argparse.Namespace], int]) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text, parents=[common])
        verb.set_defaults(act=act)
        return verb

    up = add("up", "boot nodes n1..nCOUNT", _up)
    up.add_argument("count", type=int)
    up.add_argument("--layer", action="append", default=[], help="a layer; may be repeated, the last on top")
    up.add_argument("--mem", type=int, metavar="BYTES", help="memory limit of each node")
    up.add_argument("--disk", type=int, metavar="BYTES", help="disk size of each node (loop-mounted ext4)")
    for name, text in _VERBS.items():
        add(name, text, _verb(name)).add_argument("nodes", nargs="+", metavar="NODE")
    ssh = add("ssh", "ssh to a node", _ssh)
    ssh.add_argument("--user", default=cfg.USER)
    inside = add("exec", "run as root inside a node, without ssh", _exec)
    for verb in (ssh, inside):
        verb.add_argument("node")
        verb.add_argument("command", nargs=argparse.REMAINDER)
    layer = add("layer", "install packages once into a layer that all labs share", _layer)
    layer.add_argument("name")
    layer.add_argument("packages", nargs="*", metavar="PACKAGE")
    layer.add_argument("--on", action="append", default=[], metavar="LAYER")
    layer.add_argument("--force", action="store_true", help="build it again")
    add("swarm", "boot COUNT hosts with nothing but sshd", _swarm).add_argument("count", type=int)
    add("swarm-down", "end the swarm", _swarm_down)
    files = add("serve", "serve a directory over HTTP on the gateway until down", _serve)
    files.add_argument("directory", type=Path)
    files.add_argument("--port", type=int, default=cfg.SERVE_PORT)
    add("serve-stop", "make the file server vanish", _serve_stop)
    add("serve-start", "bring it back", _serve_start)
    write = add("inventory", "write an Ansible inventory and print its path", _inventory)
    write.add_argument("--control-plane", type=int, default=1)
    write.add_argument("--workers", type=int, help="default: all that the others leave")
    write.add_argument("--load-balancer", type=int, default=0)
    write.add_argument("--external-etcd", type=int, default=0)
    write.add_argument("--user", default=cfg.USER)
    write.add_argument("--output", type=Path)
    add("status", "nodes, memory, server", _status)
    add("leaks", "every trace of the lab; exit 1 when there is one", _leaks)
    add("check", "say whether a lab can run here; exit 3 when not", _check)
    add("base", "build the base system", _base)
    add("down", "remove everything of the lab", _down)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    act: Callable[[Lab, argparse.Namespace], int] = args.act
    try:
        return act(Lab(args.lab), args)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
