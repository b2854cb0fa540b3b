"""The shape of cluster.yaml: strict, frozen models that exist only at the file boundary.

Import this module inside functions: it costs what importing pydantic costs. The field descriptions are what
``kops-py schema`` and docs/cluster-yaml.md show; ``examples`` is what an error message shows as allowed.
"""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=to_camel,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return value


def _split_words(value: object) -> object:
    return shlex.split(value) if isinstance(value, str) else value


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


_NETWORK_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
    ]
}
_URLS_SCHEMA = {
    "anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}
_NUMBER_OR_SHARE = "^([1-9][0-9]{0,5}|([1-9][0-9]?|100)%)$"
_COUNT_OR_SHARE_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _NUMBER_OR_SHARE}]}
_WORDS_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 256},
    ]
}
Networks = Annotated[
    list[str], Field(min_length=1, max_length=2), BeforeValidator(_split_commas), WithJsonSchema(_NETWORK_SCHEMA)
]
Urls = Annotated[list[str], Field(min_length=1), BeforeValidator(_one_or_more), WithJsonSchema(_URLS_SCHEMA)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Words = Annotated[
    list[Text], Field(min_length=1, max_length=256), BeforeValidator(_split_words), WithJsonSchema(_WORDS_SCHEMA)
]
CountOrShare = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    WithJsonSchema(_COUNT_OR_SHARE_SCHEMA),
]


class Metadata(_Model):
    """What the cluster is called."""

    name: Text = Field(
        max_length=63,
        description="Name of the cluster: in kubeconfig contexts, run folders and backups. A DNS label.",
        examples=["prod"],
    )


class Kubernetes(_Model):
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


class Cni(_Model):
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


class Network(_Model):
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


class Containerd(_Model):
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


class EtcdExternal(_Model):
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


class EtcdCa(_Model):
    """The authority that makes the certificates of members and clients, where it is to be yours."""

    cert: Text = Field(description="File with its certificate.", examples=["./etcd/ca.crt"])
    key: Text = Field(
        description="File with its key, which others on this machine must not be able to read. It is used on this "
        "machine and never sent to a host.",
        examples=["./etcd/ca.key"],
    )


class Etcd(_Model):
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


class Ssh(_Model):
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


class Timeouts(_Model):
    """Time limits of the long steps, in seconds."""

    prepare_seconds: Seconds = Field(1800, description="Preparing one wave of nodes.", examples=[1800])
    kubeadm_seconds: Seconds = Field(600, description="One kubeadm init or join.", examples=[600])
    node_ready_seconds: Seconds = Field(300, description="A joined node becoming Ready.", examples=[300])
    cluster_healthy_seconds: Seconds = Field(300, description="Add-ons and static pods healthy.", examples=[300])
    api_request_seconds: Seconds = Field(15, description="One request to the Kubernetes API.", examples=[15])


class DrainGroup(_Model):
    """Pods that are evicted only when those of the groups before it are gone."""

    name: Text = Field(description="What the group is called in messages.", examples=["storage"])
    selector: str = Field("", description="Label selector of its pods.", examples=["app=rook-ceph-osd"])
    namespaces: list[Text] = Field([], description="Namespaces of its pods. Not given: all.", examples=["[rook-ceph]"])


class Drain(_Model):
    """What draining a node may do. DaemonSet pods and static pods always stay."""

    timeout_seconds: Seconds = Field(
        900, description="Draining one node, from the first eviction to the last volume detached.", examples=[900]
    )
    grace_period_seconds: int | None = Field(
        None, ge=0, le=86400, description="In place of the pods' own grace period.", examples=[60]
    )
    delete_empty_dir_data: bool = Field(
        False, description="Evict pods whose emptyDir volumes are lost with them.", examples=[True]
    )
    force: bool = Field(
        False, description="Evict pods without a controller, which nothing starts again.", examples=[True]
    )
    volumes_timeout_seconds: float = Field(
        120, ge=0, le=86400, description="Waiting for volumes to detach; 0 does not wait.", examples=[120]
    )
    groups: list[DrainGroup] = Field(
        [],
        description="Groups of pods in the order they go; pods in no group go first.",
        examples=["[{name: storage, namespaces: [rook-ceph]}]"],
    )


class Hook(_Model):
    """A command of yours. It must be safe to run twice, and read its secrets itself: this file shows in plans."""

    command: Words = Field(
        description="Command and arguments: a list, or text that is split into words; there is no shell. It finds "
        "KOPS_NODE, KOPS_CLUSTER, KOPS_OPERATION, KOPS_VERSION and KOPS_RUN_ID in its environment.",
        examples=["[./silence, --for, 30m]"],
    )
    run_on: Literal["controller", "node"] = Field(
        "controller",
        description="controller: where kops-py runs, as its user, in the folder of this file. node: there, as root.",
        examples=["controller"],
    )
    timeout_seconds: Seconds = Field(60, description="One run of it.", examples=[60])


