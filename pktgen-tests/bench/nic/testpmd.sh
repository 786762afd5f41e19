#!/bin/sh
# On the generator's machine: testpmd floods the VIP with UDP and counts what comes back on the other
# port. It cannot answer ARP, so give Sluice's machine static entries for 192.0.2.1 and the servers, or
# use Pktgen or TRex. For the denominator run on Sluice's machine, instead of sluiced:
#   dpdk-testpmd -l 1,2 -a 0000:3b:00.0 -a 0000:3b:00.1 -- --forward-mode=io --burst=64 -a --stats-period 1
# Usage: testpmd.sh PCI-OF-WAN PCI-OF-LAN MAC-OF-SLUICE-WAN
set -eu
exec dpdk-testpmd -l 1,2 -a "$1" -a "$2" -- \
    --forward-mode=flowgen --flowgen-flows=1024 --eth-peer=0,"$3" \
    --tx-ip=192.0.2.1,192.0.2.10 --tx-udp=10000,80 --txpkts=60 --stats-period 1 --auto-start
