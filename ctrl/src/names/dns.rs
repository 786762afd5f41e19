//! Answers to questions about the zone (RFC 1035; RFC 2308 for what is not there; RFC 7871 for the client's network).

use super::{ANSWERS_MAX, Table};
use crate::config::NamesSpec;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::net::IpAddr;

/// The largest datagram that is announced (DNS flag day 2020).
const PAYLOAD: u16 = 1_232;

/// The zone that is answered for.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    /// Its name.
    origin: Name,
    /// How long answers may be kept, in seconds.
    pub(super) ttl: u32,
}

impl Zone {
    /// The zone that the operator wants.
    pub fn of(spec: &NamesSpec) -> Self {
        // The configuration was checked.
        let mut origin = Name::from_utf8(&spec.zone).unwrap_or_default().to_lowercase();
        origin.set_fqdn(true);
        Self { origin, ttl: spec.ttl.as_secs() as u32 }
    }

    /// The answer to a message; `None` for what is no question.
    pub(super) fn answer(
        &self,
        bytes: &[u8],
        client: IpAddr,
        table: &Table,
        draw: impl FnMut() -> f64,
    ) -> Option<Vec<u8>> {
        let Ok(question) = Message::from_vec(bytes) else { return refusal(bytes) };
        if question.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.add_queries(question.queries.clone());
        let mut client = client;
        if let Some(edns) = &question.edns {
            let mut ours = Edns::new();
            ours.set_max_payload(PAYLOAD).set_version(0);
            if edns.version() > 0 {
                // RFC 6891 §6.1.3: the version that is spoken here, and nothing else.
                answer.set_edns(ours);
                answer.metadata.response_code = ResponseCode::BADVERS;
                return answer.to_vec().ok();
            }
            if let Some(EdnsOption::Subnet(subnet)) = edns.option(EdnsCode::Subnet) {
                if !is_valid(subnet) || !fits(bytes, subnet.source_prefix()) {
                    answer.set_edns(ours);
                    answer.metadata.response_code = ResponseCode::FormErr;
                    return answer.to_vec().ok();
                }
                client = subnet.addr();
                let prefix = subnet.source_prefix();
                ours.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(client, prefix, prefix)));
            }
            answer.set_edns(ours);
        }
        answer.metadata.response_code = match (question.metadata.op_code, &question.queries[..]) {
            (OpCode::Query, [query]) if query.query_class() == DNSClass::IN => {
                self.fill(&mut answer, query.name(), query.query_type(), client, table, draw)
            }
            (OpCode::Query, _) => ResponseCode::FormErr,
            _ => ResponseCode::NotImp,
        };
        answer.to_vec().ok()
    }

    /// What is answered to a question about the zone; the name's records are put into `answer`.
    fn fill(
        &self,
        answer: &mut Message,
        name: &Name,
        kind: RecordType,
        client: IpAddr,
        table: &Table,
        draw: impl FnMut() -> f64,
    ) -> ResponseCode {
        if !self.origin.zone_of(name) {
            return ResponseCode::Refused;
        }
        answer.metadata.authoritative = true;
        let soa = || Record::from_rdata(self.origin.clone(), self.ttl, RData::SOA(self.soa(table.serial)));
        let server = || self.origin.prepend_label("ns").unwrap_or_else(|_| self.origin.clone());
        let mut add = |data: RData| {
            answer.add_answer(Record::from_rdata(name.clone(), self.ttl, data));
        };
        if *name == self.origin {
            match kind {
                RecordType::SOA => add(RData::SOA(self.soa(table.serial))),
                RecordType::NS => add(RData::NS(NS(server()))),
                _ => {
                    answer.add_authority(soa());
                }
            }
            return ResponseCode::NoError;
        }
        let below = usize::from(name.num_labels()).saturating_sub(usize::from(self.origin.num_labels()));
        let label = name.iter().next().map(|label| String::from_utf8_lossy(label).into_owned());
        let found = label.filter(|_| below == 1).and_then(|label| table.resolve(&label, client, draw));
        let Some(resolved) = found else {
            answer.add_authority(soa());
            return ResponseCode::NXDomain;
        };
        let data = |address: IpAddr| match (address, kind) {
            (IpAddr::V4(address), RecordType::A | RecordType::ANY) => Some(RData::A(A(address))),
            (IpAddr::V6(address), RecordType::AAAA | RecordType::ANY) => Some(RData::AAAA(AAAA(address))),
            _ => None,
        };
        let mut addresses: Vec<_> = Vec::new();
        for one in resolved {
            // A host with several ports is one address.
            if !addresses.contains(&one.address) {
                addresses.push(one.address);
            }
        }
        addresses.into_iter().filter_map(data).take(ANSWERS_MAX).for_each(&mut add);
        if answer.answers.is_empty() {
            answer.add_authority(soa());
        }
        ResponseCode::NoError
    }

    fn soa(&self, serial: u32) -> SOA {
        let server = self.origin.prepend_label("ns").unwrap_or_else(|_| self.origin.clone());
        let person = self.origin.prepend_label("hostmaster").unwrap_or_else(|_| self.origin.clone());
        let ttl = self.ttl as i32;
        SOA::new(server, person, serial, ttl, ttl, ttl, self.ttl)
    }
}

