"""TRex stateless profile: 64-byte UDP to the VIP, a million flows in random order."""

from trex_stl_lib.api import *


class Sluice:
    def get_streams(self, direction=0, **kwargs):
        base = Ether() / IP(src="198.18.0.1", dst="192.0.2.10") / UDP(sport=10000, dport=80)
        packet = base / (b"\x5a" * (60 - len(base)))
        fields = STLVmFlowVarRepeatableRandom
        program = STLScVmRaw(
            [
                fields("client", min_value="198.18.0.1", max_value="198.18.255.254", size=4, limit=65534, seed=7),
                fields("port", min_value=10000, max_value=10015, size=2, limit=16, seed=11),
                STLVmWrFlowVar("client", pkt_offset="IP.src"),
                STLVmWrFlowVar("port", pkt_offset="UDP.sport"),
                STLVmFixChecksumHw(l3_offset="IP", l4_offset="UDP", l4_type=CTRexVmInsFixHwCs.L4_TYPE_UDP),
            ]
        )
        return [STLStream(packet=STLPktBuilder(pkt=packet, vm=program), mode=STLTXCont(pps=1000))]


def register():
    return Sluice()