class HookLists(_Model):
    """Commands around the work on every node, in order. One that fails ends the work on that node."""

    before: list[Hook] = Field(
        [],
        description="Before anything is done on the node, and so before its cordon.",
        examples=["[{command: ./silence on}]"],
    )
    after: list[Hook] = Field(
        [], description="When the node is back and workloads are whole.", examples=["[{command: ./silence off}]"]
    )


class Http(_Model):
    """A URL that has to answer; asked from the machine kops-py runs on, redirects are not followed."""

    url: Text = Field(description="http or https, without a password.", examples=["https://shop.example.com/healthz"])
    status: list[Annotated[int, Field(ge=100, le=599)]] = Field(
        [], description="Statuses that are right. Not given: 200 to 299.", examples=["[200, 204]"]
    )
    contains: str = Field("", max_length=4096, description="Text that has to be in the body.", examples=["ok"])
    ca_file: Text | None = Field(
        None, description="File with the authorities to trust. Not given: the system's.", examples=["./ca.pem"]
    )
    insecure: bool = Field(False, description="Whether any certificate will do.", examples=[False])
    timeout_seconds: Seconds = Field(10, description="One try.", examples=[10])


class Gate(_Model):
    """What has to be true: a command that has to end with 0, or a URL that has to answer. One of both is given."""

    name: Text = Field("", max_length=63, description="What it is called in messages.", examples=["shop"])
    command: Words | None = Field(
        None, description="As in hooks; it has to end with 0.", examples=["[./check-alerts, --none]"]
    )
    run_on: Literal["controller", "node"] = Field("controller", description="As in hooks.", examples=["controller"])
    timeout_seconds: Seconds = Field(60, description="One run of the command.", examples=[60])
    http: Http | None = Field(None, description="A URL that has to answer.", examples=["{url: https://x.example.com}"])
    deadline_seconds: Seconds = Field(
        600, description="When it is not true by then, the work on that node has failed.", examples=[600]
    )
    interval_seconds: float = Field(5, ge=0.1, le=3600, description="Between two tries.", examples=[5])


class Canary(_Model):
    """Workers that go first, one at a time, and what has to happen before the others."""

    count: int = Field(0, ge=0, le=5000, description="How many; 0: none.", examples=[1])
    pause_seconds: float = Field(
        0,
        ge=0,
        le=86400,
        description="For how long they are watched: a gate that breaks, or workloads that do not become whole, end the "
        "run before any other worker is begun.",
        examples=[600],
    )
    gate: Gate | None = Field(
        None, description="What has to be true after that.", examples=["{command: ./check-canary}"]
    )


class WorkerGroup(_Model):
    """Workers with a window of their own. Either selector or inventoryGroup says which."""

    name: Text = Field(max_length=63, description="What the group is called in plans.", examples=["storage"])
    selector: Text | None = Field(
        None, description="Label selector over labels of the inventory and the cluster.", examples=["disk=ssd"]
    )
    inventory_group: Text | None = Field(None, description="Group of the inventory.", examples=["storage"])
    max_unavailable: CountOrShare = Field(
        "1",
        pattern=_NUMBER_OR_SHARE,
        description="Its workers worked on at once: a number, or a percentage of the group (at least one).",
        examples=["25%"],
    )


class Maintenance(_Model):
    """How nodes are taken out of service for upgrades and patches."""

    max_unavailable: CountOrShare = Field(
        "1",
        pattern=_NUMBER_OR_SHARE,
        description="Workers worked on at once: a number, or a percentage of all workers (at least one).",
        examples=["25%"],
    )
    groups: list[WorkerGroup] = Field(
        [],
        description="Groups of workers with a window of their own, one after the other; a worker belongs to the first "
        "that it fits. Workers of no group come last, with the maxUnavailable above. --max-unavailable puts all of "
        "this aside.",
        examples=["[{name: storage, selector: disk=ssd, maxUnavailable: 1}]"],
    )
    max_failures: int = Field(
        0, ge=0, le=5000, description="Workers that may fail before no further one is begun.", examples=[0]
    )
    drain: Drain = Field(default_factory=lambda: Drain.model_validate({}))
    hooks: HookLists = Field(default_factory=lambda: HookLists.model_validate({}))
    gates: list[Gate] = Field(
        [],
        description="What has to be true after each node before the next one is begun.",
        examples=["[{name: shop, http: {url: https://shop.example.com/healthz}}]"],
    )
    canary: Canary = Field(default_factory=lambda: Canary.model_validate({}))


class Preflight(_Model):
    """Checks before anything is touched."""

    ignore: list[Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*(@[A-Za-z0-9._-]+)?$")]] = Field(
        [],
        description="Findings that are shown but do not stop an operation: ID, or ID@HOST for one host.",
        examples=["[swap-on, disk-slow@n1]"],
    )


class Kubeadm(_Model):
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


class DirectoryStore(_Model):
    """A folder on the machine that runs kops-py; it may lie on NFS."""

    path: Text = Field(
        description="The folder; made when it is missing, its parent is not.", examples=["/srv/backup/kubernetes"]
    )
    mount: Text | None = Field(
        None,
        description="Mount point that path lies on. While nothing is mounted there, the store is refused.",
        examples=["/srv/backup"],
    )


