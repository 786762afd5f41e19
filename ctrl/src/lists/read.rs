//! What a file of prefixes says: plain text, FireHOL's netsets, `ipset save`, Spamhaus' lists.

use dataplane::prefixes::Builder;
use dataplane::snapshot::Network;
use serde::Deserialize;
use std::net::IpAddr;

/// Adds what stands in a text. Each line has one of
///
/// * a prefix, an address, or a range of addresses `FIRST-LAST`, and behind `#` or `;` a comment;
/// * `create NAME hash:ip ...` or `hash:net`, and `add NAME PREFIX ...`, as `ipset save` writes them;
/// * an object of JSON with a `cidr`; one without is about the list.
///
/// # Errors
/// The number of a line that is none of them, and what is wrong with it.
pub fn read(text: &str, builder: &mut Builder) -> Result<(), (usize, String)> {
    for (at, line) in text.lines().enumerate() {
        read_line(line, builder).map_err(|problem| (at + 1, problem))?;
    }
    Ok(())
}

fn read_line(line: &str, builder: &mut Builder) -> Result<(), String> {
    let line = line.strip_prefix('\u{feff}').unwrap_or(line).trim();
    let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
    let Some(first) = words.next() else { return Ok(()) };
    match first.as_bytes()[0] {
        b'#' | b';' => return Ok(()),
        b'{' => {
            #[derive(Deserialize)]
            struct Entry {
                cidr: Option<String>,
            }
            let entry: Entry =
                serde_json::from_str(line).map_err(|error| format!("this is no object of JSON: {error}"))?;
            return entry.cidr.map_or(Ok(()), |cidr| add(&cidr, builder));
        }
        _ => {}
    }
    match first {
        "create" => match words.nth(1) {
            Some("hash:ip" | "hash:net") => Ok(()),
            Some(kind) => Err(format!("a set of {kind} is no list of addresses; hash:ip and hash:net are")),
            None => Err("`create` names no set and no type".into()),
        },
        "add" => {
            let prefix = words.nth(1).ok_or("`add` names no set and no address")?;
            // A quoted comment may have the word.
            if words.take_while(|word| *word != "comment").any(|word| word == "nomatch") {
                return Err(format!(
                    "{prefix} is an exception (nomatch); put it into a list of action \"allow\" before this one"
                ));
            }
            add(prefix, builder)
        }
        _ => {
            let bare = first.split(['#', ';']).next().unwrap_or_default();
            match words.next() {
                Some(word) if !word.starts_with(['#', ';']) && bare == first => {
                    Err(format!("`{word}` stands behind {first}; a comment begins with #"))
                }
                _ => add(bare, builder),
            }
        }
    }
}

fn add(text: &str, builder: &mut Builder) -> Result<(), String> {
    if let Some(network) = network(text) {
        builder.add(network);
        return Ok(());
    }
    let range = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.parse::<IpAddr>().ok()?, last.parse::<IpAddr>().ok()?)));
    match range {
        Some((first, last)) if builder.add_range(first, last) => Ok(()),
        _ => Err(format!("`{}` is no prefix, address or range", text.chars().take(64).collect::<String>())),
    }
}

/// A prefix, or an address for one of itself; bits behind the prefix do not matter.
pub fn network(text: &str) -> Option<Network> {
    match text.contains('/') {
        true => text.parse().ok(),
        false => text.parse().ok().map(Network::host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Result<dataplane::prefixes::Prefixes, (usize, String)> {
        let mut builder = Builder::default();
        read(text, &mut builder)?;
        Ok(builder.build())
    }

    #[test]
    fn files_that_people_have_are_read() {
        let text = "\u{feff}# firehol_level1\n\
            ; Spamhaus DROP List\r\n\
            1.10.16.0/20 ; SBL256894\n\
            192.0.2.7#x\n\
            \n\
            198.51.100.1-198.51.100.9\n\
            create bad hash:net family inet hashsize 16384 maxelem 1000000 timeout 0 bucketsize 12 initval 0xd4\n\
            add bad 203.0.113.0/24 timeout 300 packets 0 bytes 0 comment \"not a nomatch\"\n\
            {\"cidr\":\"5.188.10.0/23\",\"sblid\":\"SBL402809\",\"rir\":\"ripencc\"}\n\
            {\"type\":\"metadata\",\"timestamp\":1700000000}\n\
            \t2001:db8::/32\t# v6\n\
            2001:db9::1-2001:db9::ff";
        let set = set(text).unwrap();
        assert_eq!(set.counts(), [5, 2]);
        for (address, is_in) in [
            ("1.10.31.255", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("198.51.100.9", true),
            ("198.51.100.10", false),
            ("203.0.113.77", true),
            ("5.188.11.1", true),
            ("2001:db8:ffff::1", true),
            ("2001:db9::80", true),
            ("2001:db9::100", false),
        ] {
            assert_eq!(set.contains(address.parse().unwrap()), is_in, "{address}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused_with_its_line() {
        for (text, line, problem) in [
            ("192.0.2.1\n192.0.2.0/33", 2, "`192.0.2.0/33` is no prefix, address or range"),
            ("<html>", 1, "`<html>` is no prefix"),
            ("192.0.2.1 192.0.2.2", 1, "`192.0.2.2` stands behind 192.0.2.1"),
            ("create bad hash:ip,port family inet", 1, "a set of hash:ip,port is no list"),
            ("add bad", 1, "`add` names no set"),
            ("add bad 192.0.2.1 nomatch", 1, "is an exception"),
            ("{\"cidr\":3}", 1, "this is no object"),
            ("192.0.2.9-192.0.2.1", 1, "is no prefix, address or range"),
            ("192.0.2.9-2001:db8::1", 1, "is no prefix, address or range"),
        ] {
            let (at, said) = set(text).unwrap_err();
            assert!(at == line && said.contains(problem), "{at}: {said}");
        }
    }

    #[test]
    fn a_million_lines_are_a_set_in_a_second() {
        use std::fmt::Write;
        let mut text = String::new();
        for n in 0..1_000_000_u32 {
            let _ = writeln!(text, "{}", std::net::Ipv4Addr::from_bits(n.wrapping_mul(2_654_435_761)));
        }
        let set = set(&text).unwrap();
        assert_eq!(set.counts(), [1_000_000, 0]);
    }
}
