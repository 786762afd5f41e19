//! What is done with servers: their weights, and a service's rules.

use std::fmt;
use std::time::Duration;

/// A server's share, in thousandths, so that fractions can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(pub(crate) u32);

impl Weight {
    /// No new sessions.
    pub const ZERO: Self = Self(0);
    /// What a server has that says nothing.
    pub const ONE: Self = Self(1_000);
    /// The largest: ipvsadm's.
    pub const MAX: u32 = 65_535;

    /// The weight nearest to `number`; `None` when it is negative, above [`MAX`](Self::MAX) or no number.
    pub fn new(number: f64) -> Option<Self> {
        let is_fit = (0.0..=f64::from(Self::MAX)).contains(&number);
        is_fit.then(|| Self((number * 1_000.0).round() as u32))
    }

    /// As a number.
    pub fn value(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value())
    }
}

impl serde::Serialize for Weight {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(1_000) {
            serializer.serialize_u32(self.0 / 1_000)
        } else {
            serializer.serialize_f64(self.value())
        }
    }
}

impl<'de> serde::Deserialize<'de> for Weight {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        Self::new(number).ok_or_else(|| serde::de::Error::custom(format!("{number} is not a weight")))
    }
}

/// What a service does when servers are down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// At or below this healthy share all servers are used; `None`: never.
    pub protect_threshold: Option<f64>,
    /// Above the threshold by so much the healthy share must be, until checks are believed again.
    pub protect_hysteresis: f64,
    /// The healthy share from which on a tier keeps all of its traffic.
    pub spill_below: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { protect_threshold: Some(0.0), protect_hysteresis: 0.1, spill_below: 0.7 }
    }
}

/// When a service keeps servers out by their traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// So many failures within [`window`](Self::window) keep a server out.
    pub failures: u64,
    /// How long failures are counted together.
    pub window: Duration,
    /// How long a server is kept out the first time.
    pub inhibit: Duration,
    /// And at most.
    pub inhibit_max: Duration,
}
