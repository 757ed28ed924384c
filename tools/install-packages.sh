#!/bin/sh
# Installs the Debian packages that the demo and the tests need, if any is missing. Needs root only then.
#
# Called by the Makefile. Services of the installed packages are not started: the lab and the tests start their
# own Open vSwitch and etcd, private to them.
set -eu

PACKAGES="openvswitch-switch etcd-server etcd-client iptables iproute2 ethtool conntrack tcpdump gcc libc6-dev
python3-venv python3-dev procps iputils-ping nginx openssl rpm rpmlint lintian"

missing=""
for package in $PACKAGES; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "install-packages: missing Debian packages:$missing; run this once as root" >&2
    exit 1
fi

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT INT TERM
fi
log=$(mktemp)
echo "installing Debian packages:$missing" >&2
if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; } \
    >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "install-packages: apt-get failed; the lines above say why (whole log: $log)" >&2
    exit 1
fi
rm -f "$log"
