//! Reading a configuration again: what stands there as it stood before is not read a second time.
//!
//! Of ten thousand services few differ from one reading to the next. Where each is a block of lines of its own, a
//! block that is as before is the service that it was; the others alone are parsed and checked, and then it is looked
//! at what all cannot have together. Whatever is wrong or unusual leads to the whole reading, which explains it. A
//! property test holds the two to each other.

use super::check::{self, Block};
use super::read;
use super::{LoadError, Loaded, ServiceSpec, Text, parse_text};
use hashbrown::{HashMap, HashSet};
use memchr::memmem;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

const SERVICE: &str = "[[service]]";

/// Reads a file, and remembers what it said.
#[derive(Debug)]
pub struct Reader {
    last: Loaded,
    /// Where its services stand, if each is a block of its own.
    blocks: Option<Vec<Range<usize>>>,
}

impl Reader {
    /// One that remembers this.
    pub fn of(loaded: &Loaded) -> Self {
        Self { blocks: blocks(loaded.text.whole()), last: loaded.clone() }
    }

    /// Reads and checks the file at `path`, with its fragments.
    ///
    /// # Errors
    /// With every problem found, as [`load`](super::load) does.
    pub fn load(&mut self, path: &Path) -> Result<Loaded, LoadError> {
        self.read(Text::read(path)?)
    }

    fn read(&mut self, text: Text) -> Result<Loaded, LoadError> {
        let text = Arc::new(text);
        let blocks = blocks(text.whole());
        let again = blocks.as_ref().and_then(|blocks| self.read_again(&text, blocks));
        self.last = match again {
            Some(loaded) => loaded,
            None => parse_text(Arc::unwrap_or_clone(text))?,
        };
        self.blocks = blocks;
        Ok(self.last.clone())
    }

    /// What `text` says, if it is good and its services can be told apart.
    fn read_again(&self, text: &Arc<Text>, blocks: &[Range<usize>]) -> Option<Loaded> {
        let known = self.known()?;
        let mut services = Vec::with_capacity(blocks.len());
        for place in blocks {
            let block = &text.whole()[place.clone()];
            services.push(match known.get(block) {
                Some(spec) => Block::Same(Arc::clone(spec)),
                None => Block::Other(place.start, Box::new(read::read_part(block)?)),
            });
        }
        // With a service behind it, so that a head that has services of its own in whatever way is found out.
        let head = format!("{}\n{SERVICE}\nname = \"x\"\n", &text.whole()[..blocks.first()?.start]);
        let head = read::read_part(&head).filter(|head| head.service.len() == 1)?;
        let (config, warnings) = check::check_again(&head, services, text, &self.last.config)?;
        Some(Loaded { config, warnings, text: Arc::clone(text) })
    }

    /// The services of what was read before, by their lines. One that there was a warning about, or that depends on
    /// more than its lines, is not among them.
    fn known(&self) -> Option<HashMap<&str, &Arc<ServiceSpec>>> {
        let Loaded { config, warnings, text } = &self.last;
        let (blocks, services) = (self.blocks.as_ref()?, &config.services);
        let warned: HashSet<usize> = warnings.iter().filter_map(|problem| service_of(&problem.key)).collect();
        let is_plain = |at: &usize| !warned.contains(at) && !services[*at].looks_elsewhere();
        (blocks.len() == services.len()).then(|| {
            let plain = (0..services.len()).filter(is_plain);
            plain.map(|at| (&text.whole()[blocks[at].clone()], &services[at])).collect()
        })
    }
}

/// The place of the service that a key such as `service[3].server` is of.
fn service_of(key: &str) -> Option<usize> {
    key.strip_prefix("service[")?.split(']').next()?.parse().ok()
}

