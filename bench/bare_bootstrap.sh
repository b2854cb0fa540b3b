#!/bin/bash
# The bare way to a kubeadm cluster: what kops-py bootstrap does on the hosts, as one shell script over OpenSSH.
#
# It is what bench.bootstrap measures kops-py against: same packages, settings, images, kubeadm calls and pod
# network, in the same order with as many hosts side by side, until the same is healthy. It checks nothing
# beforehand, keeps no journal, and cannot be run again on what it has left behind.
#
#   bare_bootstrap.sh SSH_CONFIG VERSION PACKAGES_URL IMAGES_URL "CONTROL_PLANES" "WORKERS" [LOAD_BALANCER]
#
# Host names are looked up in SSH_CONFIG; logs go to the current folder, one file per host. Standard output has one
# line per phase: "phase NAME EPOCH_SECONDS", at its begin.
set -Eeuo pipefail
trap 'echo "line $LINENO: $BASH_COMMAND failed" >&2' ERR

ssh_config=$1 version=$2 packages=$3 images=$4
read -ra control_planes <<<"$5"
read -ra workers <<<"$6"
load_balancer=${7:-}
pods=10.244.0.0/16 services=10.96.0.0/12
nodes=("${control_planes[@]}" "${workers[@]}")
first=${control_planes[0]}
minor=${version%.*}

# --------------------------------------------------------------------- connections: one per host, shared
sockets=$(mktemp -d /tmp/bare.XXXXXX)
mux=(-F "$ssh_config" -o ControlMaster=auto -o ControlPersist=60 -o "ControlPath=$sockets/%n")
finish() {
  for socket in "$sockets"/*; do
    [ -S "$socket" ] && ssh "${mux[@]}" -O exit "${socket##*/}" 2>/dev/null
  done
  rm -rf "$sockets"
}
trap finish EXIT

phase() { echo "phase $1 $EPOCHREALTIME"; }
address() { ssh -F "$ssh_config" -G "$1" | awk '$1 == "hostname" { print $2 }'; }

# on HOST FUNCTION ARGUMENT... : runs a function of this script there, as root
on() {
  local host=$1 call
  call="$(declare -f "$2"); set -euo pipefail; $(printf '%q ' "${@:2}")"
  ssh "${mux[@]}" -n "$host" "sudo bash -c $(printf %q "$call")" >>"$host.log" 2>&1
}
# put HOST PATH : writes standard input there, readable by root only
put() { ssh "${mux[@]}" "$1" "sudo sh -c 'umask 077; mkdir -p ${2%/*}; cat >$2'"; }
# ask HOST COMMAND : prints what a command as root prints
ask() { ssh "${mux[@]}" -n "$1" "sudo sh -c $(printf %q "$2")"; }
# all FUNCTION HOST... : the function for each host, side by side; fails when one does
all() {
  local host pids=() failed=0
  for host in "${@:2}"; do "$1" "$host" & pids+=($!); done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  [ $failed = 0 ] || { echo "$1 failed, see *.log" >&2; return 1; }
}

# --------------------------------------------------------------------- what runs on the hosts
install_haproxy() { # name=address...
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update
  apt-get -qy --no-install-recommends install haproxy
  {
    printf '%s\n' global '  log stdout format raw local0 notice' '  chroot /var/lib/haproxy' \
      '  stats socket /run/haproxy/admin.sock mode 660 level admin' '  user haproxy' '  group haproxy' '  daemon' \
      defaults '  log global' '  mode tcp' '  option clitcpka' '  option srvtcpka' '  timeout connect 5s' \
      '  timeout check 3s' '  timeout client 4h' '  timeout server 4h' '  timeout tunnel 4h' \
      'frontend api' '  bind *:6443' '  default_backend api' \
      'backend api' '  option httpchk GET /readyz' '  http-check expect status 200' \
      '  default-server check check-ssl verify none inter 2s fastinter 500ms downinter 1s fall 3 rise 2'
    for server; do echo "  server ${server%%=*} ${server#*=}:6443"; done
  } >/etc/haproxy/haproxy.cfg
  haproxy -c -f /etc/haproxy/haproxy.cfg
  systemctl enable haproxy
  systemctl restart haproxy
}

