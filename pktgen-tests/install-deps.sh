#!/bin/sh
# Install what Sluice's build, demo and tests need, on Debian 12/13 or Ubuntu 24.04.
#
# Looks first and asks apt only for what is missing, so a second run is instant
# and a machine without network works once the packages are there.
#   install-deps.sh build   what compiling the daemon needs
#   install-deps.sh lab     also what `make demo`, `make lab` and `make test` run
#   install-deps.sh bench   also testpmd, which `make bench` compares with
#   install-deps.sh nics    also a virtual machine with emulated NICs: QEMU, and a kernel in target/nics
set -eu

cd "$(dirname "$0")/.."
kernel=target/nics/kernel

# Whether QEMU knows the newest of the NICs that are emulated; Debian 12's own is too old.
has_igb() {
    command -v qemu-system-x86_64 >/dev/null && qemu-system-x86_64 -device help 2>/dev/null | grep -q '"igb"'
}

# Whether the guest's kernel is there, with all modules that this version of the lab loads.
has_kernel() {
    [ -e "$kernel/vmlinuz" ] && [ -n "$(find "$kernel/" -name 'pktgen.ko*' 2>/dev/null)" ]
}

# The distribution's QEMU, if it is new enough, else that of Debian's backports.
install_qemu() {
    version=$(apt-cache policy qemu-system-x86 | sed -n 's/ *Candidate: *\([0-9]*:\)\{0,1\}\([0-9]*\).*/\2/p')
    if [ "${version:-0}" -ge 8 ]; then
        apt-get install -y -qq --no-install-recommends qemu-system-x86 qemu-system-data seabios >/dev/null
    elif [ "$(. /etc/os-release && echo "$ID")" = debian ]; then
        install_backported_qemu
    else
        echo "QEMU 8.0 or newer is needed; this distribution has ${version:-none}" >&2
        return 1
    fi
}

# QEMU of Debian's backports, from a list of sources of which the machine keeps nothing.
install_backported_qemu() {
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")-backports
    lists=$(mktemp -d)
    mkdir -p "$lists/sources" "$lists/state/partial"
    cp /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list "$lists/sources/" 2>/dev/null || true
    [ -s /etc/apt/sources.list ] && cp /etc/apt/sources.list "$lists/sources/system.list"
    echo "deb http://deb.debian.org/debian $suite main" > "$lists/sources/backports.list"
    set -- -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$lists/sources" -o Dir::State::Lists="$lists/state"
    status=0
    apt-get "$@" update -qq && apt-get "$@" install -y -qq --no-install-recommends -t "$suite" \
        qemu-system-x86 qemu-system-data seabios >/dev/null || status=$?
    rm -rf "$lists"
    return $status
}

# A kernel of the distribution and the modules that the guest loads; none of it is installed.
unpack_kernel() {
    packages=$(apt-cache depends linux-image-amd64 linux-image-generic 2>/dev/null |
        sed -n 's/.*Depends: \(linux-\(image\|modules\)-[0-9][^ ]*\)$/\1/p' | sort -u)
    [ -n "$packages" ] || { echo "apt knows no kernel package" >&2; return 1; }
    rm -rf "$kernel"
    mkdir -p "$kernel/packages"
    # shellcheck disable=SC2086 # a list of package names
    (cd "$kernel/packages" && apt-get download -qq $packages 2>/dev/null)
    for package in "$kernel"/packages/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar x -C "$kernel" --wildcards --no-anchored 'vmlinuz*' 'modules.*' \
            'virt/*' 'drivers/vfio/*' 'drivers/virtio/*' 'drivers/uio/*' 'drivers/i2c/*' 'drivers/dca/*' 'drivers/ptp/*' \
            'drivers/pps/*' 'drivers/net/veth.*' 'net/8021q/*' 'net/802/*' 'net/llc/*' 'drivers/char/virtio_console*' 'drivers/net/tun.*' 'drivers/net/net_failover.*' \
            'drivers/net/virtio_net.*' 'drivers/net/vmxnet3/*' 'drivers/net/ethernet/intel/*' 'net/core/failover.*' 'net/core/pktgen.*' 2>/dev/null || true
    done
    rm -rf "$kernel/packages"
    mv "$kernel"/boot/vmlinuz* "$kernel/vmlinuz"
    # Debian 13's modules are below usr/lib, where lib points on a machine; the image and depmod look in lib.
    [ -e "$kernel/lib" ] || ln -s usr/lib "$kernel/lib"
}

want="build-essential pkg-config libdpdk-dev libclang-dev"
case "${1:-lab}" in
    build) ;;
    bench) want="$want dpdk-dev valgrind" ;;
    lab) want="$want valgrind iproute2 iputils-ping ethtool procps curl wrk nginx iperf3 dnsmasq-base dnsperf bind9-dnsutils socat haproxy traceroute tcpdump nftables openssl util-linux etcd-server etcd-client prometheus python3-prometheus-client libusrsctp-examples bird2 openssh-server openssh-client systemd" ;;
    nics) want="$want iproute2 iputils-ping ethtool procps curl nginx socat busybox-static kmod" ;;
    *) echo "usage: $0 [build|lab|bench|nics]" >&2; exit 2 ;;
esac

# Ubuntu has Chromium as a snap only: the page is not tried there.
if [ "${1:-lab}" = lab ] && ! grep -q '^ID=ubuntu' /etc/os-release; then
    want="$want chromium fonts-dejavu-core"
fi

missing=""
for package in $want; do
    state=$(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true)
    case "$state" in ii*) ;; *) missing="$missing $package" ;; esac
done
if [ "${1:-lab}" = nics ]; then
    has_igb || missing="$missing qemu-system-x86"
    has_kernel || missing="$missing a-kernel-in-$kernel"
fi
[ -z "$missing" ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "missing:$missing" >&2
    echo "run as root: sh pktgen-tests/install-deps.sh ${1:-lab}" >&2
    exit 1
fi
echo "installing:$missing"
packages=$(echo "$missing" | sed 's/ a-kernel-in-[^ ]*//; s/ qemu-system-x86//')
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

install_missing() {
    apt-get update -qq || return 1
    if [ -n "$packages" ]; then
        # shellcheck disable=SC2086 # a list of package names
        apt-get install -y -qq --no-install-recommends $packages >/dev/null || return 1
    fi
    if [ "${1:-lab}" = nics ]; then
        has_igb || install_qemu || return 1
        has_kernel || unpack_kernel || return 1
    fi
}

# A mirror that answers late or a package that fails once must not end a build.
for attempt in 1 2 3; do
    if install_missing "${1:-lab}"; then
        exit 0
    fi
    echo "apt-get failed (attempt $attempt of 3)" >&2
    dpkg --configure -a || true
done
echo "could not install:$missing" >&2
exit 1