/// Where each service's lines are, without the comments behind it; `None` unless all that follows the first one is
/// services, a block each. Texts of several lines may have anything in them, so where there is one nothing is said.
pub(crate) fn blocks(text: &str) -> Option<Vec<Range<usize>>> {
    if [&b"\"\"\""[..], b"'''"].iter().any(|quotes| memmem::find(text.as_bytes(), quotes).is_some()) {
        return None;
    }
    let mut blocks: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let bare = line.strip_suffix("\r\n").or(line.strip_suffix('\n')).unwrap_or(line);
        // What TOML takes for space, and nothing else.
        let words = bare.trim_start_matches([' ', '\t']);
        let is_header = words.starts_with('[');
        if words.starts_with(SERVICE) {
            blocks.push(start..at);
        } else if let Some(block) = blocks.last_mut() {
            if is_header && !words.starts_with("[service.") && !words.starts_with("[[service.") {
                return None;
            }
            if words.starts_with('#') {
                // No comment may have these, so no file that is good has them.
                if words.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
                    return None;
                }
            } else if !words.is_empty() {
                block.end = at;
            }
        }
    }
    Some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADS: [&str; 4] = [
        "[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\naddresses = [\"192.0.2.2/24\"]\n[location]\nzone = \"a\"\n",
        // Only what services do not depend on differs; and a warning.
        "[dataplane]\nworkers = [1, 1]\n[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\naddresses = [\"192.0.2.2/24\"]\n",
        // What services depend on differs.
        "[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\naddresses = [\"192.0.2.2/25\"]\n[timeouts]\nudp = \"9s\"\n",
        // A list that cannot be continued.
        "service = []\n[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\naddresses = [\"192.0.2.2/24\"]\n",
    ];

    /// What may stand in a service, good and bad.
    const LINES: [&str; 23] = [
        "[[service.server]]\naddress = \"192.0.2.30:80\"\n",
        "[[service.server]]\naddress = \"192.0.2.30:80\"\nweight = 7\n",
        "[[service.server]]\naddress = \"192.0.2.30:80\"\nzone = \"a\"\n",
        // Warnings: no server, none with a weight.
        "",
        "[[service.server]]\naddress = \"192.0.2.31:80\"\nweight = 0\n",
        "[[service.server]]\naddress = \"192.0.2.32:80\"\n[service.health]\ntype = \"http\"\npath = \"/a\"\n",
        "[[service.server]]\naddress = \"192.0.2.33:80\"\n[service.discover]\ntype = \"dns\"\nname = \"a.example\"\nresolver = \"192.0.2.53\"\n",
        "server = [\n  { address = \"192.0.2.34:80\" },\n]\n",
        "# [[service]]\n  [[service.server]] # [[service]]\n  address = '192.0.2.35:80'\n",
        "[service.health]\ntype = \"tcp\"\nsend = \"\"\"\n[[service]]\n\"\"\"\n[[service.server]]\naddress = \"192.0.2.36:80\"\n",
        // Errors of one service, and of two together.
        "[[service.server]]\naddress = \"192.0.2.30:80\"\nwieght = 7\n",
        "[[service.server]]\naddress = \"192.0.2.30:80\"\nweight = -7\n",
        "[[service.server]]\naddress = \"192.0.2.200:80\"\n",
        "[[service.server]]\naddress = \"192.0.2.103:80\"\n",
        "[service.health]\ntype = \"https\"\nca_file = \"/nowhere\"\n",
        "x = [\n",
        "x = [\n[1]]\n",
        "[[service.server]]\naddress = \"192.0.2.30:80\"\n[timeouts]\nudp = \"8s\"\n",
        "[[service.server]]\naddress = \"192.0.2.30:80\"\n[[ service ]]\nname = \"odd\"\nlisten = \"192.0.2.99:80\"\nlocal_addresses = [\"192.0.2.200\"]\n",
        "[[service.server]]\naddress = \"192.0.2.30:80\"\n[names]\nzone = \"z\"\nlisten = [\"192.0.2.2:53\"]\n",
        "[[service.server]]\naddress = \"192.0.2.30:80\"\n# \u{1}\n",
        "[[service.server]]\naddress = \"192.0.2.30:80\"\n\u{a0}\n",
        "[[service.server]]\r\naddress = \"192.0.2.30:80\"\r\n# \r\n",
    ];

    fn text(head: usize, services: &[(u8, usize)]) -> Text {
        let mut text = HEADS[head].to_owned();
        for (number, lines) in services {
            let listen = format!("192.0.2.{}:80", 100 + number);
            text += &format!(
                "\n# number {number}\n[[service]]\nname = \"s{number}\"\nlisten = \"{listen}\"\nlocal_addresses = [\"192.0.2.200\"]\n{}",
                LINES[*lines]
            );
        }
        Text::of(Path::new("again.toml"), &text)
    }

    fn said(read: Result<Loaded, LoadError>) -> Result<(super::super::Config, Vec<String>), Vec<String>> {
        let lines = |problems: &[super::super::Problem]| problems.iter().map(ToString::to_string).collect();
        read.map(|loaded| (loaded.config, lines(&loaded.warnings))).map_err(|error| lines(error.problems()))
    }

    #[test]
    fn what_is_read_again_is_what_is_read_the_first_time() {
        // Bad lines are rarer, so that much is good.
        let lines = || prop_oneof![9 => 0..8usize, 1 => 8..LINES.len()];
        let service = || (0..5u8, lines());
        let services = || {
            prop_oneof![
                3 => prop::collection::vec(lines(), 0..4).prop_map(|list| (0..).zip(list).collect()),
                1 => prop::collection::vec(service(), 0..4),
            ]
        };
        let head = || prop_oneof![9 => 0..2usize, 1 => 2..HEADS.len()];
        proptest!(ProptestConfig::with_cases(600), |(texts in prop::collection::vec((head(), services()), 1..6))| {
            let start = text(0, &[(0, 0)]);
            let mut reader = Reader::of(&parse_text(start).unwrap());
            for (head, services) in texts {
                let services: Vec<(u8, usize)> = services;
                let text = text(head, &services);
                prop_assert_eq!(said(reader.read(text.clone())), said(parse_text(text)));
            }
        });
    }

    #[test]
    fn only_what_changed_is_read() {
        let first = parse_text(text(0, &[(0, 0), (1, 1), (2, 3)])).unwrap();
        let again = |text: Text| {
            let blocks = blocks(text.whole()).unwrap();
            Reader::of(&first).read_again(&Arc::new(text), &blocks)
        };
        // Another order, another service, another head; the one that was warned about is looked at again.
        let second = again(text(1, &[(1, 1), (0, 2), (2, 3)])).unwrap();

        let is_same = |one: usize, other: usize| {
            Arc::ptr_eq(&first.config.services[one], &second.config.services[other])
        };
        assert!(is_same(1, 0) && !is_same(0, 1) && !is_same(2, 2));
        assert_eq!(second.warnings.len(), 2, "{:?}", second.warnings);
        // Services that depend on something else are not taken over.
        assert!(again(text(2, &[(0, 0)])).is_none());
    }
}