prepare_node() { # version minor packages images pause file=sha256...
  local version=$1 minor=$2 packages=$3 images=$4 pause=$5 archive
  export DEBIAN_FRONTEND=noninteractive
  swapoff -a
  sed -Ei 's/^([^#]\S*\s+\S+\s+swap\s)/# \1/' /etc/fstab
  printf '%s\n' overlay br_netfilter >/etc/modules-load.d/kubernetes.conf
  modprobe -a overlay br_netfilter
  printf '%s\n' net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1 \
    fs.inotify.max_user_instances=8192 fs.inotify.max_user_watches=524288 kernel.keys.root_maxbytes=25000000 \
    kernel.keys.root_maxkeys=1000000 kernel.panic=10 kernel.panic_on_oops=1 vm.overcommit_memory=1 \
    vm.panic_on_oom=0 >/etc/sysctl.d/90-kubernetes.conf
  sysctl --quiet --ignore --load /etc/sysctl.d/90-kubernetes.conf

  mkdir -p /etc/apt/keyrings
  curl -fsS "$packages/$minor/deb/Release.key" -o /etc/apt/keyrings/kubernetes.asc
  echo "deb [signed-by=/etc/apt/keyrings/kubernetes.asc] $packages/$minor/deb/ /" \
    >/etc/apt/sources.list.d/kubernetes.list
  apt-get -q update
  apt-get -qy --no-install-recommends install ca-certificates conntrack ebtables ethtool iproute2 iptables kmod \
    socat containerd cri-tools "kubeadm=${version#v}-*" "kubectl=${version#v}-*" "kubelet=${version#v}-*"
  apt-mark hold containerd kubeadm kubectl kubelet

  mkdir -p /etc/containerd
  containerd config default | sed -e 's/SystemdCgroup = false/SystemdCgroup = true/' \
    -e "s|sandbox_image = .*|sandbox_image = \"$pause\"|" \
    -e 's|config_path = ""|config_path = "/etc/containerd/certs.d"|' >/etc/containerd/config.toml
  printf '%s: unix:///run/containerd/containerd.sock\n' runtime-endpoint image-endpoint >/etc/crictl.yaml
  echo 'timeout: 10' >>/etc/crictl.yaml
  systemctl enable containerd kubelet
  systemctl restart containerd

  mkdir -p /var/tmp/images
  for archive in "${@:6}"; do
    curl -fsS "$images/$version/${archive%%=*}" -o "/var/tmp/images/${archive%%=*}"
    echo "${archive#*=}  /var/tmp/images/${archive%%=*}" | sha256sum --check --quiet
    ctr -n k8s.io images import "/var/tmp/images/${archive%%=*}"
    rm "/var/tmp/images/${archive%%=*}"
  done
}

