#!/bin/sh
# Install what Sluice's build, demo and tests need, on Debian 12/13 or Ubuntu 24.04.
#
# Looks first and asks apt only for what is missing, so a second run is instant
# and a machine without network works once the packages are there.
#   install-deps.sh build   what compiling the daemon needs
#   install-deps.sh lab     also what `make demo`, `make lab` and `make test` run
#   install-deps.sh bench   also testpmd, which `make bench` compares with
set -eu

want="build-essential pkg-config libdpdk-dev libclang-dev"
case "${1:-lab}" in
    build) ;;
    bench) want="$want dpdk-dev valgrind" ;;
    lab) want="$want valgrind iproute2 iputils-ping ethtool procps curl wrk nginx iperf3 dnsmasq-base dnsperf bind9-dnsutils socat haproxy traceroute tcpdump nftables openssl util-linux etcd-server etcd-client libusrsctp-examples bird2 openssh-server openssh-client systemd" ;;
    *) echo "usage: $0 [build|lab|bench]" >&2; exit 2 ;;
esac

missing=""
for package in $want; do
    state=$(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true)
    case "$state" in ii*) ;; *) missing="$missing $package" ;; esac
done
[ -z "$missing" ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "missing packages:$missing" >&2
    echo "run as root: apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
# A package must not start a service of its own: the labs start what they need.
policy=/usr/sbin/policy-rc.d
made_policy=no
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
    made_policy=yes
fi
trap '[ "$made_policy" = yes ] && rm -f "$policy"' EXIT
# A mirror that answers late or a package that fails once must not end a build.
for attempt in 1 2 3; do
    # shellcheck disable=SC2086 # a list of package names
    if apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null; then
        exit 0
    fi
    echo "apt-get failed (attempt $attempt of 3)" >&2
    dpkg --configure -a || true
done
echo "could not install:$missing" >&2
exit 1
