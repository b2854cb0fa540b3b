from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import jinja2
import pytest

from tests.unit.playbooks.loading import DATA, PLAYBOOKS


def render(**variables: object) -> str:
    source = PLAYBOOKS / "roles/haproxy/templates/haproxy.cfg.j2"
    template = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    ).from_string(source.read_text())
    return template.render(
        {
            "kops_haproxy_port": 6443,
            "kops_haproxy_backend_port": 6443,
            "kops_haproxy_idle_timeout": "4h",
            "kops_haproxy_stats_socket": "/run/haproxy/admin.sock",
            "kops_state": {"ipv6": True},
            "kops_haproxy_backends": [
                {"name": "cp2", "address": "192.0.2.2"},
                {"name": "cp1", "address": "192.0.2.1"},
                {"name": "cp3", "address": "2001:db8::3"},
            ],
            **variables,
        }
    )


def test_configuration_is_the_recorded_one() -> None:
    assert render() == (DATA / "haproxy.cfg").read_text()


def test_without_ipv6_it_listens_on_ipv4() -> None:
    assert "bind *:8443\n" in render(kops_state={"ipv6": False}, kops_haproxy_port=8443)


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
def test_haproxy_accepts_it(tmp_path: Path) -> None:
    text = render(kops_haproxy_stats_socket=f"{tmp_path}/s")
    path = tmp_path / "haproxy.cfg"
    path.write_text("\n".join(x for x in text.splitlines() if x.split()[:1] not in (["user"], ["group"])) + "\n")
    done = subprocess.run(["haproxy", "-c", "-f", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
