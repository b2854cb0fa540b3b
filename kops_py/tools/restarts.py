"""Whether a host wants a restart: one shell function, for the look before a patch and for the check after its updates.

What the system says itself is not enough: minimal Debian has nothing that writes /run/reboot-required, and minimal
RHEL has no needs-restarting. So the kernels in /boot are looked at as well.
"""

from __future__ import annotations

import shlex

# Kernels are put in order as rpm and GRUB do it: a number is newer than a letter (427.el9 < 427.13.1.el9_4), where
# sort -V has it the other way about. Nothing is said of a system that runs a kernel from elsewhere (a container, one
# that a hypervisor boots, a build of somebody's own). Neither is it of a kernel that was there when the system started:
# the system has chosen another one (a pin in GRUB, another flavour) and would choose it again, at every patch.
_NEWER_KERNEL = """\
newer_kernel_waits() {
  kernels=$(
    for file in "$1"/vmlinuz-*; do
      name=${file#"$1"/vmlinuz-}
      case "$name" in *rescue* | *.dpkg-* | *.rpmsave | *.rpmnew | *.old | *.bak) continue ;; esac
      if [ -f "$file" ]; then printf '%s\\n' "$name"; fi
    done
  )
  printf '%s\\n' "$kernels" | grep -qxF -e "$2" || return 1
  newest=$(printf '%s\\n' "$kernels" | sed 'h; s/\\.\\([A-Za-z]\\)/~\\1/g; G; s/\\n/ /' | sort -V -k 1,1 | tail -n 1)
  newest=${newest#* }
  [ "$newest" != "$2" ] && [ "$(stat -L -c %Z "$1/vmlinuz-$newest")" -gt "${3:-0}" ]
}
"""

_NEEDED = """\
restart_needed() {{
  {asked} ||
    newer_kernel_waits {root}/boot "$(uname -r)" "$(sed -n 's/^btime //p' {root}/proc/stat)"
}}
"""

_ASKED = {
    "debian": "[ -e {root}/run/reboot-required ]",
    "redhat": "{{ command -v needs-restarting >/dev/null && ! needs-restarting -r >/dev/null 2>&1; }}",
}


def restart_function(family: str, *, root: str = "") -> str:
    """Return the shell function ``restart_needed``; it looks below the folder ``root``. Raises ValueError."""
    if family not in _ASKED:
        raise ValueError(f"how a host asks for a restart is not known for {family!r}")
    quoted = shlex.quote(root) if root else ""
    return _NEWER_KERNEL + _NEEDED.format(asked=_ASKED[family].format(root=quoted), root=quoted)


def restart_needed_script(family: str, *, root: str = "") -> str:
    """Return the script that ends with 0 when the host wants a restart, else with 1. Raises ValueError."""
    return f"{restart_function(family, root=root)}export LC_ALL=C\nrestart_needed || exit 1\n"
