//! Health checks, and what is done when servers are down.

use super::servers::Wanted;
use super::{Checker, Keyed, raw, unknown};
use crate::config::Rules;
use crate::config::health::{CheckKind, Way};
use crate::config::{HealthSpec, Http, LoadPlace, LoadSpec, PortSpec, Probe, ServerSpec};
use crate::config::{Policy, Weight};
use crate::files;
use crate::tls::Tls;
use dataplane::flow::{Protocol, Protocols};
use dataplane::session::ForwardMode;
use dataplane::snapshot::{ClientAddress, Network};
use dataplane::wire::ProxyVersion;
use hyper::header::{HeaderName, HeaderValue};
use std::io::Read;
use std::ops::{Range, RangeInclusive};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// Why a check cannot ask the VIP on a server.
fn no_way_to_vip(kind: CheckKind, wanted: &Wanted<'_>, ports: &[PortSpec]) -> Option<String> {
    if !matches!(wanted.mode, ForwardMode::DirectRoute | ForwardMode::Tunnel) {
        return Some(format!(
            "servers of a {} service do not have the VIP; remove this, which asks their own addresses",
            wanted.mode.name()
        ));
    }
    if kind.way() == Way::NoPort {
        let kind = kind.name();
        return Some(format!(
            "a check of type {kind} asks servers by their own addresses; use tcp, http, https, udp or dns, or remove this"
        ));
    }
    let network = wanted.listens.first()?.network;
    if !network.is_host() {
        return Some(format!("{network} has no one address to ask; list an address first, or remove this"));
    }
    let has_source = |port: &PortSpec| {
        let is_usable = |own: &Network| {
            own.address.is_ipv4() == network.address.is_ipv4()
                && !wanted.listens.iter().any(|listen| listen.network.contains(own.address))
        };
        port.kernel && port.addresses.iter().any(is_usable)
    };
    (!ports.iter().any(has_source)).then(|| {
        format!(
            "no port with a kernel path has an address of its own of the family of {}, from which it could be asked; give one to the port towards the servers",
            network.address
        )
    })
}

