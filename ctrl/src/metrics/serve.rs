//! Metrics over HTTP.

use super::{Format, Query, Roll, Scrape};
use crate::config::{MetricsSpec, SeriesOfServers};
use crate::exposure::Exposure;
use crate::http::site::{Answer, Answering, Crowd, Pieces, plain};
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use hyper::{Method, Request, Response, StatusCode};
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

/// Scrapes at a time, and those of one client: each holds the counters of every server that it asked for.
const CROWD: Crowd =
    Crowd { path: "/metrics", most: 4, per_client: 2, refusal: "too many scrapes at a time; try again\n" };

/// What the thread that answers reads.
#[derive(Default)]
struct Shared {
    now: Mutex<Option<Arc<Roll>>>,
    servers: Mutex<SeriesOfServers>,
}

impl Shared {
    fn roll(&self) -> Option<Arc<Roll>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers scrapes, on a thread of its own. It ends when this is dropped.
pub struct Exporter {
    exposure: Exposure,
    shared: Arc<Shared>,
}

impl Exporter {
    /// A thread that answers nobody yet.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start() -> Result<Self, String> {
        let shared = Arc::<Shared>::default();
        let answers = Arc::clone(&shared);
        let answering: Answering = Arc::new(move |request| answer(request, &answers));
        Ok(Self { exposure: Exposure::start("metrics", CROWD, answering)?, shared })
    }

    /// Answers at the addresses of `spec` and no others. Returns what is wrong with those that cannot be used.
    /// With `is_new` certificates are read anew, and connections that were let in by other rules end.
    pub fn follow(&mut self, spec: &MetricsSpec, is_new: bool) -> Vec<String> {
        let MetricsSpec { exposed, servers } = spec;
        *self.shared.servers.lock().unwrap_or_else(PoisonError::into_inner) = *servers;
        self.exposure.follow(exposed, is_new)
    }

    /// Scrapes find this from now on.
    pub fn publish(&self, roll: Arc<Roll>) {
        *self.shared.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(roll);
    }
}

fn answer(request: &Request<Incoming>, shared: &Arc<Shared>) -> Answer {
    match request.uri().path() {
        "/metrics" => scrape(request, shared),
        "/-/healthy" => plain(StatusCode::OK, "sluiced answers\n"),
        "/" => plain(StatusCode::OK, "Sluice: metrics are at /metrics\n"),
        _ => plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n"),
    }
}

fn scrape(request: &Request<Incoming>, shared: &Arc<Shared>) -> Answer {
    let usual = *shared.servers.lock().unwrap_or_else(PoisonError::into_inner);
    let query = match Query::parse(request.uri().query().unwrap_or_default(), usual) {
        Ok(query) => query,
        Err(message) => return plain(StatusCode::BAD_REQUEST, message),
    };
    let header = |name| {
        let all = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
        all.collect::<Vec<_>>().join(",")
    };
    let format = Format::accepted(&header(ACCEPT));
    let mut scrape = None;
    // Slots may be given to others while they are read, which a new roll tells.
    for _ in 0..3 {
        let Some(roll) = shared.roll() else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "sluiced is starting\n");
        };
        let read = Scrape::new(roll, &query, format, SystemTime::now());
        let is_current = shared.roll().is_some_and(|now| read.is_of(&now));
        scrape = Some(read);
        if is_current {
            break;
        }
    }
    let Some(scrape) = scrape else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "sluiced is starting\n");
    };
    let zips = header(ACCEPT_ENCODING).split(',').any(|one| {
        let mut parts = one.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|part| part == "q=0")
    });
    let is_head = *request.method() == Method::HEAD;
    let pieces: Box<dyn Pieces> = match (is_head, zips) {
        (true, _) => Box::new(None::<Bytes>),
        (false, true) => {
            Box::new(Zipped { scrape, zip: Some(GzEncoder::new(Vec::new(), Compression::fast())) })
        }
        (false, false) => Box::new(Plain { scrape }),
    };
    let mut answer = Response::new(pieces);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if zips {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer
}

struct Plain {
    scrape: Scrape,
}

impl Pieces for Plain {
    fn piece(&mut self, _: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Poll::Ready(self.scrape.piece().map(Bytes::from))
    }
}

struct Zipped {
    scrape: Scrape,
    zip: Option<GzEncoder<Vec<u8>>>,
}

impl Pieces for Zipped {
    fn piece(&mut self, _: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Poll::Ready(self.zipped())
    }
}

impl Zipped {
    fn zipped(&mut self) -> Option<Bytes> {
        loop {
            let zip = self.zip.as_mut()?;
            let Some(piece) = self.scrape.piece() else {
                // Memory takes whatever is written to it.
                return self.zip.take().and_then(|zip| zip.finish().ok()).map(Bytes::from);
            };
            zip.write_all(piece.as_bytes()).ok()?;
            let out = std::mem::take(zip.get_mut());
            if !out.is_empty() {
                return Some(Bytes::from(out));
            }
        }
    }
}
