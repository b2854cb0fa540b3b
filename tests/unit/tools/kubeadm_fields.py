"""Which fields each version of kubeadm's configuration has, for finding a field that does not exist.

From the types.go of kubeadm's API packages v1beta2 (Kubernetes 1.20), v1beta3 (1.22 to 1.36) and v1beta4 (as of
1.31), and for the kubelet and kube-proxy the fields that kops-py writes.

A field's kind: ``SCALAR``, ``SCALARS`` (list), ``MAP`` (free names to scalars), ``ARGS`` (list of name and value),
``ANY``, a dict (object with these fields) or a list with one dict (list of such objects).
"""

from __future__ import annotations

from typing import Any

SCALAR, SCALARS, MAP, ARGS, ANY = "scalar", "scalars", "map", "args", "any"

Schema = dict[str, Any]

_HEAD: Schema = {"apiVersion": SCALAR, "kind": SCALAR}
_TAINT: Schema = {"key": SCALAR, "value": SCALAR, "effect": SCALAR, "timeAdded": SCALAR}
_IMAGE: Schema = {"imageRepository": SCALAR, "imageTag": SCALAR}
_MOUNT: Schema = dict.fromkeys(("name", "hostPath", "mountPath", "readOnly", "pathType"), SCALAR)
_TOKEN: Schema = {
    **dict.fromkeys(("token", "description", "ttl", "expires"), SCALAR),
    "usages": SCALARS,
    "groups": SCALARS,
}
_TIMEOUTS: Schema = dict.fromkeys(
    (
        "controlPlaneComponentHealthCheck",
        "kubeletHealthCheck",
        "kubernetesAPICall",
        "etcdAPICall",
        "tlsBootstrap",
        "discovery",
        "upgradeManifests",
    ),
    SCALAR,
)
_LOCAL_ENDPOINT: Schema = {"advertiseAddress": SCALAR, "bindPort": SCALAR}
_NETWORKING: Schema = dict.fromkeys(("serviceSubnet", "podSubnet", "dnsDomain"), SCALAR)
_DISCOVERY: Schema = {
    "bootstrapToken": {
        **dict.fromkeys(("token", "apiServerEndpoint", "unsafeSkipCAVerification"), SCALAR),
        "caCertHashes": SCALARS,
    },
    "file": {"kubeConfigPath": SCALAR},
    "tlsBootstrapToken": SCALAR,
}


def _kubeadm(arguments: str, *, since_v1beta3: bool, since_v1beta4: bool) -> dict[str, Schema]:
    registration: Schema = {
        "name": SCALAR,
        "criSocket": SCALAR,
        "taints": [_TAINT],
        "kubeletExtraArgs": arguments,
        "ignorePreflightErrors": SCALARS,
    }
    component: Schema = {"extraArgs": arguments, "extraVolumes": [_MOUNT]}
    local_etcd: Schema = {
        **_IMAGE,
        "dataDir": SCALAR,
        "extraArgs": arguments,
        "serverCertSANs": SCALARS,
        "peerCertSANs": SCALARS,
    }
    external_etcd: Schema = {"endpoints": SCALARS, "caFile": SCALAR, "certFile": SCALAR, "keyFile": SCALAR}
    api_server: Schema = {**component, "certSANs": SCALARS}
    dns: Schema = dict(_IMAGE)
    cluster: Schema = {}
    run: Schema = {}
    discovery = dict(_DISCOVERY)
    if since_v1beta3:
        registration["imagePullPolicy"] = SCALAR
        run |= {"skipPhases": SCALARS, "patches": {"directory": SCALAR}}
    else:
        dns["type"] = SCALAR
        cluster["useHyperKubeImage"] = SCALAR
    if since_v1beta4:
        registration["imagePullSerial"] = SCALAR
        run |= {"timeouts": _TIMEOUTS, "dryRun": SCALAR}
        for part in (component, api_server, local_etcd):
            part["extraEnvs"] = [{"name": SCALAR, "value": SCALAR, "valueFrom": ANY}]
        dns["disabled"] = SCALAR
        cluster |= {
            "proxy": {"disabled": SCALAR},
            "encryptionAlgorithm": SCALAR,
            "certificateValidityPeriod": SCALAR,
            "caCertificateValidityPeriod": SCALAR,
        }
    else:
        api_server["timeoutForControlPlane"] = SCALAR
        discovery["timeout"] = SCALAR
    return {
        "InitConfiguration": {
            **_HEAD,
            **run,
            "bootstrapTokens": [_TOKEN],
            "nodeRegistration": registration,
            "localAPIEndpoint": _LOCAL_ENDPOINT,
            "certificateKey": SCALAR,
        },
        "JoinConfiguration": {
            **_HEAD,
            **run,
            "nodeRegistration": registration,
            "caCertPath": SCALAR,
            "discovery": discovery,
            "controlPlane": {"localAPIEndpoint": _LOCAL_ENDPOINT, "certificateKey": SCALAR},
        },
        "ClusterConfiguration": {
            **_HEAD,
            **cluster,
            "etcd": {"local": local_etcd, "external": external_etcd},
            "networking": _NETWORKING,
            "kubernetesVersion": SCALAR,
            "controlPlaneEndpoint": SCALAR,
            "apiServer": api_server,
            "controllerManager": component,
            "scheduler": component,
            "dns": dns,
            "certificatesDir": SCALAR,
            "imageRepository": SCALAR,
            "featureGates": MAP,
            "clusterName": SCALAR,
        },
    }


