"""What may speak against bringing a cluster back on new machines, by name."""

from __future__ import annotations

from kops_py.model.finding import FindingKind, Severity

HOST_HAS_CLUSTER = FindingKind(
    "host-has-cluster",
    (Severity.ERROR,),
    "A host of the inventory runs a control plane, or a member of etcd with data, already: it is no new machine.",
    "Name empty machines; or restore the members that are there (--kind all).",
)
ETCD_DOES_NOT_SERVE = FindingKind(
    "etcd-does-not-serve",
    (Severity.ERROR,),
    "No external etcd serves a cluster whose control planes are all new machines: there is nothing to bring keys to.",
    "Leave --kind out: it is chosen from what is found.",
)
OLD_CLUSTER_ANSWERS = FindingKind(
    "old-cluster-answers",
    (Severity.ERROR,),
    "The API of the cluster in the backup answers at its old address: there would be two of it.",
    "Switch its machines off for good first; if it is to stay, there is nothing to restore.",
)
OTHER_KUBERNETES = FindingKind(
    "backup-other-kubernetes",
    (Severity.ERROR,),
    "The cluster in the backup was of another minor version of Kubernetes than cluster.yaml says.",
    "Set kubernetes.version to that of the backup; upgrade when the cluster is back.",
)
OTHER_NETWORKS = FindingKind(
    "backup-other-networks",
    (Severity.ERROR,),
    "cluster.yaml has other pod or service networks, or another DNS domain, than the cluster in the backup.",
    "Set them as they were: Services and nodes in the snapshot have addresses of these networks.",
)
FLAGS_MISSING = FindingKind(
    "api-server-flags-missing",
    (Severity.ERROR, Severity.WARNING),
    "The API server had a flag naming a file that cluster.yaml does not set; without its encryption no Secret is read.",
    "Set it in kubeadm.clusterConfiguration: apiServer.extraArgs, and extraVolumes for its file.",
)
FILES_ABSENT = FindingKind(
    "bundle-lacks-files",
    (Severity.ERROR,),
    "A flag of the old control plane names a file that is not in the backup.",
    "Put it on every control plane by hand, then ignore this; or ignore it when cluster.yaml no longer names it.",
)
WEBHOOKS = FindingKind(
    "webhooks-without-pods",
    (Severity.WARNING,),
    "The cluster had admission webhooks: one that fails closed refuses what kubeadm writes while no pod of it runs.",
    'If init fails with "failed calling webhook": kubectl delete its configuration, then run the same command again.',
)
KINDS = (
    HOST_HAS_CLUSTER,
    ETCD_DOES_NOT_SERVE,
    OLD_CLUSTER_ANSWERS,
    OTHER_KUBERNETES,
    OTHER_NETWORKS,
    FLAGS_MISSING,
    FILES_ABSENT,
    WEBHOOKS,
)
