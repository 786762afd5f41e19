#!/bin/busybox sh
# The guest's first process: mounts what programs expect, loads what DPDK needs, then runs each line that comes in on
# a line of its own to the host, and says its exit status.
/bin/busybox --install -s /usr/bin
# DPDK takes no drivers from a folder that anybody may write to.
/usr/bin/chmod 755 / /usr /usr/lib
export PATH=/usr/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm /dev/hugepages
mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs shm /dev/shm
mount -t hugetlbfs -o pagesize=2M none /dev/hugepages
ip link set lo up
modprobe tun
modprobe vfio_iommu_type1
modprobe vfio-pci
modprobe virtio_pci
modprobe virtio_console
while ! grep -q shell /sys/class/virtio-ports/*/name 2>/dev/null; do sleep 0.1; done
port=/dev/$(basename $(dirname $(grep -l shell /sys/class/virtio-ports/*/name)))
echo "guest is up"
# A read ends at once as long as nobody is at the other end.
while :; do
    while IFS= read -r line; do
        sh -c "$line" </dev/null 2>&1
        echo "@@status=$?"
    done <>$port >&0
    sleep 0.1
done
