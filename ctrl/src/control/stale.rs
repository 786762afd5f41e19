//! Which services must be looked at anew.

use std::collections::BTreeSet;

/// All services, or those in some places of the configuration.
#[derive(Debug)]
pub(super) enum Stale {
    /// All.
    All,
    /// The services in these places.
    Some(BTreeSet<usize>),
}

impl Default for Stale {
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}

impl Stale {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Some(places) if places.is_empty())
    }

    /// These services, too.
    pub(super) fn add(&mut self, services: &[usize]) {
        if let Self::Some(places) = self {
            places.extend(services);
        }
    }

    /// Those of `count` services that it stands for, in their order.
    pub(super) fn places(&self, count: usize) -> Box<dyn Iterator<Item = usize> + '_> {
        match self {
            Self::All => Box::new(0..count),
            // The places of a configuration that went since then mean nothing any more, but then all is stale.
            Self::Some(places) => Box::new(places.iter().copied().filter(move |at| *at < count)),
        }
    }
}
