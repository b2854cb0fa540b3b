#!/bin/bash
# The bare way to another version: the steps of "Upgrading kubeadm clusters" as one shell script over OpenSSH.
#
# It is what bench.upgrade measures kops-py against: the same packages and images fetched to all hosts side by side,
# then one node after the other: kubeadm, kubeadm upgrade, drain, kubelet and kubectl, restart, Ready, uncordon. As a
# careful hand does, it waits before a drain until the new kube-proxy is everywhere. It checks nothing beforehand and
# afterwards but that the node is Ready, and cannot be run again on what it has left.
#
#   bare_upgrade.sh SSH_CONFIG VERSION PACKAGES_URL IMAGES_URL CONTROL_PLANE "WORKERS"
#
# Host names are looked up in SSH_CONFIG; logs go to the current folder, one file per host. Standard output has one
# line per phase: "phase NODE KIND EPOCH_SECONDS", at its begin.
set -Eeuo pipefail
trap 'echo "line $LINENO: $BASH_COMMAND failed" >&2' ERR

ssh_config=$1 version=$2 packages=$3 images=$4 first=$5
read -ra workers <<<"$6"
minor=${version%.*}

sockets=$(mktemp -d /tmp/bare.XXXXXX)
mux=(-F "$ssh_config" -o ControlMaster=auto -o ControlPersist=60 -o "ControlPath=$sockets/%n")
finish() {
  for socket in "$sockets"/*; do
    [ -S "$socket" ] && ssh "${mux[@]}" -O exit "${socket##*/}" 2>/dev/null
  done
  rm -rf "$sockets"
}
trap finish EXIT

phase() { echo "phase $1 $2 $EPOCHREALTIME"; }

# on HOST FUNCTION ARGUMENT... : runs a function of this script there, as root
on() {
  local host=$1 call
  call="$(declare -f "$2"); set -euo pipefail; $(printf '%q ' "${@:2}")"
  ssh "${mux[@]}" -n "$host" "sudo bash -c $(printf %q "$call")" >>"$host.log" 2>&1
}

# --------------------------------------------------------------------- what runs on the hosts
stage() { # version minor packages images file=sha256...
  local version=$1 minor=$2 packages=$3 images=$4 archive
  export DEBIAN_FRONTEND=noninteractive
  echo "deb [signed-by=/etc/apt/keyrings/bare.asc] $packages/$minor/deb/ /" >/etc/apt/sources.list.d/bare.list
  curl -fsS "$packages/$minor/deb/Release.key" -o /etc/apt/keyrings/bare.asc
  apt-get -q update
  apt-get -qy --download-only --allow-change-held-packages install \
    "kubeadm=${version#v}-*" "kubelet=${version#v}-*" "kubectl=${version#v}-*"
  mkdir -p /var/tmp/images
  for archive in "${@:5}"; do
    curl -fsS "$images/$version/${archive%%=*}" -o "/var/tmp/images/${archive%%=*}"
    echo "${archive#*=}  /var/tmp/images/${archive%%=*}" | sha256sum --check --quiet
    ctr -n k8s.io images import "/var/tmp/images/${archive%%=*}"
    rm "/var/tmp/images/${archive%%=*}"
  done
}
install_packages() { # package=version...
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qy --allow-change-held-packages install "$@"
  apt-mark hold kubeadm kubelet kubectl
}
run_kubeadm() { kubeadm upgrade "$@"; }
run_kubectl() { kubectl --kubeconfig=/etc/kubernetes/admin.conf "$@"; }
restart_kubelet() {
  systemctl daemon-reload
  systemctl restart kubelet
}
wait_ready() { # node version: Ready as the new kubelet tells it
  local end=$((SECONDS + 300)) found
  export KUBECONFIG=/etc/kubernetes/admin.conf
  until found=$(kubectl get node "$1" -o jsonpath='{.status.nodeInfo.kubeletVersion}') && [ "$found" = "$2" ]; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.5
  done
  kubectl wait --for=condition=Ready "node/$1" --timeout=300s
}
wait_proxy() { # as long as kops-py would
  kubectl --kubeconfig=/etc/kubernetes/admin.conf -n kube-system rollout status daemonset/kube-proxy --timeout=90s || true
}

# --------------------------------------------------------------------- the run
for host in "$first" "${workers[@]}"; do : >"$host.log"; done
index=$(curl -fsS "$images/$version/images.json")
archives() { # name of the field "for" that is wanted
  python3 -c 'import json, sys
for e in json.load(sys.stdin):
    if e["for"] in sys.argv[1:]: print(e["file"] + "=" + e["sha256"])' "$@" <<<"$index"
}
mapfile -t for_all < <(archives all)
mapfile -t for_control_planes < <(archives all control-plane)

phase - staging
pids=()
on "$first" stage "$version" "$minor" "$packages" "$images" "${for_control_planes[@]}" & pids+=($!)
for host in "${workers[@]}"; do
  on "$host" stage "$version" "$minor" "$packages" "$images" "${for_all[@]}" & pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; done

for host in "$first" "${workers[@]}"; do
  phase "$host" packages
  on "$host" install_packages "kubeadm=${version#v}-*"
  phase "$host" kubeadm
  if [ "$host" = "$first" ]; then on "$host" run_kubeadm apply "$version" --yes; else on "$host" run_kubeadm node; fi
  phase "$host" safe
  [ "$host" = "$first" ] || on "$first" wait_proxy
  phase "$host" drain
  on "$first" run_kubectl drain "$host" --ignore-daemonsets --timeout=300s
  phase "$host" packages
  on "$host" install_packages "kubelet=${version#v}-*" "kubectl=${version#v}-*"
  phase "$host" ready
  on "$host" restart_kubelet
  on "$first" wait_ready "$host" "$version"
  phase "$host" rest
  on "$first" run_kubectl uncordon "$host"
done
phase - end
