"""The section maintenance of cluster.yaml: how nodes are taken out of service and given back."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kops_py.config.document_parts import NUMBER_OR_SHARE, CountOrShare, Model, Seconds, Text, Words


class DrainGroup(Model):
    """Pods that are evicted only when those of the groups before it are gone."""

    name: Text = Field(description="What the group is called in messages.", examples=["storage"])
    selector: str = Field("", description="Label selector of its pods.", examples=["app=rook-ceph-osd"])
    namespaces: list[Text] = Field([], description="Namespaces of its pods. Not given: all.", examples=["[rook-ceph]"])


class Drain(Model):
    """What draining a node may do. DaemonSet pods and static pods always stay."""

    timeout_seconds: Seconds = Field(
        900, description="Draining one node, from the first eviction to the last volume detached.", examples=[900]
    )
    grace_period_seconds: int | None = Field(
        None, ge=0, le=86400, description="In place of the pods' own grace period.", examples=[60]
    )
    pod_selector: str = Field(
        "",
        description="Label selector of the pods that go; all others stay on the node. Not given: all go.",
        examples=["app!=db"],
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


class Hook(Model):
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


class HookLists(Model):
    """Commands around the work on every node, in order. One that fails ends the work on that node."""

    before: list[Hook] = Field(
        [],
        description="Before anything is done on the node, and so before its cordon.",
        examples=["[{command: ./silence on}]"],
    )
    after: list[Hook] = Field(
        [], description="When the node is back and workloads are whole.", examples=["[{command: ./silence off}]"]
    )


class Http(Model):
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


class Gate(Model):
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


class Canary(Model):
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


class WorkerGroup(Model):
    """Workers with a window of their own. Either selector or inventoryGroup says which."""

    name: Text = Field(max_length=63, description="What the group is called in plans.", examples=["storage"])
    selector: Text | None = Field(
        None, description="Label selector over labels of the inventory and the cluster.", examples=["disk=ssd"]
    )
    inventory_group: Text | None = Field(None, description="Group of the inventory.", examples=["storage"])
    max_unavailable: CountOrShare = Field(
        "1",
        pattern=NUMBER_OR_SHARE,
        description="Its workers worked on at once: a number, or a percentage of the group (at least one).",
        examples=["25%"],
    )


class Maintenance(Model):
    """How nodes are taken out of service for upgrades and patches."""

    max_unavailable: CountOrShare = Field(
        "1",
        pattern=NUMBER_OR_SHARE,
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
