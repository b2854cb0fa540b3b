"""The one shell script that looks at a host.

It is POSIX sh (dash and busybox run it), changes nothing, needs no Python, and prints one section per question. A
section that fails leaves its exit status; the others go on. Everything that could hang has its own time limit.
Arguments: a nonce that marks section borders (so that no file's content can), the endpoint's host name, and the
Python interpreter the inventory names or "".
"""

from __future__ import annotations

DISK_PATHS = ("/", "/etc", "/var", "/var/lib/containerd", "/var/lib/etcd", "/var/lib/kubelet")

PACKAGES = (
    "kubeadm",
    "kubelet",
    "kubectl",
    "containerd",
    "containerd.io",
    "cri-tools",
    "kubernetes-cni",
    "runc",
    "haproxy",
)

UNITS = (
    "containerd.service",
    "kubelet.service",
    "docker.service",
    "crio.service",
    "firewalld.service",
    "ufw.service",
    "nftables.service",
    "haproxy.service",
    "etcd.service",
    "unattended-upgrades.service",
    "apt-daily-upgrade.timer",
    "dnf-automatic.timer",
    "dnf-automatic-install.timer",
    "chrony.service",
    "chronyd.service",
    "systemd-timesyncd.service",
    "ntp.service",
    "ntpd.service",
    "ntpsec.service",
    "openntpd.service",
)

FEATURES = (
    "overlay",
    "br_netfilter",
    "bridge",
    "nf_conntrack",
    "nf_tables",
    "ip_tables",
    "ip6_tables",
    "ip_set",
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_wrr",
    "ip_vs_sh",
    "veth",
    "vxlan",
    "wireguard",
)

SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv6.conf.all.forwarding",
    "net.ipv6.conf.all.disable_ipv6",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
    "net.netfilter.nf_conntrack_max",
    "vm.overcommit_memory",
    "vm.max_map_count",
    "kernel.panic",
    "kernel.panic_on_oops",
    "fs.inotify.max_user_instances",
    "fs.inotify.max_user_watches",
)

LEFTOVERS = (
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/super-admin.conf",
    "/etc/kubernetes/kubelet.conf",
    "/etc/kubernetes/bootstrap-kubelet.conf",
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/scheduler.conf",
    "/etc/kubernetes/pki/ca.crt",
    "/etc/kubernetes/manifests/etcd.yaml",
    "/etc/kubernetes/manifests/kube-apiserver.yaml",
    "/etc/kubernetes/manifests/kube-controller-manager.yaml",
    "/etc/kubernetes/manifests/kube-scheduler.yaml",
    "/var/lib/etcd/member",
    "/var/lib/kubelet/config.yaml",
    "/var/lib/rancher/k3s",
    "/var/lib/rancher/rke2",
    "/var/lib/k0s",
    "/var/snap/microk8s",
)

