"""What kubeadm reset leaves on a host, and its removal; POSIX sh, run as root, safe to repeat."""

from __future__ import annotations

from kops_py.tools import bridge, etcd_restore

_CLEAR = """\
# The pod network: configurations that no package owns, what the address plugin reserved, our own routes.
for file in /etc/cni/net.d/* /etc/cni/net.d/.[!.]*; do
  [ -e "$file" ] || continue
  dpkg-query -S "$file" >/dev/null 2>&1 || rpm -qf "$file" >/dev/null 2>&1 || rm -rf -- "$file"
done
rm -rf /var/lib/cni/networks /var/lib/cni/results /var/lib/cni/cache
{bridge}
# What kube-proxy, the port mapping plugin and we put into the packet filter; rules of others stay.
clear() {{
  command -v "$1-save" >/dev/null 2>&1 && command -v "$1-restore" >/dev/null 2>&1 || return 0
  rules="$("$1-save" 2>/dev/null)" || return 0
  printf '%s\\n' "$rules" | grep -qE '{ours}' || return 0
  printf '%s\\n' "$rules" | grep -vE '{ours}' | "$1-restore" -w 5
}}
for program in iptables ip6tables; do
  clear "$program"
  clear "$program-nft"
done
# only if they are in use: asking would load their modules
if grep -q . /proc/net/ip_tables_names 2>/dev/null; then clear iptables-legacy; fi
if grep -q . /proc/net/ip6_tables_names 2>/dev/null; then clear ip6tables-legacy; fi
if ip link show kube-ipvs0 >/dev/null 2>&1; then
  ip link delete kube-ipvs0
  if command -v ipvsadm >/dev/null 2>&1; then ipvsadm --clear; fi
fi
if command -v nft >/dev/null 2>&1; then
  for family in ip ip6; do nft delete table "$family" kube-proxy 2>/dev/null || true; done
fi
# Keys, and copies of etcd's data that kubeadm upgrade made.
rm -rf /etc/kubernetes/tmp /etc/kubernetes/pki /etc/kubernetes/manifests
for name in admin super-admin kubelet bootstrap-kubelet controller-manager scheduler; do
  rm -f "/etc/kubernetes/$name.conf"
done
# Of a restore that was not brought to its end: a snapshot, and marks of what this host no longer is.
rm -rf {restore}
rm -f /etc/kops-py/kubeadm-init.yaml /etc/kops-py/kubeadm-join.yaml /etc/kops-py/upload-certs.yaml
"""

OURS = "KUBE-|CNI-(DN|SN|HOSTPORT)|:CNI-|CNI-[0-9a-f]{24}|--comment kops-py"
"""Extended regular expression of the lines of iptables-save that Kubernetes, its port mapping or we wrote."""

_LEFT = """\
if systemctl is-active --quiet kubelet; then echo "the kubelet runs"; fi
for path in /etc/kubernetes/*.conf /etc/kubernetes/pki /etc/kubernetes/manifests/* /var/lib/etcd/member \
    /var/lib/kubelet/config.yaml /var/lib/kubelet/pki; do
  if [ -e "$path" ]; then echo "$path"; fi
done
if grep -q ' /var/lib/kubelet/' /proc/mounts; then echo "file systems mounted below /var/lib/kubelet"; fi
if [ -n "$(crictl pods -q --state Ready 2>/dev/null)" ]; then echo "pods that still run"; fi
"""


def clear_script() -> str:
    """Return the script that removes what kubeadm reset says it does not: network, packet filter, keys, copies."""
    return "set -eu\n" + _CLEAR.format(bridge=bridge.clear_script(), ours=OURS, restore=etcd_restore.ROOT)


def left_script() -> str:
    """Return the script that names, one a line, what still makes the host a member of a cluster."""
    return _LEFT