_REFERENCE = "^(env|file|cmd):"


class S3Store(_Model):
    """A bucket of an S3-compatible server that supports conditional writes (If-None-Match)."""

    bucket: Text = Field(
        description="The bucket; it must be there.",
        examples=["etcd-backups"],
        pattern="^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
    )
    prefix: str = Field(
        "",
        description="Beginning of all names in it.",
        examples=["kubernetes"],
        pattern="^([A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*)?$",
        max_length=512,
    )
    endpoint: Text | None = Field(
        None, description="URL of the server. Not given: Amazon's of the region.", examples=["https://s3.example.com"]
    )
    region: Text = Field("us-east-1", description="Region.", examples=["eu-central-1"], pattern="^[a-z0-9-]+$")
    path_style: bool = Field(
        True, description="Whether the bucket stands in the path of the URL, not in its host name.", examples=[True]
    )
    access_key: Text | None = Field(
        None,
        description="Reference to the access key. Not given: what the machine's environment offers (AWS_ACCESS_KEY_ID, "
        "an instance's role).",
        examples=["env:BACKUP_ACCESS_KEY"],
        pattern=_REFERENCE,
    )
    secret_key: Text | None = Field(
        None, description="Reference to the secret key.", examples=["file:/etc/kops-py/s3.key"], pattern=_REFERENCE
    )
    session_token: Text | None = Field(
        None, description="Reference to a session token.", examples=["env:AWS_SESSION_TOKEN"], pattern=_REFERENCE
    )
    ca: Text | None = Field(
        None, description="File with the authorities of the server's certificate.", examples=["./s3-ca.pem"]
    )


class BackupStore(_Model):
    """Where backups go: exactly one of directory, s3."""

    name: Text = Field(description="Name of the store, a DNS label.", examples=["offsite"], max_length=63)
    directory: DirectoryStore | None = Field(
        None, description="A folder, also on NFS.", examples=["{path: /srv/backup}"]
    )
    s3: S3Store | None = Field(
        None,
        description="A bucket.",
        examples=["{bucket: etcd-backups, endpoint: 'https://s3.example.com', accessKey: 'env:A', secretKey: 'env:S'}"],
    )


class Encryption(_Model):
    """To whom backups are encrypted (age). Only public keys stand here; who makes backups cannot read them."""

    recipients: list[Text] = Field(
        [],
        description="Public keys of age (age1...) or SSH.",
        examples=["[age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]"],
    )
    file: Text | None = Field(
        None, description="File with public keys, one a line, besides recipients.", examples=["./recipients.txt"]
    )
    required: bool = Field(
        True,
        description="Refuse a backup without a public key. false stores every secret of the cluster in the clear.",
        examples=[True],
    )
    identity: Text | None = Field(
        None,
        description="Reference to the private key (an identity file of age-keygen), only on a machine that is to prove "
        "stored backups or restore them.",
        examples=["file:/root/backup-identity.txt"],
        pattern=_REFERENCE,
    )


class Retention(_Model):
    """Which good backups are kept. The newest good one always is, and nothing that is not good counts."""

    keep_last: int = Field(7, ge=1, le=10000, description="The newest so many.", examples=[7])
    hourly: int = Field(0, ge=0, le=10000, description="The newest of each of the last so many hours.", examples=[24])
    daily: int = Field(7, ge=0, le=10000, description="The newest of each of the last so many days.", examples=[7])
    weekly: int = Field(4, ge=0, le=10000, description="The newest of each of the last so many weeks.", examples=[4])
    monthly: int = Field(6, ge=0, le=10000, description="The newest of each of the last so many months.", examples=[6])
    minimum_age: Text = Field(
        "1d",
        description="What is younger is never deleted; a number with its unit (s, m, h, d).",
        examples=["1d"],
        pattern="^([0-9]{1,5}d)?([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?$",
    )


class Backup(_Model):
    """Backups of etcd and of what is not in etcd. See docs/backup-stores.md."""

    stores: list[BackupStore] = Field(
        min_length=1,
        max_length=16,
        description="Where each backup goes: to all of them at once.",
        examples=["[{name: local, directory: {path: /srv/backup}}]"],
    )
    encryption: Encryption = Field(default_factory=lambda: Encryption.model_validate({}))
    retention: Retention = Field(default_factory=lambda: Retention.model_validate({}))
    verify: Literal["none", "checksum", "restore"] = Field(
        "restore",
        description="How far a new backup is proven at once. restore: restored into a scratch etcd and read; only that "
        "makes it a good one. checksum: the stored bytes are read back. none: later, by kops-py etcd verify.",
        examples=["restore"],
    )
    store_timeout_seconds: Seconds = Field(
        60, description="A store that takes or gives nothing for so long has failed.", examples=[60]
    )


class ClusterDocument(_Model):
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
