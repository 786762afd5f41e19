//! A site that follows what the configuration says of its listeners, its TLS and its users.

use crate::config::{Exposed, ListenAt};
use crate::http::site::{Address, Answering, Crowd, Rules, Site};
use crate::tls;
use std::sync::Arc;

/// A site, and what it follows. It ends when this is dropped.
pub(crate) struct Exposure {
    name: &'static str,
    site: Site,
    last: Option<Exposed>,
}

impl Exposure {
    /// A thread of this name that answers nobody yet.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(name: &'static str, crowd: Crowd, answering: Answering) -> Result<Self, String> {
        Ok(Self { name, site: Site::start(name, crowd, answering)?, last: None })
    }

    /// Answers at the addresses of `exposed` and no others. Returns what is wrong with those that cannot be used.
    /// With `is_new` certificates are read anew, and connections that were let in by other rules end.
    pub(crate) fn follow(&mut self, exposed: &Exposed, is_new: bool) -> Vec<String> {
        let addresses: Vec<_> = exposed
            .listen
            .iter()
            .map(|place| match place {
                ListenAt::Tcp(address) => Address::Tcp(*address),
                ListenAt::Unix(path) => Address::Unix(path.clone()),
            })
            .collect();
        // What is as it was sends nobody away; a certificate may be another under its old name.
        if self.last.as_ref() == Some(exposed) && (exposed.tls.is_none() || !is_new) {
            return self.site.serve(&addresses);
        }
        self.last = None;
        let tls = match exposed.tls.as_ref().map(tls::acceptor).transpose() {
            Ok(tls) => tls,
            // Without its certificate nothing is served, rather than everything in the clear.
            Err(error) => {
                self.site.follow(&[], Rules::default());
                return vec![format!("{}: {error}; nothing is served until it can be read", self.name)];
            }
        };
        self.last = Some(exposed.clone());
        self.site.follow(&addresses, Rules { tls, users: Arc::new(exposed.users.iter().cloned().collect()) })
    }
}