/// The answer to a question that cannot be read: two OPT records, say (RFC 6891 §6.1.1), or a client subnet that is too
/// long (RFC 7871 §7.1.2). Nothing for what is no question.
fn refusal(bytes: &[u8]) -> Option<Vec<u8>> {
    const LEN: usize = 12;
    const IS_RESPONSE: u8 = 0x80;
    const OPCODE_AND_RECURSION: u8 = 0x79;
    let header = bytes.first_chunk::<LEN>()?;
    if header[2] & IS_RESPONSE != 0 {
        return None;
    }
    /// An OPT record (RFC 6891 §6.1.2): root, type 41, the payload that is taken, version 0, no options.
    const OPT: [u8; 11] = {
        let [high, low] = PAYLOAD.to_be_bytes();
        [0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]
    };
    let mut answer = vec![0; LEN];
    answer[..2].copy_from_slice(&header[..2]);
    answer[2] = IS_RESPONSE | header[2] & OPCODE_AND_RECURSION;
    answer[3] = ResponseCode::FormErr.low();
    // What came last cannot be read, and where there is anything it most likely was an OPT.
    if header[10..] != [0, 0] {
        answer[11] = 1;
        answer.extend(OPT);
    }
    Some(answer)
}

/// Whether a question's client subnet is one (RFC 7871 §6, §7.1.2): without a scope, and without bits behind its prefix.
fn is_valid(subnet: &ClientSubnet) -> bool {
    let (bits, width) = match subnet.addr() {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let prefix = u32::from(subnet.source_prefix());
    subnet.scope_prefix() == 0 && prefix <= width && bits.checked_shl(prefix).unwrap_or(0) == 0
}

/// Whether the address of a question's client subnet has as many bytes as its prefix needs, and no more (RFC 7871 §6).
/// The library that reads messages passes over what is behind them.
fn fits(message: &[u8], prefix: u8) -> bool {
    subnet_len(message).is_none_or(|len| len == 4 + usize::from(prefix).div_ceil(8))
}

/// The bytes of the client subnet option of a message that is a question and an OPT record.
fn subnet_len(message: &[u8]) -> Option<usize> {
    const HEADER: usize = 12;
    const SUBNET: u16 = 8;
    let word = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    if (word(4)?, word(6)?, word(8)?, word(10)?) != (1, 0, 0, 1) {
        return None;
    }
    let mut at = HEADER;
    while *message.get(at)? != 0 {
        at += 1 + usize::from(*message.get(at)?);
    }
    // The name's end, type and class; then the root, type, payload, code, version, flags and length of the record.
    at += 5 + 11;
    loop {
        let (code, len) = (word(at)?, usize::from(word(at + 2)?));
        if code == SUBNET {
            return Some(len);
        }
        at += 4 + len;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{table, target};
    use super::*;
    use crate::health::Health;
    use hickory_proto::op::Query;
    use std::str::FromStr;

    fn zone() -> Zone {
        Zone { origin: Name::from_str("lb.example.").unwrap(), ttl: 5 }
    }

    fn ask(name: &str, kind: RecordType, subnet: Option<&str>) -> Message {
        let table = table(vec![target(1, "a", Health::Up, 1.0), target(2, "b", Health::Up, 1.0)]);
        let mut question = Message::new(77, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_str(name).unwrap(), kind));
        if let Some(subnet) = subnet {
            let mut edns = Edns::new();
            let subnet = ClientSubnet::new(subnet.parse().unwrap(), 24, 0);
            edns.options_mut().insert(EdnsOption::Subnet(subnet));
            question.set_edns(edns);
        }
        let bytes = question.to_vec().unwrap();
        let client = "10.1.9.9".parse().unwrap();
        Message::from_vec(&zone().answer(&bytes, client, &table, || 0.5).unwrap()).unwrap()
    }

    fn addresses(message: &Message) -> Vec<String> {
        message.answers.iter().map(|record| record.data.to_string()).collect()
    }

    #[test]
    fn a_service_is_a_name_whose_addresses_are_near_the_client() {
        let answer = ask("Web.LB.example.", RecordType::A, None);
        assert_eq!(addresses(&answer), ["10.0.0.1"]);
        assert!(answer.metadata.authoritative && answer.metadata.id == 77);
        assert_eq!(answer.answers[0].ttl, 5);
        let elsewhere = ask("web.lb.example.", RecordType::A, Some("10.1.2.0"));
        assert_eq!(addresses(&elsewhere), ["10.0.0.2"], "the client's network and not the resolver's");
        let edns = elsewhere.edns.unwrap();
        let Some(EdnsOption::Subnet(subnet)) = edns.option(EdnsCode::Subnet) else { panic!("{edns:?}") };
        assert_eq!((subnet.source_prefix(), subnet.scope_prefix()), (24, 24));
    }

    #[test]
    fn what_is_not_there_is_said_so() {
        let code = |name: &str, kind| {
            let answer = ask(name, kind, None);
            (answer.metadata.response_code, answer.answers.len(), answer.authorities.len())
        };
        assert_eq!(code("none.lb.example.", RecordType::A), (ResponseCode::NXDomain, 0, 1));
        assert_eq!(code("x.web.lb.example.", RecordType::A), (ResponseCode::NXDomain, 0, 1));
        assert_eq!(code("web.lb.example.", RecordType::AAAA), (ResponseCode::NoError, 0, 1));
        assert_eq!(code("example.", RecordType::A), (ResponseCode::Refused, 0, 0));
        assert_eq!(code("lb.example.", RecordType::SOA), (ResponseCode::NoError, 1, 0));
        assert_eq!(code("lb.example.", RecordType::NS), (ResponseCode::NoError, 1, 0));
    }

    /// A question for the service, with these bytes instead of its OPT records, of which there are `count`.
    fn raw(count: u8, additional: &[u8]) -> Vec<u8> {
        let name = b"\x03web\x02lb\x07example\0\0\x01\0\x01";
        [&[0, 77, 1, 0, 0, 1, 0, 0, 0, 0, 0, count][..], name, additional].concat()
    }

    #[test]
    fn edns_that_is_not_as_it_should_be_is_told_so() {
        let table = table(vec![target(1, "a", Health::Up, 1.0)]);
        let answer = |count: u8, additional: &[u8]| {
            let bytes = zone().answer(&raw(count, additional), "10.1.9.9".parse().unwrap(), &table, || 0.5);
            Message::from_vec(&bytes.unwrap()).unwrap()
        };
        let opt = |version: u8, data: &[u8]| {
            [&[0, 0, 41, 4, 208, 0, version, 0, 0, 0, data.len() as u8][..], data].concat()
        };
        let code = |count, additional: &[u8]| answer(count, additional).metadata.response_code;
        assert_eq!(code(1, &opt(0, &[])), ResponseCode::NoError);
        // RFC 6891 §6.1.3: the version that is spoken here comes back.
        let newer = answer(1, &opt(1, &[]));
        // 16 is BADVERS where there is no signature.
        assert_eq!((u16::from(newer.metadata.response_code), newer.answers.len()), (16, 0));
        assert_eq!(newer.edns.unwrap().version(), 0);
        // §6.1.1: one OPT at most.
        let twice = answer(2, &[opt(0, &[]), opt(0, &[])].concat());
        assert_eq!(twice.metadata.response_code, ResponseCode::FormErr);
        assert_eq!(twice.edns.unwrap().version(), 0, "EDNS is spoken here all the same");
        // RFC 7871 §6, §7.1.2: family, prefix, scope, address.
        let subnet = |prefix: u8, scope: u8, address: &[u8]| {
            let len = 4 + address.len() as u8;
            opt(0, &[&[0, 8, 0, len, 0, 1, prefix, scope][..], address].concat())
        };
        assert_eq!(code(1, &subnet(24, 0, &[10, 1, 2])), ResponseCode::NoError);
        assert_eq!(code(1, &subnet(24, 24, &[10, 1, 2])), ResponseCode::FormErr, "a scope in a question");
        assert_eq!(code(1, &subnet(20, 0, &[10, 1, 0xff])), ResponseCode::FormErr, "bits behind the prefix");
        assert_eq!(code(1, &subnet(33, 0, &[10, 1, 2, 3, 4])), ResponseCode::FormErr, "a prefix too long");
        assert_eq!(code(1, &subnet(24, 0, &[10, 1])), ResponseCode::FormErr, "an address too short");
        assert_eq!(code(1, &subnet(16, 0, &[10, 1, 2])), ResponseCode::FormErr, "an address too long");
    }

    #[test]
    fn rubbish_gets_no_answer() {
        let table = table(Vec::new());
        let client = "10.1.9.9".parse().unwrap();
        for bytes in [&b""[..], b"x", &[0; 12][..11], &[0xff; 40]] {
            assert_eq!(zone().answer(bytes, client, &table, || 0.5), None);
        }
    }
}
