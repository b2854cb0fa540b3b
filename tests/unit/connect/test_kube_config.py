"""Kubeconfigs in, and keys that stay out of reach."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import pytest
import yaml

from kops_py.connect.kube_config import SecretFiles, client_configuration
from kops_py.connect.kube_proxy import choose_proxy
from kops_py.model.errors import KubeError

KEY = b"-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"


def config(server: str = "https://api.prod:6443", **cluster: str) -> bytes:
    data = {name: base64.b64encode(value).decode() for name, value in (("crt", b"certificate"), ("key", KEY))}
    return yaml.safe_dump(
        {
            "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
            "users": [{"name": "u", "user": {"client-certificate-data": data["crt"], "client-key-data": data["key"]}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
    ).encode()


def test_keys_are_held_in_memory_and_forgotten(tmp_path: Path) -> None:
    if not hasattr(os, "memfd_create"):
        pytest.skip("this system has no memfd")
    secrets = SecretFiles(tmp_path / "work")
    found = client_configuration(config(), secrets, server_override=None)
    assert Path(found.key_file).read_bytes() == KEY
    assert not (tmp_path / "work").exists()
    secrets.close()
    secrets.close()
    assert not Path(found.key_file).exists()


def test_elsewhere_keys_are_private_files_until_the_end(tmp_path: Path) -> None:
    work = tmp_path / "work"
    secrets = SecretFiles(work, in_memory=False)
    found = client_configuration(config(), secrets, server_override=None)
    path = Path(found.key_file)
    assert path.read_bytes() == KEY
    assert path.parent == work
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(work.stat().st_mode) == 0o700
    secrets.close()
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "extra", "server", "name"),
    [
        (None, {}, "https://api.prod:6443", None),
        ("https://10.0.0.1:6443", {}, "https://10.0.0.1:6443", "api.prod"),
        ("https://10.0.0.1:6443", {"tls-server-name": "given"}, "https://10.0.0.1:6443", "given"),
        ("https://api.prod:8443", {}, "https://api.prod:8443", None),
    ],
)
def test_the_certificate_keeps_its_name_when_the_way_is_another(
    tmp_path: Path, override: str | None, extra: dict[str, str], server: str, name: str | None
) -> None:
    secrets = SecretFiles(tmp_path)
    found = client_configuration(config(**extra), secrets, server_override=override)
    assert found.host == server
    assert found.tls_server_name == name
    secrets.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [", "not YAML"),
        (b"- a", "not a mapping"),
        (b"", "not a mapping"),
        (b"{}", "no entry ''"),
        (config("ftp://x"), "no usable server"),
        (config("api.prod:6443"), "no usable server"),
        (config().replace(b"name: u\n", b"name: v\n", 1), "no entry 'u' under users"),
        (config().replace(base64.b64encode(KEY), b"A"), "is not base64"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_why_without_quoting_it(
    tmp_path: Path, text: bytes, message: str
) -> None:
    secrets = SecretFiles(tmp_path)
    with pytest.raises(KubeError, match=message) as caught:
        client_configuration(text, secrets, server_override=None)
    assert base64.b64encode(KEY).decode()[:20] not in repr(caught.value.to_json())
    secrets.close()


PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("server", "environ", "chosen"),
    [
        ("https://api.prod:6443", {}, None),
        ("https://api.prod:6443", {"HTTPS_PROXY": PROXY}, PROXY),
        ("https://api.prod:6443", {"https_proxy": "proxy:3128"}, PROXY),
        ("https://api.prod:6443", {"HTTP_PROXY": PROXY}, None),
        ("http://api.prod:8080", {"HTTP_PROXY": PROXY}, PROXY),
        ("https://127.0.0.1:6443", {"HTTPS_PROXY": PROXY}, None),
        ("https://localhost:6443", {"HTTPS_PROXY": PROXY}, None),
        ("https://[::1]:6443", {"HTTPS_PROXY": PROXY}, None),
        ("https://api.prod:6443", {"HTTPS_PROXY": PROXY, "NO_PROXY": "prod"}, None),
        ("https://api.prod:6443", {"HTTPS_PROXY": PROXY, "NO_PROXY": " .PROD "}, None),
        ("https://api.prod:6443", {"HTTPS_PROXY": PROXY, "no_proxy": "x,api.prod:6443"}, None),
        ("https://api.prod:6443", {"HTTPS_PROXY": PROXY, "NO_PROXY": "api.prod:443"}, PROXY),
        ("https://api.prod:6443", {"HTTPS_PROXY": PROXY, "NO_PROXY": "pi.prod"}, PROXY),
        ("https://prod:6443", {"HTTPS_PROXY": PROXY, "NO_PROXY": ".prod"}, PROXY),
        ("https://10.1.2.3:6443", {"HTTPS_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://10.1.2.3:6443", {"HTTPS_PROXY": PROXY, "NO_PROXY": "10.1.2.3"}, None),
        ("https://10.1.2.3:6443", {"HTTPS_PROXY": PROXY, "NO_PROXY": "10.1.2.3:6443"}, None),
        ("https://10.1.2.3:6443", {"HTTPS_PROXY": PROXY, "NO_PROXY": "192.168.0.0/16"}, PROXY),
        ("https://[fd00::1]:6443", {"HTTPS_PROXY": PROXY, "NO_PROXY": "[fd00::1]:6443"}, None),
        ("https://[fd00::1]:6443", {"HTTPS_PROXY": PROXY, "NO_PROXY": "fd00::/64"}, None),
        ("https://api.prod:6443", {"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, None),
    ],
)
def test_the_proxy_is_chosen_as_kubectl_does(server: str, environ: dict[str, str], chosen: str | None) -> None:
    assert choose_proxy(server, environ) == chosen


def test_the_proxy_of_the_environment_reaches_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("HTTP_PROXY", "http://wrong:1")
    secrets = SecretFiles(tmp_path)
    assert client_configuration(config(), secrets, server_override=None).proxy == PROXY
    monkeypatch.setenv("NO_PROXY", "api.prod")
    assert client_configuration(config(), secrets, server_override=None).proxy is None
    own = config(**{"proxy-url": "http://own:1"})
    assert client_configuration(own, secrets, server_override=None).proxy == "http://own:1"
    secrets.close()
