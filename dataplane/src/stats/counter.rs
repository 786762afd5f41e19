//! A number with one writer, and the lists of such numbers: each is typed once, with its kind, its unit and its meaning.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer. Reading never disturbs the writer; the writer
/// needs no atomic read-modify-write.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Sets it. Only the owning worker may call this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Takes one away. Only the owning worker may call this.
    #[inline]
    pub fn decrement(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    /// The value as last written.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a number moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It says how many there are now.
    Gauge,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the units")]
pub enum Unit {
    Packets,
    Bytes,
    Sessions,
    Connections,
    Turns,
    Nanoseconds,
    Milliseconds,
    LocalPorts,
    Datagrams,
}

/// An entry of a list of counters; `T` has the values.
#[derive(Clone, Copy, Debug)]
pub struct Count<T: 'static> {
    /// The key in JSON; part of the admin protocol.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// What it means, for an operator.
    pub explanation: &'static str,
    /// Its value.
    pub get: fn(&T) -> u64,
}

/// A block of counters, and its values at a time, which can be added up.
macro_rules! counters {
    (
        $(#[$attribute:meta])*
        $counters:ident, $totals:ident {
            $($(#[doc = $doc:literal])+ $field:ident: $kind:ident of $unit:ident,)+
        }
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Default)]
        pub struct $counters {
            $($(#[doc = $doc])+ pub $field: Counter,)+
        }

        #[doc = concat!("Values of [`", stringify!($counters), "`], of one or of several workers.")]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $totals {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        impl $counters {
            /// Every counter, in the order of the struct.
            pub const ALL: &'static [Count<$totals>] = &[$(Count {
                name: stringify!($field),
                kind: Kind::$kind,
                unit: Unit::$unit,
                explanation: concat!($($doc),+).trim_ascii(),
                get: |totals| totals.$field,
            },)+];

            /// The values as last written.
            pub fn read(&self) -> $totals {
                $totals { $($field: self.$field.value(),)+ }
            }
        }

        impl std::ops::AddAssign for $totals {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)+
            }
        }

        impl std::iter::Sum for $totals {
            fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
                all.fold(Self::default(), |mut sum, one| {
                    sum += one;
                    sum
                })
            }
        }

        impl $totals {
            /// What was counted since `baseline`; gauges are as they are now.
            #[must_use]
            pub fn since(mut self, baseline: Self) -> Self {
                $(if Kind::$kind == Kind::Counter {
                    self.$field -= baseline.$field;
                })+
                self
            }
        }
    };
}

pub(super) use counters;
