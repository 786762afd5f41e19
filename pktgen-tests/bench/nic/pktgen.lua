-- Pktgen-DPDK 22.x and later, on the generator's machine:
--   pktgen -l 1-3 -a WAN -a LAN -- -P -m "2.0,3.1" -f pktgen.lua
-- Port 0 faces Sluice's wan, port 1 its lan. 64-byte UDP from 65,536 client addresses, 16 ports each:
-- a million flows. Replace the station address by what `sluice port list` shows.
package.path = package.path .. ";?.lua;"
require "Pktgen"

local sluice_wan = "3c:fd:fe:00:00:01"

pktgen.set_mac("0", "dst", sluice_wan)
pktgen.process("all", "on") -- answers ARP
pktgen.range.dst_mac("0", "start", sluice_wan)
pktgen.range.src_ip("0", "start", "198.18.0.1")
pktgen.range.src_ip("0", "min", "198.18.0.1")
pktgen.range.src_ip("0", "max", "198.18.255.254")
pktgen.range.src_ip("0", "inc", "0.0.0.1")
pktgen.range.dst_ip("0", "start", "192.0.2.10")
pktgen.range.dst_ip("0", "inc", "0.0.0.0")
pktgen.range.ip_proto("0", "udp")
pktgen.range.src_port("0", "start", 10000)
pktgen.range.src_port("0", "min", 10000)
pktgen.range.src_port("0", "max", 10015)
pktgen.range.src_port("0", "inc", 1)
pktgen.range.dst_port("0", "start", 80)
pktgen.range.dst_port("0", "inc", 0)
pktgen.range.pkt_size("0", "start", 64)
pktgen.range.pkt_size("0", "inc", 0)
pktgen.set_range("0", "on")
pktgen.set("0", "rate", 100)
pktgen.start("0")
pktgen.delay(30000)
pktgen.stop("0")
prints("received", pktgen.portStats("1", "port"))