impl Checker<'_> {
    /// A server's share.
    pub(super) fn weight(&mut self, value: Option<&Spanned<raw::Number>>, key: &str) -> Option<Weight> {
        let Some(value) = value else { return Some(Weight::ONE) };
        let number = value.get_ref().0.unwrap_or(f64::NAN);
        let weight = Weight::new(number);
        if weight.is_none() {
            let message = match number {
                _ if number < 0.0 => format!("{number} is below 0; use 0 to take no new sessions"),
                _ if number > f64::from(Weight::MAX) => {
                    format!("{number} is above {}; use 0 to take no new sessions", Weight::MAX)
                }
                _ => "it is not a number; use 0 to take no new sessions".to_owned(),
            };
            self.error(value.span(), key, message);
        }
        weight
    }

    /// A number from 0 to 1.
    fn share(&mut self, value: Option<&Spanned<raw::Number>>, key: &str, usual: f64) -> f64 {
        let Some(value) = value else { return usual };
        match value.get_ref().0 {
            Some(number) if (0.0..=1.0).contains(&number) => number,
            _ => {
                self.error(value.span(), key, "it is a share; write a number from 0 to 1, as 0.3");
                usual
            }
        }
    }

    /// What is done when servers are down.
    pub(super) fn policy(&mut self, raw: &raw::Service, key: &impl Fn(&str) -> String) -> Policy {
        let usual = Policy::default();
        let is_off = raw.protect_threshold.as_ref().is_some_and(|value| value.get_ref().0.is_none());
        let threshold = match is_off {
            true => None,
            false => Some(self.share(raw.protect_threshold.as_ref(), &key("protect_threshold"), 0.0)),
        };
        let hysteresis = raw.protect_hysteresis.as_ref();
        let spill = self.share(raw.spill_below.as_ref(), &key("spill_below"), usual.spill_below);
        Policy {
            protect_threshold: threshold,
            protect_hysteresis: self.share(hysteresis, &key("protect_hysteresis"), usual.protect_hysteresis),
            // A tier that never passes anything on keeps all with its last server.
            spill_below: spill.max(0.001),
        }
    }

    /// A service's check.
    pub(super) fn health(
        &mut self,
        entry: &Spanned<raw::Health>,
        at: usize,
        servers: &[ServerSpec],
        wanted: &Wanted<'_>,
        service: (Option<Protocols>, Option<ClientAddress>),
        ports: &[PortSpec],
    ) -> Option<HealthSpec> {
        let raw = entry.get_ref();
        let key = |field: &str| format!("service[{at}].health.{field}");
        let word = raw.kind.get_ref().as_str();
        let Some(kind) = CheckKind::named(word) else {
            let message = unknown(word, &raw::Health::TABLE, "type");
            self.error(raw.kind.span(), &key("type"), message);
            return None;
        };
        self.refuse_keys("check", kind.name(), raw, &key);
        let interval = self.time(raw.interval.as_ref(), &key("interval"), Duration::from_secs(2));
        let timeout = self.time(raw.timeout.as_ref(), &key("timeout"), interval.min(Duration::from_secs(5)));
        if timeout > interval {
            let message = format!(
                "a server that is silent is asked again only when its time is over, after {} ms and not after {}; make it shorter than the interval",
                timeout.as_millis(),
                interval.as_millis()
            );
            let place = raw.timeout.as_ref().map_or(entry.span(), Spanned::span);
            self.warn(place, &key("timeout"), message);
        }
        let mut count = |value: Option<&Spanned<i64>>, field: &str, default: i64| match value {
            None => Some(default),
            Some(value) => {
                self.number(value, &key(field), raw::Health::TABLE.whole(field), "it counts answers in a row")
            }
        };
        let rise = count(raw.rise.as_ref(), "rise", 2);
        let fall = count(raw.fall.as_ref(), "fall", 3);
        let jitter = self.share(raw.jitter.as_ref(), &key("jitter"), 0.1);
        let initially_up = match raw.initial.as_ref().map(|value| (value, value.get_ref().as_str())) {
            None | Some((_, "down")) => false,
            Some((_, "up")) => true,
            Some((value, other)) => {
                let message = unknown(other, &raw::Health::TABLE, "initial");
                self.error(value.span(), &key("initial"), message);
                false
            }
        };
        let l4_port = match &raw.port {
            None => None,
            Some(value) => {
                let range = const { raw::Health::TABLE.whole("port") };
                Some(self.number(value, &key("port"), range, "it is a port")? as u16)
            }
        };
        if let (Some(value), Way::NoPort) = (&raw.port, kind.way()) {
            let message = format!("a check of type {word} asks no port; remove it");
            self.warn(value.span(), &key("port"), message);
        }
        let needs_port = kind.way() != Way::NoPort;
        if needs_port && l4_port.is_none() && servers.iter().any(|server| server.endpoint.l4_port == 0) {
            let message =
                "servers of this service have no port of their own; say which is checked: port = 80";
            self.error(entry.span(), &key("port"), message);
        }
        let at_vip = match raw.aim.as_ref().map(|value| (value, value.get_ref().as_str())) {
            None | Some((_, "server")) => false,
            Some((value, "vip")) => {
                if let Some(message) = no_way_to_vip(kind, wanted, ports) {
                    self.error(value.span(), &key("aim"), message);
                }
                true
            }
            Some((value, other)) => {
                let message = unknown(other, &raw::Health::TABLE, "aim");
                self.error(value.span(), &key("aim"), message);
                false
            }
        };
        let by_stream = kind.way() == Way::Stream;
        let elsewhere = service.0.filter(|protocols| !protocols.has(Protocol::Tcp) && l4_port.is_none());
        if let (true, Some(protocols)) = (by_stream, elsewhere) {
            let message = format!(
                "a check of type {word} asks the servers' TCP port of the same number, though the service is {protocols}; use udp or dns, or name another port"
            );
            self.warn(raw.kind.span(), &key("type"), message);
        }
        let proxy = self.check_proxy(raw, kind, service.1, l4_port.is_some(), &key);
        let load = self.load(raw, &key);
        let probe = self.probe(entry, kind, &key)?;
        Some(HealthSpec {
            probe,
            at_vip,
            l4_port,
            interval,
            timeout,
            rise: rise? as u32,
            fall: fall? as u32,
            jitter: (jitter * 1_000.0) as u32,
            initially_up,
            load,
            proxy,
        })
    }

    /// Whether a PROXY header stands before questions: where sessions have one, if the same port is asked.
    fn check_proxy(
        &mut self,
        raw: &raw::Health,
        kind: CheckKind,
        client_address: Option<ClientAddress>,
        has_port: bool,
        key: &impl Fn(&str) -> String,
    ) -> Option<ProxyVersion> {
        let version = match client_address {
            Some(ClientAddress::Proxy(proxy)) => Some(proxy.version),
            _ => None,
        };
        let by_datagram = kind.way() == Way::Datagram;
        match raw.proxy.as_ref().map(|value| (value, *value.get_ref())) {
            Some((value, true)) if version.is_none() => {
                let message = "servers of this service get no PROXY header: client_address = { type = \"proxy\" } says so; remove this";
                self.error(value.span(), &key("proxy"), message);
                None
            }
            Some((_, false)) => None,
            None if has_port => None,
            Some((_, true)) | None => version.filter(|version| !by_datagram || *version == ProxyVersion::Two),
        }
    }

    /// How servers tell their load.
    fn load(&mut self, raw: &raw::Health, key: &impl Fn(&str) -> String) -> Option<LoadSpec> {
        let place = match (&raw.load_header, &raw.load_field) {
            (Some(header), None) => {
                if HeaderName::from_bytes(header.get_ref().as_bytes()).is_err() {
                    let message = "no header has such a name; write it as X-Load";
                    self.error(header.span(), &key("load_header"), message);
                }
                Some(LoadPlace::Header(header.get_ref().to_ascii_lowercase()))
            }
            (None, Some(field)) => {
                let names: Vec<_> = field.get_ref().split('.').map(str::to_owned).collect();
                if names.iter().any(String::is_empty) {
                    let message =
                        "it names a number in the JSON of the answer's body, as \"load\" or \"cpu.load\"";
                    self.error(field.span(), &key("load_field"), message);
                }
                if raw.method.as_ref().is_some_and(|method| method.get_ref() == "HEAD") {
                    let message = "the answer to HEAD has no body; use GET, or load_header";
                    self.error(field.span(), &key("load_field"), message);
                }
                Some(LoadPlace::Field(names))
            }
            (Some(_), Some(field)) => {
                let message = "a server tells its load in one place; remove this or load_header";
                self.error(field.span(), &key("load_field"), message);
                None
            }
            (None, None) => None,
        };
        let limit = match raw.load_limit.as_ref().map(|value| (value, value.get_ref().0)) {
            None => 1_000,
            Some((_, Some(number))) if number > 0.0 && number < 1e6 => (number * 1_000.0) as u32,
            Some((value, _)) => {
                let message = "it is the load that is still good; write a number above 0, as 0.8";
                self.error(value.span(), &key("load_limit"), message);
                1_000
            }
        };
        if let (Some(value), None, None) = (&raw.load_limit, &raw.load_header, &raw.load_field) {
            let message = "nothing says where servers tell their load; add load_header or load_field";
            self.error(value.span(), &key("load_limit"), message);
        }
        Some(LoadSpec { place: place?, limit })
    }

    /// How long servers may take to answer connections.
    pub(super) fn connect_limit(
        &mut self,
        value: &Spanned<String>,
        key: &str,
        mode: ForwardMode,
        protocols: Option<Protocols>,
    ) -> Option<Duration> {
        if !matches!(mode, ForwardMode::FullNat | ForwardMode::Nat) {
            let message = format!(
                "servers of a {} service answer their clients themselves, so nobody sees how long they take; remove this",
                mode.name()
            );
            self.error(value.span(), key, message);
        }
        if protocols.is_some_and(|protocols| !protocols.have_connections()) {
            self.error(value.span(), key, "datagrams open no connection; remove this");
        }
        self.duration(value, key, const { raw::Service::TABLE.time("connect_limit") })
    }

    /// What servers' traffic may show of them.
    pub(super) fn passive(
        &mut self,
        entry: &Spanned<raw::Passive>,
        mode: ForwardMode,
        at: usize,
    ) -> Option<Rules> {
        let raw = entry.get_ref();
        let key = |field: &str| format!("service[{at}].passive.{field}");
        if !matches!(mode, ForwardMode::FullNat | ForwardMode::Nat) {
            let message = format!(
                "servers of a {} service answer their clients themselves, so their traffic shows nothing; remove this",
                mode.name()
            );
            self.error(entry.span(), &format!("service[{at}].passive"), message);
        }
        let failures = match &raw.failures {
            None => Some(1),
            Some(value) => {
                let range = const { raw::Passive::TABLE.whole("failures") };
                self.number(value, &key("failures"), range, "it counts failed sessions")
            }
        };
        let seconds = Duration::from_secs;
        // DPVS's figures.
        let inhibit = self.time(raw.inhibit.as_ref(), &key("inhibit"), seconds(5));
        let inhibit_max = self.time(raw.inhibit_max.as_ref(), &key("inhibit_max"), seconds(3_600));
        if let Some(value) = raw.inhibit_max.as_ref().filter(|_| inhibit > inhibit_max) {
            let message = "it is below inhibit, so a server stays out for that time, always; make it longer";
            self.warn(value.span(), &key("inhibit_max"), message);
        }
        Some(Rules {
            failures: failures? as u64,
            window: self.time(raw.window.as_ref(), &key("window"), seconds(3)),
            inhibit,
            inhibit_max,
        })
    }

    pub(super) fn time(&mut self, value: Option<&Spanned<String>>, key: &str, usual: Duration) -> Duration {
        value
            .and_then(|value| self.duration(value, key, const { raw::Health::TABLE.time("interval") }))
            .unwrap_or(usual)
    }

    fn probe(
        &mut self,
        entry: &Spanned<raw::Health>,
        kind: CheckKind,
        key: &impl Fn(&str) -> String,
    ) -> Option<Probe> {
        let raw = entry.get_ref();
        let text = |value: Option<&Spanned<String>>| value.map(|value| value.get_ref().clone());
        let bytes = |value: Option<&Spanned<String>>| text(value).unwrap_or_default().into_bytes();
        match kind {
            CheckKind::Tcp => {
                Some(Probe::Tcp { send: bytes(raw.send.as_ref()), expect: bytes(raw.expect.as_ref()) })
            }
            CheckKind::Udp => {
                if raw.send.is_none() {
                    let message =
                        "a datagram that nobody answers tells little; say what is sent: send = \"ping\"";
                    self.error(entry.span(), &key("send"), message);
                }
                if let Some(send) = raw.send.as_ref().filter(|send| send.get_ref().len() > DATAGRAM_MAX) {
                    let message = format!(
                        "{} bytes fit no datagram; write at most {DATAGRAM_MAX}",
                        send.get_ref().len()
                    );
                    self.error(send.span(), &key("send"), message);
                }
                Some(Probe::Udp { send: bytes(raw.send.as_ref()), expect: bytes(raw.expect.as_ref()) })
            }
            CheckKind::Http | CheckKind::Https => self.http(entry, kind == CheckKind::Https, key),
            CheckKind::Dns => {
                let Some(query) = &raw.query else {
                    self.error(
                        entry.span(),
                        &key("query"),
                        "say which name is asked for: query = \"example.com\"",
                    );
                    return None;
                };
                self.check_dns_name(query, &key("query"));
                let wants_ipv6 = match raw.query_type.as_ref().map(|value| value.get_ref().as_str()) {
                    None | Some("A") => false,
                    Some("AAAA") => true,
                    Some(other) => {
                        let message = unknown(other, &raw::Health::TABLE, "query_type");
                        self.error(entry.span(), &key("query_type"), message);
                        false
                    }
                };
                let expect = match &raw.expect {
                    None => None,
                    Some(value) => Some(self.address(value, &key("expect"))?),
                };
                if let (Some(expect), Some(value)) = (expect, &raw.expect)
                    && expect.is_ipv6() != wants_ipv6
                {
                    let (asked, other) = if wants_ipv6 { ("AAAA", "A") } else { ("A", "AAAA") };
                    let message =
                        format!("no answer of type {asked} is {expect}; write query_type = \"{other}\"");
                    self.error(value.span(), &key("expect"), message);
                }
                Some(Probe::Dns { query: query.get_ref().clone(), wants_ipv6, expect })
            }
            CheckKind::Icmp => Some(Probe::Icmp),
            CheckKind::Script => {
                let place = raw.command.as_ref().map_or(entry.span(), Spanned::span);
                let command: Vec<_> =
                    raw.command.iter().flat_map(|list| list.get_ref().iter().cloned()).collect();
                let command = self.program(command, place, &key("command"))?;
                Some(Probe::Script { command })
            }
        }
    }

    /// A program and its arguments, if it can be run.
    pub(super) fn program(
        &mut self,
        command: Vec<String>,
        place: Range<usize>,
        key: &str,
    ) -> Option<Vec<String>> {
        if let [line] = &command[..]
            && line.split_whitespace().count() > 1
            && !Path::new(line).exists()
        {
            let words: Vec<_> = line.split_whitespace().map(|word| format!("\"{word}\"")).collect();
            let message = format!(
                "there is no program of this name; a program and its arguments are a list: command = [{}]",
                words.join(", ")
            );
            self.error(place, key, message);
            return None;
        }
        if !command.first().is_some_and(|program| program.starts_with('/')) {
            let message = "name the program by its whole path: command = [\"/usr/lib/check\", \"--fast\"]";
            self.error(place, key, message);
            return None;
        }
        if command.iter().any(|word| word.contains('\0')) {
            self.error(place.clone(), key, "no argument of a program can hold a NUL; remove it");
        }
        if let Err(error) = executable(Path::new(&command[0])) {
            self.elsewhere(place, key, format!("{}: {error}", command[0]));
        }
        Some(command)
    }

    /// A file with the authorities that are believed must have some.
    pub(super) fn check_authorities(&mut self, file: Option<&Spanned<String>>, key: &str) {
        if let Some(file) = file
            && let Err(error) = crate::tls::authorities(Path::new(file.get_ref()))
        {
            self.elsewhere(file.span(), key, error);
        }
    }

    fn http(
        &mut self,
        entry: &Spanned<raw::Health>,
        with_tls: bool,
        key: &impl Fn(&str) -> String,
    ) -> Option<Probe> {
        let raw = entry.get_ref();
        let text = |value: Option<&Spanned<String>>| value.map(|value| value.get_ref().clone());
        if let Some(path) = raw.path.as_ref().filter(|path| !path.get_ref().starts_with('/')) {
            let message = format!("`{}` does not begin with /; write /{}", path.get_ref(), path.get_ref());
            self.error(path.span(), &key("path"), message);
        } else if let Some(path) = &raw.path
            && let Some(wrong) = path.get_ref().chars().find(|c| !is_of_path(*c))
        {
            let mut bytes = [0; 4];
            let escaped: String =
                wrong.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")).collect();
            let message = format!("{wrong:?} cannot stand in a path; write it as {escaped}");
            self.error(path.span(), &key("path"), message);
        }
        if let Some(host) = &raw.host
            && (host.get_ref().is_empty() || HeaderValue::from_str(host.get_ref()).is_err())
            && !with_tls
        {
            let message = "it cannot stand in a header; write it as www.example.com";
            self.error(host.span(), &key("host"), message);
        }
        if let Some(host) = raw.host.as_ref().filter(|host| !with_tls && !is_host(host.get_ref())) {
            let message = "no server has such a name; write www.example.com, or www.example.com:8080";
            self.warn(host.span(), &key("host"), message);
        }
        for (field, value) in [("host", &raw.host), ("server_name", &raw.server_name)] {
            if let Some(value) = value.as_ref().filter(|_| with_tls)
                && let Err(message) = crate::tls::server_name(value.get_ref())
            {
                self.error(value.span(), &key(field), message);
            }
        }
        let method = text(raw.method.as_ref()).unwrap_or_else(|| "GET".into());
        if let Some(value) =
            raw.method.as_ref().filter(|value| hyper::Method::from_bytes(value.get_ref().as_bytes()).is_err())
        {
            self.error(value.span(), &key("method"), format!("`{method}` is no method; use GET or HEAD"));
        }
        if let Some(value) = &raw.method {
            let upper = method.to_uppercase();
            if upper != method {
                let message =
                    format!("methods are written in capitals, and servers know no `{method}`; write {upper}");
                self.warn(value.span(), &key("method"), message);
            } else if method == "CONNECT" {
                self.warn(
                    value.span(),
                    &key("method"),
                    "CONNECT asks for a tunnel, not for a page; use GET or HEAD",
                );
            }
        }
        if let (Some(value), Some(false)) = (&raw.ca_file, raw.verify.as_ref().map(|value| *value.get_ref()))
        {
            let message = "with verify = false every certificate is taken, so nothing is held against it; remove one of them";
            self.warn(value.span(), &key("ca_file"), message);
        }
        let mut status = Vec::new();
        for text in raw.expect_status.iter().flat_map(|list| list.get_ref().iter()) {
            match statuses(text) {
                Some(range) if *range.end() < 200 => {
                    let place = raw.expect_status.as_ref().map_or(entry.span(), Spanned::span);
                    let message = format!("`{text}` is never the last answer to a request; write \"2xx\"");
                    self.error(place, &key("expect_status"), message);
                }
                Some(range) => status.push(range),
                None => {
                    let place = raw.expect_status.as_ref().map_or(entry.span(), Spanned::span);
                    let message =
                        format!("`{text}` is not a status code; write \"200\", \"200-299\" or \"2xx\"");
                    self.error(place, &key("expect_status"), message);
                }
            }
        }
        if let Some(list) = raw.expect_status.as_ref().filter(|list| list.get_ref().iter().next().is_none()) {
            self.error(
                list.span(),
                &key("expect_status"),
                "the list is empty; write [\"200-299\"], or remove it",
            );
        }
        let has_body =
            |range: &RangeInclusive<u16>| !matches!((range.start(), range.end()), (204, 204) | (304, 304));
        if let Some(body) =
            raw.expect_body.as_ref().filter(|_| !status.is_empty() && !status.iter().any(has_body))
        {
            let message = "answers with these status codes have no body (RFC 9110 6.4.1), so every server is down; remove one of both";
            self.error(body.span(), &key("expect_body"), message);
        }
        if status.is_empty() {
            // What keepalived and Nacos take as good.
            status.push(200..=399);
        }
        let tls = with_tls.then(|| Tls {
            server_name: text(raw.server_name.as_ref()).or_else(|| text(raw.host.as_ref())),
            verify: raw.verify.as_ref().is_none_or(|value| *value.get_ref()),
            ca_file: text(raw.ca_file.as_ref()).map(PathBuf::from),
        });
        self.check_authorities(raw.ca_file.as_ref(), &key("ca_file"));
        Some(Probe::Http(Box::new(Http {
            method,
            path: text(raw.path.as_ref()).unwrap_or_else(|| "/".into()),
            host: raw.host.as_ref().map(|host| crate::tls::host_text(host.get_ref())),
            status,
            body: text(raw.expect_body.as_ref()),
            tls,
        })))
    }
}