FIELDS: dict[str, dict[str, Schema]] = {
    "kubeadm.k8s.io/v1beta2": _kubeadm(MAP, since_v1beta3=False, since_v1beta4=False),
    "kubeadm.k8s.io/v1beta3": _kubeadm(MAP, since_v1beta3=True, since_v1beta4=False),
    "kubeadm.k8s.io/v1beta4": _kubeadm(ARGS, since_v1beta3=True, since_v1beta4=True),
    "kubelet.config.k8s.io/v1beta1": {
        "KubeletConfiguration": {**_HEAD, "cgroupDriver": SCALAR, "failCgroupV1": SCALAR, "resolvConf": SCALAR}
    },
    "kubeproxy.config.k8s.io/v1alpha1": {
        "KubeProxyConfiguration": {**_HEAD, "mode": SCALAR, "conntrack": {"maxPerCore": SCALAR, "min": SCALAR}}
    },
}


def unknown_fields(document: dict[str, Any]) -> list[str]:
    """Return the paths of fields that this document's API version does not have or that have another shape."""
    schema = FIELDS[document["apiVersion"]][document["kind"]]
    return list(_unknown(document["kind"], document, schema))


def _unknown(path: str, value: Any, schema: Any) -> list[str]:
    scalar = isinstance(value, str | int | bool | float)
    if schema == ANY:
        return []
    if schema == SCALAR:
        return [] if scalar else [f"{path} is not a scalar"]
    if schema == SCALARS:
        good = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return [] if good else [f"{path} is not a list of texts"]
    if schema == MAP:
        # extraArgs is map[string]string in Go: a number or a bare truth value would not decode.
        texts = str if "Args" in path else str | bool
        good = isinstance(value, dict) and all(isinstance(item, texts) for item in value.values())
        return [] if good else [f"{path} is not a map of texts"]
    if schema == ARGS:
        good = isinstance(value, list) and all(
            isinstance(item, dict) and set(item) == {"name", "value"} and all(isinstance(v, str) for v in item.values())
            for item in value
        )
        return [] if good else [f"{path} is not a list of name and value"]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{path} is not a list"]
        return [found for n, item in enumerate(value) for found in _unknown(f"{path}[{n}]", item, schema[0])]
    if not isinstance(value, dict):
        return [f"{path} is not an object"]
    found = [f"{path}.{name} does not exist" for name in value if name not in schema]
    return found + [
        problem
        for name, item in value.items()
        if name in schema
        for problem in _unknown(f"{path}.{name}", item, schema[name])
    ]
