//! The page itself, and the gates before it.

use super::Shared;
use super::live::{self, Stream, View};
use crate::http::site::{Answer, Pieces, plain};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The page's parts, each with its path and its kind; nothing of it comes from elsewhere.
const PARTS: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("site/page.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("site/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("site/page.js")),
    ("/icon.svg", "image/svg+xml", include_str!("site/icon.svg")),
];

/// Scripts, styles and streams of this page, and nothing else (Content Security Policy Level 3).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What every answer says to browsers.
const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

pub(super) fn answer(request: &Request<Incoming>, shared: &Arc<Shared>) -> Answer {
    let path = request.uri().path();
    let mut answer = match refusal(request.headers(), path, shared.takes_names.load(Ordering::Relaxed)) {
        Some(why) => plain(StatusCode::FORBIDDEN, why),
        None => find(request, path, shared),
    };
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn find(request: &Request<Incoming>, path: &str, shared: &Arc<Shared>) -> Answer {
    let is_head = *request.method() == Method::HEAD;
    if path == live::PATH {
        return match View::parse(request.uri().query().unwrap_or_default()) {
            Err(message) => plain(StatusCode::BAD_REQUEST, message),
            Ok(_) if is_head => of_kind("text/event-stream", Box::new(None::<Bytes>)),
            Ok(view) => of_kind("text/event-stream", Box::new(Stream::new(shared, view))),
        };
    }
    match PARTS.iter().find(|(known, ..)| *known == path) {
        Some((_, kind, text)) => {
            of_kind(kind, Box::new((!is_head).then(|| Bytes::from_static(text.as_bytes()))))
        }
        None if path == "/-/healthy" => plain(StatusCode::OK, "sluiced answers\n"),
        None => plain(StatusCode::NOT_FOUND, "the page is at /\n"),
    }
}

fn of_kind(kind: &'static str, pieces: Box<dyn Pieces>) -> Answer {
    let mut answer = Response::new(pieces);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// Why a request is not answered: it comes from another site's page, or by a name that another site may have bent to here.
///
/// A name proves nothing unless something else does (`takes_names`): browsers keep passwords by name, and a certificate is
/// one of a name.
fn refusal(headers: &HeaderMap, path: &str, takes_names: bool) -> Option<&'static str> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(HOST);
    if headers.get_all(HOST).iter().count() > 1 {
        return Some("a request has one Host (RFC 9112 3.2)\n");
    }
    if !takes_names && host.is_some_and(|host| !is_own(host)) {
        return Some(
            "ask by the address, or by localhost: any name could be another site's; with basic_auth_users or TLS names are taken\n",
        );
    }
    if let Some(origin) = text(ORIGIN) {
        let named = origin.split_once("://").map(|(_, host)| host);
        if named.is_none() || named != host {
            return Some("other sites' pages are not answered\n");
        }
    }
    let site = text(HeaderName::from_static("sec-fetch-site"));
    let mode = text(HeaderName::from_static("sec-fetch-mode"));
    // A link on another page may lead here.
    let is_link = path == "/" && mode == Some("navigate");
    match site {
        None | Some("same-origin" | "none") => None,
        Some(_) if is_link => None,
        Some(_) => Some("other sites' pages are not answered\n"),
    }
}

/// Whether a host is an address, or the name that every host has for itself.
fn is_own(host: &str) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => {
            return rest.split_once(']').is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok());
        }
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn other_sites_and_bent_names_are_refused() {
        let good: [&[(&str, &str)]; 7] = [
            &[],
            &[("host", "127.0.0.1:9798")],
            &[("host", "[::1]:9798"), ("origin", "http://[::1]:9798")],
            &[("host", "localhost"), ("sec-fetch-site", "same-origin")],
            &[("host", "10.0.0.1"), ("sec-fetch-site", "none")],
            &[("host", "10.0.0.1"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
            &[("host", "127.0.0.1"), ("authorization", "Basic x")],
        ];
        good.iter().for_each(|all| assert_eq!(refusal(&headers(all), "/", false), None, "{all:?}"));
        let named = headers(&[("host", "lb1.example.com"), ("origin", "https://lb1.example.com")]);
        assert_eq!((refusal(&named, "/", true), refusal(&named, "/", false).is_some()), (None, true));
        let bad: [&[(&str, &str)]; 6] = [
            &[("host", "evil.example.com")],
            &[("host", "127.0.0.1.evil.example.com:9798")],
            &[("host", "[::1.evil.example.com")],
            &[("host", "127.0.0.1:9798"), ("origin", "http://evil.example.com")],
            &[("host", "127.0.0.1:9798"), ("origin", "null")],
            &[("host", "127.0.0.1:9798"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
        ];
        bad.iter().for_each(|all| assert!(refusal(&headers(all), "/", false).is_some(), "{all:?}"));
        let link = headers(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]);
        assert!(refusal(&link, live::PATH, true).is_some(), "a link leads to the page, and not to its parts");
    }

    #[test]
    fn the_page_has_no_script_or_style_within_and_nothing_from_elsewhere() {
        for (path, _, text) in PARTS {
            let without_names = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!without_names.contains("http://") && !without_names.contains("https://"), "{path}");
        }
        let page = PARTS[0].2;
        let is_handler =
            |rest: &str| rest.trim_start_matches(|c: char| c.is_ascii_lowercase()).starts_with('=');
        assert!(!page.contains("style=") && !page.contains("<style"), "the policy takes no inline style");
        assert!(!page.split(" on").skip(1).any(is_handler), "nor a handler");
        assert!(!PARTS[2].2.contains("innerHTML"), "what others name is text, and never markup");
    }
}