connect_pods() { # own-name pods name=cidr@address...
  local self=$1 pods=$2 peer mtu cidr
  mtu=$(ip -o link show "$(ip -o route get 192.0.2.1 | sed 's/.* dev \(\S*\).*/\1/')" | sed 's/.* mtu \([0-9]*\).*/\1/')
  {
    echo 'set -eu'
    for peer in "${@:3}"; do
      cidr=${peer#*=} cidr=${cidr%@*}
      if [ "${peer%%=*}" = "$self" ]; then own=$cidr; else echo "ip route replace $cidr via ${peer##*@}"; fi
    done
    echo "ensure() { iptables -w -t \"\$1\" -C \"\${@:2}\" 2>/dev/null || iptables -w -t \"\$1\" -A \"\${@:2}\"; }"
    echo "ensure nat POSTROUTING -s $pods ! -d $pods -j MASQUERADE"
    echo "ensure filter FORWARD -s $pods -j ACCEPT"
    echo "ensure filter FORWARD -d $pods -j ACCEPT"
  } >/usr/local/sbin/pod-routes
  printf '%s\n' '[Unit]' 'After=network-online.target' 'Wants=network-online.target' 'Before=kubelet.service' \
    '[Service]' Type=oneshot RemainAfterExit=yes 'ExecStart=/bin/bash /usr/local/sbin/pod-routes' \
    '[Install]' WantedBy=multi-user.target >/etc/systemd/system/pod-routes.service
  mkdir -p /etc/cni/net.d
  cat >/etc/cni/net.d/10-bridge.conflist <<JSON
{"cniVersion": "0.4.0", "name": "bridge", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true, "mtu": $mtu,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$own"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]}
JSON
  systemctl daemon-reload
  systemctl enable --now pod-routes
}

# From one voting member of etcd to two, open watches of the first API server may fall silent for good
# (kubernetes/kubernetes#97294): it is started anew, as kops-py does it for versions that join etcd without a learner.
restart_api_server() { # own address
  local old new end=$((SECONDS + 120))
  export KUBECONFIG=/etc/kubernetes/admin.conf
  old=$(crictl ps --name '^kube-apiserver$' -q)
  crictl stop --timeout 2 "$old"
  until new=$(crictl ps --name '^kube-apiserver$' -q) && [ -n "$new" ] && [ "$new" != "$old" ] &&
    kubectl --server="https://$1:6443" --request-timeout=10s get --raw=/readyz; do
    [ $SECONDS -lt "$end" ] || return 1
    sleep 0.5
  done
}

# Every node Ready, every static pod serving as its mirror pod tells it, kube-proxy Ready on every node, DNS
# available. A container that only has a startup probe serves when that has passed: a kubelet of 1.20 writes it down
# as ready only at the next sync, up to 90 s later, and kops-py does not wait for that either.
wait_healthy() { # control-planes nodes timeout-in-seconds
  local ready static proxy dns serving end=$((SECONDS + $3))
  export KUBECONFIG=/etc/kubernetes/admin.conf
  serving='{{range .items}}{{$c := index .spec.containers 0}}{{if .status.containerStatuses}}'
  serving+='{{$s := index .status.containerStatuses 0}}'
  serving+='{{if or $s.ready (and $s.state.running $s.started $c.startupProbe (not $c.readinessProbe))}}x 1/1{{"\n"}}'
  serving+='{{end}}{{end}}{{end}}'
  count() { awk -v want="$1" '$2 == want { n++ } END { print n + 0 }'; }
  get() { kubectl --request-timeout=5s -n kube-system get "$@"; }
  while :; do
    ready=$(get nodes --no-headers | count Ready) || ready=0
    static=$(get pods -l tier=control-plane -o go-template="$serving" | count 1/1) || static=0
    proxy=$(get pods -l k8s-app=kube-proxy --no-headers | count 1/1) || proxy=0
    dns=$(get deployment coredns --no-headers | count 2/2) || dns=0
    echo "ready $ready of $2, static pods $static of $(($1 * 4)), kube-proxy $proxy of $2, dns $dns of 1"
    [ "$ready $static $proxy $dns" = "$2 $(($1 * 4)) $2 1" ] && return 0
    [ $SECONDS -lt "$end" ] || return 1
    sleep 1
  done
}

# --------------------------------------------------------------------- the run
declare -A ip
for host in "${nodes[@]}" $load_balancer; do
  : >"$host.log"
  ip[$host]=$(address "$host")
done
endpoint=${ip[${load_balancer:-$first}]}:6443

phase preparation
backends=()
for host in "${control_planes[@]}"; do backends+=("$host=${ip[$host]}"); done
index=$(curl -fsS "$images/$version/images.json")
archives() { # name of the field "for" that is wanted
  python3 -c 'import json, sys
for e in json.load(sys.stdin):
    if e["for"] in sys.argv[1:]: print(e["file"] + "=" + e["sha256"])' "$@" <<<"$index"
}
pause=$(python3 -c 'import json, sys; print(next(r for e in json.load(sys.stdin) for r in e["refs"] if "/pause:" in r))' <<<"$index")
mapfile -t for_all < <(archives all)
mapfile -t for_control_planes < <(archives all control-plane)
prepare() {
  local list=("${for_all[@]}")
  [ "$1" != "$load_balancer" ] || { on "$1" install_haproxy "${backends[@]}"; return; }
  [[ " ${control_planes[*]} " == *" $1 "* ]] && list=("${for_control_planes[@]}")
  on "$1" prepare_node "$version" "$minor" "$packages" "$images" "$pause" "${list[@]}"
}
all prepare "${nodes[@]}" $load_balancer

phase init
random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
token=$(random 3).$(random 8)
key=$(random 32)
upload=()
[ ${#control_planes[@]} -gt 1 ] && upload=(--upload-certs)
registration() { # host
  printf '%s\n' 'nodeRegistration:' "  name: $1" '  criSocket: unix:///run/containerd/containerd.sock' \
    "  kubeletExtraArgs: {node-ip: ${ip[$1]}}"
}
{
  printf '%s\n' 'apiVersion: kubeadm.k8s.io/v1beta2' 'kind: InitConfiguration' \
    "bootstrapTokens: [{token: $token, ttl: 1800s}]" "localAPIEndpoint: {advertiseAddress: ${ip[$first]}}" \
    "certificateKey: $key"
  registration "$first"
  printf '%s\n' --- 'apiVersion: kubeadm.k8s.io/v1beta2' 'kind: ClusterConfiguration' \
    "kubernetesVersion: $version" "controlPlaneEndpoint: $endpoint" \
    "networking: {podSubnet: $pods, serviceSubnet: $services}" 'apiServer: {timeoutForControlPlane: 240s}' \
    --- 'apiVersion: kubelet.config.k8s.io/v1beta1' 'kind: KubeletConfiguration' 'cgroupDriver: systemd'
} | put "$first" /root/bare/init.yaml
init() { kubeadm init --config /root/bare/init.yaml --skip-token-print --skip-certificate-key-print "$@"; }
on "$first" init "${upload[@]}"
pin=$(ask "$first" "openssl x509 -pubkey -in /etc/kubernetes/pki/ca.crt | openssl pkey -pubin -outform der | sha256sum")

run_join() { kubeadm join --config /root/bare/join.yaml; }
join() { # host [control-plane]
  {
    printf '%s\n' 'apiVersion: kubeadm.k8s.io/v1beta2' 'kind: JoinConfiguration' \
      "discovery: {timeout: 300s, bootstrapToken: {token: $token, apiServerEndpoint: '$endpoint', caCertHashes: ['sha256:${pin%% *}']}}"
    [ $# = 1 ] || printf '%s\n' "controlPlane: {certificateKey: $key, localAPIEndpoint: {advertiseAddress: ${ip[$1]}}}"
    registration "$1"
  } | put "$1" /root/bare/join.yaml
  on "$1" run_join
}
if [ ${#control_planes[@]} -gt 1 ]; then
  phase control-planes
  for host in "${control_planes[@]:1}"; do join "$host" control-plane; done
  phase api-server
  on "$first" restart_api_server "${ip[$first]}"
fi
if [ ${#workers[@]} -gt 0 ]; then
  phase workers
  all join "${workers[@]}"
fi

phase network
kubectl="kubectl --kubeconfig=/etc/kubernetes/admin.conf"
list="$kubectl get nodes -o jsonpath='{range .items[*]}{.metadata.name}={.spec.podCIDR}@{.status.addresses[?(@.type==\"InternalIP\")].address}{\"\\n\"}{end}'"
for _ in {1..120}; do
  mapfile -t peers < <(ask "$first" "$list")
  [ ${#peers[@]} = ${#nodes[@]} ] && [[ "${peers[*]}" != *=@* ]] && break
  sleep 0.5
done
connect() { on "$1" connect_pods "$1" "$pods" "${peers[@]}"; }
all connect "${nodes[@]}"

phase healthy
on "$first" wait_healthy "${#control_planes[@]}" "${#nodes[@]}" 300

phase join-secrets
ask "$first" "$kubectl -n kube-system delete secret --field-selector type=bootstrap.kubernetes.io/token;
  $kubectl -n kube-system delete secret kubeadm-certs --ignore-not-found" >>"$first.log"
clean_up() { ask "$1" "rm -rf /root/bare"; }
all clean_up "${nodes[@]}"
phase end