_BODY = r"""
export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
mark=$1 endpoint=$2 python=$3
if command -v timeout >/dev/null 2>&1; then limit() { timeout "$@"; }; else limit() { shift; "$@"; }; fi
section() { printf '%s begin %s\n' "$mark" "$1"; "s_$1" 2>/dev/null; printf '\n%s end %s\n' "$mark" "$?"; }

s_clock() { date +%s.%N; }
s_user() { id -u; }
s_os() { cat /etc/os-release || cat /usr/lib/os-release; }
s_uname() { uname -m; uname -r; }
s_boot_id() { cat /proc/sys/kernel/random/boot_id; }
s_python() {
    for p in "$python" python3 /usr/bin/python3 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do
        [ -n "$p" ] && command -v "$p" >/dev/null || continue
        limit 5 "$p" -I -S -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' && command -v "$p" && return 0
    done
    return 1
}
s_cpus() { nproc || getconf _NPROCESSORS_ONLN || grep -c ^processor /proc/cpuinfo; }
s_meminfo() { cat /proc/meminfo; }
s_disks() {
    for path in @DISK_PATHS@; do
        at=$path
        while [ ! -e "$at" ]; do at=${at%/*}; [ -n "$at" ] || at=/; done
        limit 3 df -P -k "$at" | { read -r _; read -r _ size _ free _ mount && echo "$path $size $free $mount"; }
    done
}
s_hostname() { cat /proc/sys/kernel/hostname || hostname; }
s_machine_id() { cat /etc/machine-id; }
s_product_uuid() { cat /sys/class/dmi/id/product_uuid; }
s_links() {
    for link in /sys/class/net/*; do
        kind=virtual; [ -e "$link/device" ] && kind=device
        read -r mac <"$link/address" && echo "${link##*/} $mac $kind"
    done
}
s_addresses() { ip -o addr show; }
s_routes() { ip -o -4 route show table main; ip -o -6 route show table main; }
s_swaps() { cat /proc/swaps; }
s_fstab() { cat /etc/fstab; }
s_ss() { ss -Hltnp || ss -ltnp; }
s_proc_tcp() { grep -h ' 0A ' /proc/net/tcp /proc/net/tcp6; }
s_cgroup() {
    stat -f -c %T /sys/fs/cgroup
    while read -r _ at type _; do if [ "$at" = /sys/fs/cgroup ]; then echo "$type"; fi; done </proc/mounts
}
s_features() {
    # One process for all of them where possible: hosts may be small, and there may be hundreds on one machine.
    release=$(uname -r)
    filesystems=" $(tr '\n\t' '  ' </proc/filesystems) "
    builtin=$(cat "/lib/modules/$release/modules.builtin")
    for f in @FEATURES@; do
        sign=/sys/module/$f
        case $f in
            br_netfilter) sign=/proc/sys/net/bridge/bridge-nf-call-iptables ;;
            nf_conntrack) sign=/proc/sys/net/netfilter/nf_conntrack_max ;;
            ip_tables) sign=/proc/net/ip_tables_names ;;
            ip6_tables) sign=/proc/net/ip6_tables_names ;;
            ip_vs) sign=/proc/net/ip_vs ;;
        esac
        if [ -e "/sys/module/$f" ] || [ -e "$sign" ]; then echo "$f"; continue; fi
        case $filesystems in *" $f "*) echo "$f"; continue ;; esac
        case $builtin in *"/$f.ko"*) echo "$f"; continue ;; esac
        if limit 3 modprobe -n -q "$f" >/dev/null; then echo "$f"; continue; fi
        case $f in
            overlay) config=OVERLAY_FS ;;
            br_netfilter) config=BRIDGE_NETFILTER ;;
            ip_tables) config=IP_NF_IPTABLES ;;
            ip6_tables) config=IP6_NF_IPTABLES ;;
            *) config=$(echo "$f" | tr '[:lower:]' '[:upper:]') ;;
        esac
        if grep -qs "^CONFIG_$config=y" "/boot/config-$release" \
            || { [ -e /proc/config.gz ] && zcat /proc/config.gz | grep -q "^CONFIG_$config=y"; }; then
            echo "$f"
        fi
    done
}
# Not with read: dash reads byte by byte, and the kernel answers a number only to the first read.
s_sysctls() { grep -Hs . @SYSCTLS@; }
s_dpkg() { dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n' @PACKAGES@; }
s_rpm() { rpm -q --qf 'installed %{NAME} %{VERSION}-%{RELEASE}\n' @PACKAGES@; }
s_dpkg_selections() { dpkg --get-selections | grep -w 'hold$'; }
s_versionlock() {
    cat /etc/dnf/plugins/versionlock.list /etc/yum/pluginconf.d/versionlock.list /etc/dnf/versionlock.toml
}
s_dnf_excludes() {
    grep -hE '^[[:space:]]*exclude(pkgs)?[[:space:]]*=' /etc/dnf/dnf.conf /etc/yum.repos.d/kubernetes*.repo
}
s_units() {
    set -- @UNITS@
    limit 5 systemctl is-active "$@" | while read -r state; do echo "$1 $state"; shift; done
}
s_containerd() { limit 5 containerd --version; }
s_prepared() { cat /etc/kops-py/prepared.json; }
s_load_balancer() { cat /etc/kops-py/load-balancer.json; }
# Certificates only, and only those whose key is there.
certificate() {
    [ -s "$2" ] && { [ -z "$3" ] || [ -s "$3" ]; } || return 0
    echo "### $1"
    sed -n '/^-----BEGIN CERTIFICATE-----/,/^-----END CERTIFICATE-----/p' "$2"
}
s_etcd() { cat /etc/kops-py/etcd.json; }
s_etcd_pki() { cat /etc/kops-py/etcd-pki.json; }
s_etcd_certificates() {
    certificate ca /etc/etcd/pki/ca.crt ""
    for name in server peer healthcheck-client; do
        certificate "$name" "/etc/etcd/pki/$name.crt" "/etc/etcd/pki/$name.key"
    done
}
s_etcd_client() {
    pki=/etc/kubernetes/pki
    certificate ca $pki/etcd/ca.crt ""
    certificate client $pki/apiserver-etcd-client.crt $pki/apiserver-etcd-client.key
}
s_out_of_balancer() { ls -A1 /run/kops-py/out-of-balancer; }
s_staged() { cat /etc/kops-py/staged.json; }
s_removed() { cat /etc/kops-py/removed.json; }
s_static_images() { grep -HE '^ +(- )?image: ' /etc/kubernetes/manifests/*.yaml; }
s_manifests() { ls -A1 /etc/kubernetes/manifests; }
s_leftovers() { for path in @LEFTOVERS@; do [ -e "$path" ] && echo "$path"; done; }
s_ca_digest() { [ -e /etc/kubernetes/pki/ca.crt ] && sha256sum </etc/kubernetes/pki/ca.crt; }
s_cni() { ls -A1 /etc/cni/net.d; }
s_bridge_peers() { cat /etc/kops-py/bridge-peers; }
s_jobs() {
    for job in /var/lib/kops-py/jobs/*/; do
        [ -d "$job" ] || continue
        job=${job%/} name=${job%/} && name=${name##*/}
        # Asked before rc is read: a job that ends in between has its rc by then.
        active=$(limit 5 systemctl is-active "kops-py-$name.service")
        rc=; [ -e "$job/rc" ] && read -r rc <"$job/rc"
        echo "$name ${active:-unknown} ${rc:--}"
    done
}
s_sockets() {
    for s in containerd:/run/containerd/containerd.sock docker:/run/docker.sock cri-dockerd:/run/cri-dockerd.sock \
        crio:/run/crio/crio.sock; do
        [ -S "${s#*:}" ] && echo "${s%%:*}"
    done
}
# Names only: a value may be anything.
s_kubelet_flags() {
    for f in /var/lib/kubelet/kubeadm-flags.env /etc/default/kubelet /etc/sysconfig/kubelet \
        /etc/systemd/system/kubelet.service.d/*.conf; do
        [ -f "$f" ] || continue
        grep -v '^[[:space:]]*#' "$f" | grep -oE "(^|[[:space:]=\"'])--[a-z0-9-]+" | while read -r flag; do
            echo "$f ${flag##*--}"
        done
    done
}
s_etcd_data() { [ -d /var/lib/etcd ] && limit 5 du -sk /var/lib/etcd; }
s_selinux() { cat /sys/fs/selinux/enforce; }
s_apparmor() { cat /sys/module/apparmor/parameters/enabled; command -v apparmor_parser; }
s_proxies() {
    sed -n 's/^ *\(export *\)\{0,1\}\([A-Za-z]*_[Pp][Rr][Oo][Xx][Yy]\)=.*/\2/p' /etc/environment
}
s_endpoint() { [ -n "$endpoint" ] && limit 4 getent ahosts "$endpoint"; }
s_own_name() { limit 4 getent ahosts "$(cat /proc/sys/kernel/hostname)"; }

main() {
    for name in @SECTIONS@; do section "$name"; done
    printf '%s finished\n' "$mark"
}
main </dev/null
"""

