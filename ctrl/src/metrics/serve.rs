//! Metrics over HTTP.

use super::{Format, Query, Roll, Scrape};
use crate::config::{ListenAt, MetricsSpec, SeriesOfServers};
use crate::http::site::{Address, Answer, Answering, Pieces, Rules, Site, plain};
use crate::tls;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use hyper::{Method, Request, Response, StatusCode};
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Scrapes at a time: each holds the counters of every server that it was asked for.
const SCRAPES_MAX: usize = 4;

/// What the thread that answers reads.
#[derive(Default)]
struct Shared {
    now: Mutex<Option<Arc<Roll>>>,
    servers: Mutex<SeriesOfServers>,
    scrapes: AtomicUsize,
}

impl Shared {
    fn roll(&self) -> Option<Arc<Roll>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers scrapes, on a thread of its own. It ends when this is dropped.
pub struct Exporter {
    site: Site,
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
        Ok(Self { site: Site::start("metrics", answering)?, shared })
    }

    /// Answers at the addresses of `spec` and no others. Returns what is wrong with those that cannot be used.
    pub fn follow(&mut self, spec: Option<&MetricsSpec>) -> Vec<String> {
        let Some(MetricsSpec { exposed, servers }) = spec else {
            return self.site.follow(&[], Rules::default());
        };
        *self.shared.servers.lock().unwrap_or_else(PoisonError::into_inner) = *servers;
        let tls = match exposed.tls.as_ref().map(tls::acceptor).transpose() {
            Ok(tls) => tls,
            // Without its certificate nothing is served, rather than everything in the clear.
            Err(error) => {
                self.site.follow(&[], Rules::default());
                return vec![format!("metrics: {error}; nothing is served until it can be read")];
            }
        };
        let addresses: Vec<_> = exposed
            .listen
            .iter()
            .map(|place| match place {
                ListenAt::Tcp(address) => Address::Tcp(*address),
                ListenAt::Unix(path) => Address::Unix(path.clone()),
            })
            .collect();
        self.site.follow(&addresses, Rules { tls, users: Arc::new(exposed.users.iter().cloned().collect()) })
    }

    /// Scrapes find this from now on.
    pub fn publish(&self, roll: Roll) {
        *self.shared.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(roll));
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
    let Some(place) = Place::take(shared) else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at a time; try again\n");
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
        (true, _) => Box::new(None),
        (false, true) => Box::new(Zipped {
            scrape,
            zip: Some(GzEncoder::new(Vec::new(), Compression::fast())),
            _place: place,
        }),
        (false, false) => Box::new(Plain { scrape, _place: place }),
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

/// One of the scrapes that there may be at a time.
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        // Only the thread that answers takes and gives back.
        if shared.scrapes.load(Ordering::Relaxed) >= SCRAPES_MAX {
            return None;
        }
        shared.scrapes.fetch_add(1, Ordering::Relaxed);
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.scrapes.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Plain {
    scrape: Scrape,
    _place: Place,
}

impl Pieces for Plain {
    fn piece(&mut self) -> Option<Bytes> {
        self.scrape.piece().map(Bytes::from)
    }
}

struct Zipped {
    scrape: Scrape,
    zip: Option<GzEncoder<Vec<u8>>>,
    _place: Place,
}

impl Pieces for Zipped {
    fn piece(&mut self) -> Option<Bytes> {
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
