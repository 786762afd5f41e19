//! Neighbours whose station addresses the file tells.

use super::topology::{connected_port, is_link_local, is_own};
use super::{Checker, PortSpec, raw};
use dataplane::ids::PortId;
use dataplane::snapshot::NextHop;
use dataplane::wire::Mac;
use std::collections::BTreeMap;
use toml::Spanned;

impl Checker<'_> {
    /// Where each of these neighbours is.
    pub(super) fn neighbors(
        &mut self,
        list: &[Spanned<raw::Neighbor>],
        ports: &[PortSpec],
    ) -> BTreeMap<NextHop, Mac> {
        let mut neighbors = BTreeMap::new();
        for (at, entry) in list.iter().enumerate() {
            let raw = entry.get_ref();
            let key = |name: &str| format!("neighbor[{at}].{name}");
            let Some(address) = self.address(&raw.address, &key("address")) else { continue };
            let Ok(named) = self.named_port(raw.port.as_ref(), &key("port"), ports) else { continue };
            let found = if is_link_local(address) { named } else { connected_port(ports, address).or(named) };
            let Some(port) = found else {
                let message =
                    format!("{address} is on no port's network; say on which link it is: port = \"NAME\"");
                self.error(raw.address.span(), &key("address"), message);
                continue;
            };
            if is_own(ports, address) {
                let message = format!("{address} is the appliance's own; name a neighbour");
                self.error(raw.address.span(), &key("address"), message);
            }
            if let Some(named) = named.filter(|named| *named != port) {
                let message = format!(
                    "{address} is on the network of port {}, not of {}; name that port, or none",
                    ports[port].name, ports[named].name
                );
                self.error(raw.address.span(), &key("port"), message);
            }
            let Some(mac) = parse_mac(raw.mac.get_ref()) else {
                let message =
                    format!("`{}` is no station address; write it as 02:00:5e:10:00:01", raw.mac.get_ref());
                self.error(raw.mac.span(), &key("mac"), message);
                continue;
            };
            let hop = NextHop { port: PortId(port as u16), address };
            if neighbors.insert(hop, mac).is_some() {
                let message = format!("{address} is named above already; remove one of the two");
                self.error(raw.address.span(), &key("address"), message);
            }
        }
        neighbors
    }
}

/// A unicast station address of six octets.
fn parse_mac(text: &str) -> Option<Mac> {
    let octets: Vec<_> = text.split([':', '-']).map(|octet| u8::from_str_radix(octet, 16)).collect();
    let all_have_two = text.split([':', '-']).all(|octet| octet.len() == 2 && !octet.starts_with('+'));
    let mac: Mac = octets.into_iter().collect::<Result<Vec<_>, _>>().ok()?.try_into().ok()?;
    (all_have_two && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn station_addresses_are_six_octets_of_one_station() {
        assert_eq!(parse_mac("02:00:5e:10:00:01"), Some([2, 0, 0x5e, 0x10, 0, 1]));
        assert_eq!(parse_mac("02-00-5E-10-00-01"), Some([2, 0, 0x5e, 0x10, 0, 1]));
        for wrong in [
            "",
            "2:0:5e:10:0:1",
            "02:00:5e:10:00",
            "01:00:5e:10:00:01",
            "00:00:00:00:00:00",
            "02:00:5e:10:00:01:02",
            "+2:00:5e:10:00:01",
        ] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }
}