SECTIONS = (
    "clock",
    "user",
    "os",
    "uname",
    "boot_id",
    "python",
    "cpus",
    "meminfo",
    "disks",
    "hostname",
    "machine_id",
    "product_uuid",
    "links",
    "addresses",
    "routes",
    "swaps",
    "fstab",
    "ss",
    "proc_tcp",
    "cgroup",
    "features",
    "sysctls",
    "dpkg",
    "rpm",
    "dpkg_selections",
    "versionlock",
    "dnf_excludes",
    "units",
    "containerd",
    "prepared",
    "load_balancer",
    "etcd",
    "etcd_pki",
    "etcd_certificates",
    "etcd_client",
    "out_of_balancer",
    "staged",
    "removed",
    "static_images",
    "manifests",
    "leftovers",
    "ca_digest",
    "cni",
    "bridge_peers",
    "jobs",
    "sockets",
    "kubelet_flags",
    "etcd_data",
    "selinux",
    "apparmor",
    "proxies",
    "endpoint",
    "own_name",
)


def script() -> str:
    """Return the script; it is run as ``sh -s -- NONCE ENDPOINT PYTHON`` with itself on standard input."""
    text = _BODY
    for name, words in (
        ("DISK_PATHS", DISK_PATHS),
        ("FEATURES", FEATURES),
        ("SYSCTLS", tuple(f"/proc/sys/{key.replace('.', '/')}" for key in SYSCTLS)),
        ("PACKAGES", PACKAGES),
        ("UNITS", UNITS),
        ("LEFTOVERS", LEFTOVERS),
        ("SECTIONS", SECTIONS),
    ):
        text = text.replace(f"@{name}@", " ".join(words))
    return text
