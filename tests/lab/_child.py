"""Entry of the lab's detached processes; started as a plain file with `python -S -E`, so that it starts fast."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from tests.lab.config import LabConfig
    from tests.lab.processes import detach

    kind, directory, args = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    config = LabConfig.from_dir(directory)
    detach()
    if kind == "supervise":
        from tests.lab.supervisor import supervise

        supervise(config, args[0])
    elif kind == "swarm":
        from tests.lab.swarm import swarm_parent

        swarm_parent(config, int(args[0]))
    elif kind == "serve":
        from tests.lab.serve import serve_forever

        serve_forever(args[0], int(args[1]), Path(args[2]))
    else:
        raise SystemExit(f"unknown kind of process {kind!r}")


if __name__ == "__main__":
    main()
