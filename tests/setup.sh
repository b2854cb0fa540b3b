#!/bin/sh
# Makes the virtual environment $1 from the lock, and installs the Debian packages that tests and demo use.
# Without root or apt it says what is missing and goes on: tests that need it are then skipped with a reason.
set -eu
venv=$1
python=${PYTHON:-python3}

# command it brings | package
wanted="
debootstrap debootstrap
iptables iptables
ebtables ebtables
ip iproute2
/usr/sbin/sshd openssh-server
ssh openssh-client
ssh-agent openssh-client
gpg gnupg
dpkg-source dpkg-dev
curl curl
ps procps
haproxy haproxy
depmod kmod
busybox busybox
ruby ruby
update-ca-certificates ca-certificates
mkfs.ext4 e2fsprogs
age age
zstd zstd
"
# dpkg and most of these live in sbin, which the PATH of su, cron and users leaves out
PATH="$PATH:/usr/sbin:/sbin"
export PATH
missing=$(echo "$wanted" | while read -r tool package; do
  [ -n "$tool" ] || continue
  command -v "$tool" >/dev/null 2>&1 || echo "$package"
done | sort -u | tr '\n' ' ')
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
if [ -n "${missing# }" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing Debian packages: $missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update
    # no service of a test tool is to start on this machine
    policy=/usr/sbin/policy-rc.d
    made_policy=
    if [ ! -e "$policy" ]; then
      printf '#!/bin/sh\nexit 101\n' >"$policy"
      chmod 0755 "$policy"
      made_policy=yes
    fi
    # shellcheck disable=SC2086
    apt-get -qy install --no-install-recommends $missing && status=0 || status=$?
    [ -z "$made_policy" ] || rm -f "$policy"
    [ "$status" = 0 ] || exit "$status"
  else
    echo "missing, and not root to install: $missing (tests that need them will be skipped)" >&2
  fi
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "Python 3.11 or newer is needed; $python is $("$python" -V). Set PYTHON=..." >&2
  exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --require-hashes -r requirements.lock
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --editable .
echo "ready: $("$venv/bin/kops-py" --version)"
