//! Single values: numbers in a range, names, durations, addresses.

use super::{Checker, Keyed, suggestion};
use crate::config::keys::{Key, Table};
use dataplane::snapshot::Network;
use hickory_proto::rr::Name;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;

impl Checker<'_> {
    /// A whole number in `range`, or `None` and an error with `remedy`.
    pub(super) fn number(
        &mut self,
        value: &Spanned<i64>,
        key: &str,
        range: Range<i64>,
        remedy: &str,
    ) -> Option<i64> {
        let number = *value.get_ref();
        if number < range.start {
            self.error(value.span(), key, format!("{number} is below {}; {remedy}", range.start));
            return None;
        }
        if number >= range.end {
            self.error(value.span(), key, format!("{number} is above {}; {remedy}", range.end - 1));
            return None;
        }
        Some(number)
    }

    /// Refuses keys of a table that those of its type do not have.
    pub(super) fn refuse_keys(
        &mut self,
        what: &str,
        kind: &str,
        table: &impl Keyed,
        key: &impl Fn(&str) -> String,
    ) {
        for (Key { name, only, .. }, place) in table.places() {
            if !only.is_empty() && !only.contains(&kind) {
                let message =
                    format!("a {what} of type {kind} has no {name} ({}); remove it", only.join(", "));
                self.error(place, &key(name), message);
            }
        }
    }

    pub(super) fn check_name(&mut self, value: &Spanned<String>, key: &str) {
        let name = value.get_ref();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 63 || !name.chars().all(allowed) {
            self.error(
                value.span(),
                key,
                format!("`{name}` is not a name; use 1 to 63 letters, digits, `-`, `_` and `.`"),
            );
        }
    }

    pub(super) fn duration(
        &mut self,
        value: &Spanned<String>,
        key: &str,
        range: Range<Duration>,
    ) -> Option<Duration> {
        let text = value.get_ref();
        let Some(duration) = parse_duration(text) else {
            self.error(
                value.span(),
                key,
                format!("`{text}` is not a duration; write a number and ms, s, m or h, as \"2s\""),
            );
            return None;
        };
        if duration < range.start || duration > range.end {
            let message = format!(
                "{text} is out of range; use {} ms to {} s",
                range.start.as_millis(),
                range.end.as_secs()
            );
            self.error(value.span(), key, message);
            return None;
        }
        Some(duration)
    }

    /// A name that can be asked for (RFC 1035 §3.1).
    pub(super) fn check_dns_name(&mut self, value: &Spanned<String>, key: &str) {
        let text = value.get_ref();
        let is_plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        if !is_plain || Name::from_str(text).is_err() {
            let message = format!("{text:?} cannot be asked for; write a name as www.example.com");
            self.error(value.span(), key, message);
        }
    }

    pub(super) fn network(&mut self, value: &Spanned<String>, key: &str) -> Option<Network> {
        value.get_ref().parse().map_err(|message: String| self.error(value.span(), key, message)).ok()
    }

    pub(super) fn address(&mut self, value: &Spanned<String>, key: &str) -> Option<IpAddr> {
        let text = value.get_ref();
        let address = text.parse().ok();
        if address.is_none() {
            let message = format!(
                "`{text}` is not an address; write it as 10.0.0.200 or 2001:db8::200, without a prefix"
            );
            self.error(value.span(), key, message);
        }
        address
    }

    /// An address with a port, or without one; IPv6 in brackets where a port follows.
    pub(super) fn endpoint(&mut self, value: &Spanned<String>, key: &str) -> Option<(IpAddr, Option<u16>)> {
        let text = value.get_ref();
        let socket = text.parse::<SocketAddr>().map(|socket| (socket.ip(), Some(socket.port())));
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let endpoint = socket.or_else(|_| bare.parse::<IpAddr>().map(|address| (address, None)));
        match endpoint {
            Ok((_, Some(0))) => {
                self.error(value.span(), key, format!("`{text}` has port 0; name a port from 1 to 65535"));
                None
            }
            Ok(endpoint) => Some(endpoint),
            Err(_) => {
                let message =
                    format!("`{text}` is not ADDRESS:PORT; write it as 192.0.2.10:80 or [2001:db8::10]:80");
                self.error(value.span(), key, message);
                None
            }
        }
    }
}

/// What is wrong with a word that a key does not know, and what was probably meant.
pub(super) fn unknown(word: &str, table: &Table, key: &str) -> String {
    format!("`{word}` is unknown; {}", suggestion(word, &table.words(key)))
}

/// A duration as `2s`; `None` for anything else.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        _ => None,
    }
}

pub(super) fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, len: usize| part.len() == len && part.chars().all(|c| c.is_ascii_hexdigit());
    let (domain, rest) = match text.split(':').count() {
        3 => text.split_once(':').unwrap_or(("", text)),
        _ => ("0000", text),
    };
    let Some((bus, rest)) = rest.split_once(':') else { return false };
    let Some((device, function)) = rest.split_once('.') else { return false };
    hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1)
}
