"""The shape of cluster.yaml: strict, frozen models that exist only at the file boundary.

Import this module inside functions: it costs what importing pydantic costs. The field descriptions are what
``kops-py schema`` and docs/cluster-yaml.md show; ``examples`` is what an error message shows as allowed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from kops_py.config.document_backup import Backup
from kops_py.config.document_maintenance import Maintenance
from kops_py.config.document_parts import Model, Networks, Seconds, Text, Urls


class Metadata(Model):
    """What the cluster is called."""

    name: Text = Field(
        max_length=63,
        description="Name of the cluster: in kubeconfig contexts, run folders and backups. A DNS label.",
        examples=["prod"],
    )


class Kubernetes(Model):
    """Version and sources of Kubernetes."""

    version: Text = Field(description="Kubernetes release to install.", examples=["v1.34.2"])
    repository: Text = Field(
        "https://pkgs.k8s.io/core:/stable:",
        description="Base of the package repositories; /vX.Y/deb/ (or rpm/) of the minor is appended.",
        examples=["https://pkgs.k8s.io/core:/stable:"],
    )
    repository_key: Text | None = Field(
        None,
        description="URL or file of the repository's signing key. Not given: Release.key in the repository.",
        examples=["https://mirror.example.com/kubernetes.asc"],
    )
    image_repository: Text | None = Field(
        None,
        description="Registry (and path) that control-plane images come from. Not given: kubeadm's default.",
        examples=["registry.example.com/k8s"],
    )
    images: Text | None = Field(
        None,
        description="Folder or URL with image archives that are loaded into containerd before kubeadm runs "
        "(vX.Y.Z/images.json below it lists them). Not given: images are pulled.",
        examples=["./images"],
    )
    package_revision: Text | None = Field(
        None,
        description="Package revision behind the version (the 1.1 of 1.34.2-1.1). Not given: the newest there is.",
        examples=['"1.1"'],
    )


class Cni(Model):
    """Where the pod network comes from."""

    type: Literal["manifest", "bridge", "none"] = Field(
        description="manifest: apply a manifest (url or file). bridge: host-local addresses and routes between "
        "the nodes, for labs on one layer-2 network. none: somebody else installs it; nodes stay NotReady until "
        "then.",
        examples=["manifest"],
    )
    url: Text | None = Field(
        None,
        description="URL of the manifest (type manifest).",
        examples=["https://github.com/flannel-io/flannel/releases/latest/download/kube-flannel.yml"],
    )
    file: Text | None = Field(None, description="File with the manifest (type manifest).", examples=["./cni.yaml"])


class Network(Model):
    """Cluster networks. Two subnets of different families in each make a dual-stack cluster."""

    cni: Cni
    pod_subnet: Networks = Field(
        ["10.244.0.0/16"],
        description="Network of the pods: one, or an IPv4 and an IPv6 one (a list, or with a comma).",
        examples=["10.244.0.0/16"],
        min_length=1,
        max_length=2,
    )
    service_subnet: Networks = Field(
        ["10.96.0.0/12"],
        description="Network of the services, in the same families and order as podSubnet.",
        examples=["10.96.0.0/12"],
        min_length=1,
        max_length=2,
    )
    dns_domain: Text = Field("cluster.local", description="DNS domain of services.", examples=["cluster.local"])


class Containerd(Model):
    """Container runtime."""

    source: Literal["distribution", "docker"] = Field(
        "distribution",
        description="distribution: the package containerd of the operating system. docker: containerd.io from "
        "Docker's repository.",
        examples=["distribution"],
    )
    version: Text | None = Field(
        None,
        description="Version of the package, or its beginning. Not given: the newest the source has.",
        examples=['"1.7.24"'],
    )
    mirrors: dict[str, Urls] = Field(
        {},
        description="Registry to the URLs that are tried before it; _default stands for every registry.",
        examples=["{docker.io: [https://mirror.example.com]}"],
    )


class EtcdExternal(Model):
    """An etcd that exists already; kops-py only hands it to the API servers."""

    endpoints: list[Text] = Field(
        min_length=1,
        description="Client URLs of its members, as API servers reach them.",
        examples=["[https://192.0.2.31:2379]"],
    )
    ca: Text = Field(description="File with the authority that made its certificates.", examples=["./etcd/ca.crt"])
    cert: Text = Field(description="File with the API servers' client certificate.", examples=["./etcd/client.crt"])
    key: Text = Field(
        description="File with its key, which others on this machine must not be able to read.",
        examples=["./etcd/client.key"],
    )


class EtcdCa(Model):
    """The authority that makes the certificates of members and clients, where it is to be yours."""

    cert: Text = Field(description="File with its certificate.", examples=["./etcd/ca.crt"])
    key: Text = Field(
        description="File with its key, which others on this machine must not be able to read. It is used on this "
        "machine and never sent to a host.",
        examples=["./etcd/ca.key"],
    )


class Etcd(Model):
    """Where etcd runs."""

    topology: Literal["stacked", "external"] | None = Field(
        None,
        description="stacked: a member on every control plane, run by kubeadm. external: members on the hosts of "
        "the group etcd, run by systemd. Not given: external when the group etcd names other hosts than the "
        "control planes, else stacked.",
        examples=["stacked"],
    )
    external: EtcdExternal | None = Field(None, description="An etcd that exists already, with topology external.")
    ca: EtcdCa | None = Field(
        None,
        description="Authority for the etcd on the hosts of the group etcd. Not given: one is made, and its key lies "
        "on these hosts alone.",
    )


class Ssh(Model):
    """How hosts are reached. Users, ports and keys come from the inventory and ~/.ssh/config."""

    become_password: Text | None = Field(
        None,
        description="Reference to the sudo password, never the password: env:NAME, file:PATH or cmd:COMMAND.",
        examples=["env:SUDO_PASSWORD"],
        pattern="^(env|file|cmd):",
    )
    connect_timeout_seconds: float = Field(
        15, gt=0, le=300, description="After this an unreachable host is given up.", examples=[15]
    )
    max_parallel: int = Field(32, ge=1, le=512, description="Hosts worked on side by side.", examples=[32])


class Timeouts(Model):
    """Time limits of the long steps, in seconds."""

    prepare_seconds: Seconds = Field(1800, description="Preparing one wave of nodes.", examples=[1800])
    kubeadm_seconds: Seconds = Field(600, description="One kubeadm init or join.", examples=[600])
    node_ready_seconds: Seconds = Field(300, description="A joined node becoming Ready.", examples=[300])
    cluster_healthy_seconds: Seconds = Field(300, description="Add-ons and static pods healthy.", examples=[300])
    api_request_seconds: Seconds = Field(15, description="One request to the Kubernetes API.", examples=[15])


class Preflight(Model):
    """Checks before anything is touched."""

    ignore: list[Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*(@[A-Za-z0-9._-]+)?$")]] = Field(
        [],
        description="Findings that are shown but do not stop an operation: ID, or ID@HOST for one host.",
        examples=["[swap-on, disk-slow@n1]"],
    )


class Kubeadm(Model):
    """Settings of kubeadm that kops-py has no key of its own for."""

    cluster_configuration: dict[str, Any] = Field(
        {},
        description="Fields merged into kubeadm's ClusterConfiguration as they are, in the form of the kubeadm "
        "API version that belongs to the Kubernetes version.",
        examples=["{apiServer: {extraArgs: {profiling: 'false'}}}"],
    )
    init_configuration: dict[str, Any] = Field(
        {}, description="Fields merged into kubeadm's InitConfiguration.", examples=["{patches: {directory: /etc/k}}"]
    )
    join_configuration: dict[str, Any] = Field(
        {}, description="Fields merged into kubeadm's JoinConfiguration.", examples=["{patches: {directory: /etc/k}}"]
    )
    kubelet_configuration: dict[str, Any] = Field(
        {}, description="Fields merged into the KubeletConfiguration of all nodes.", examples=["{maxPods: 200}"]
    )
    kube_proxy_configuration: dict[str, Any] = Field(
        {}, description="Fields merged into the KubeProxyConfiguration.", examples=["{mode: nftables}"]
    )


class ClusterDocument(Model):
    """A Kubernetes cluster as kops-py builds and keeps it; hosts are in the Ansible inventory beside this file."""

    api_version: Literal["kops-py/v1"] = Field(description="Version of this format.", examples=["kops-py/v1"])
    kind: Literal["Cluster"] = Field(description="Kind of this file.", examples=["Cluster"])
    metadata: Metadata
    kubernetes: Kubernetes
    network: Network
    control_plane_endpoint: Text | None = Field(
        None,
        description="Address all clients use for the API server, host or host:port (port 6443 when not given). "
        "Not given: the first host of the group load_balancer, else the only control plane.",
        examples=["api.example.com:6443"],
    )
    cert_sans: list[Text] = Field(
        [],
        alias="certSANs",
        description="Further names and addresses in the API server's certificate.",
        examples=["[api.example.com]"],
    )
    containerd: Containerd = Field(default_factory=lambda: Containerd.model_validate({}))
    etcd: Etcd = Field(default_factory=lambda: Etcd.model_validate({}))
    ssh: Ssh = Field(default_factory=lambda: Ssh.model_validate({}))
    timeouts: Timeouts = Field(default_factory=lambda: Timeouts.model_validate({}))
    maintenance: Maintenance = Field(default_factory=lambda: Maintenance.model_validate({}))
    backup: Backup | None = Field(
        None,
        description="Backups. Not given: kops-py etcd backup has nowhere to put one.",
        examples=["{stores: [{name: local, directory: {path: /srv/backup}}]}"],
    )
    preflight: Preflight = Field(default_factory=lambda: Preflight.model_validate({}))
    kubeadm: Kubeadm = Field(default_factory=lambda: Kubeadm.model_validate({}))