/// The most that one datagram holds over IPv4 (RFC 768, RFC 791).
const DATAGRAM_MAX: usize = 65_507;

/// What may stand in the path and query of a request (RFC 3986 §3.3, §3.4).
fn is_of_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/-._~!$&'()*+,;=:@%?".contains(c)
}

/// Whether a text may be a host's name or address, and maybe a port.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
        && !host.contains(|c: char| c.is_whitespace() || "/?#@".contains(c))
}

/// Whether a program is there and can be run.
fn executable(path: &Path) -> Result<(), String> {
    let owned = path.to_owned();
    let metadata = files::beside(path, move |_| owned.metadata()).and_then(|metadata| metadata);
    match metadata {
        Err(error) => Err(error.to_string()),
        Ok(file) if !file.is_file() => Err("it is not a program".to_owned()),
        Ok(file) if file.mode() & 0o111 == 0 => Err("it cannot be run; `chmod +x` it".to_owned()),
        Ok(_) => interpreter(path),
    }
}

/// Whether the kernel runs programs of formats that somebody registered.
fn has_other_formats() -> bool {
    let formats = std::fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten();
    formats.map(|entry| entry.file_name()).any(|name| name != "register" && name != "status")
}

/// Whether what a program begins with can be run: it is one itself, or names one that is there.
fn interpreter(path: &Path) -> Result<(), String> {
    /// As much of a first line as Linux reads.
    const LINE_MAX: u64 = 256;
    let owned = path.to_owned();
    let begin = files::beside(path, move |_| {
        let mut begin = Vec::new();
        std::fs::File::open(owned)?.take(LINE_MAX).read_to_end(&mut begin)?;
        Ok::<_, std::io::Error>(begin)
    });
    // What root can run and not read is run all the same.
    let Ok(Ok(begin)) = begin else { return Ok(()) };
    let Some(line) = begin.strip_prefix(b"#!") else {
        return match begin.starts_with(b"\x7fELF") || has_other_formats() {
            true => Ok(()),
            false => {
                Err("it is no program, and its first line does not name one; begin it with #!/bin/sh".into())
            }
        };
    };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    if text.ends_with('\r') {
        return Err("its lines end as Windows has them, so its interpreter is not found; convert it with `sed -i 's/\\r$//'`".into());
    }
    let name = text.split_whitespace().next().unwrap_or_default().to_owned();
    let program = Path::new(&name).to_owned();
    match files::beside(path, move |_| program.exists()) {
        Ok(false) => Err(format!("its first line names {name}, which is not there")),
        _ => Ok(()),
    }
}

/// Status codes as `200`, `200-299` or `2xx`.
fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let code = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    if let Some(hundreds) = text.strip_suffix("xx") {
        let first = code(&format!("{hundreds}00"))?;
        return Some(first..=first + 99);
    }
    match text.split_once('-') {
        None => code(text).map(|code| code..=code),
        Some((first, last)) => Some(code(first)?..=code(last)?).filter(|range| !range.is_empty()),
    }
}
