//! The list of the configuration's keys: what each of them is, written once.
//!
//! [`tables!`] makes of one list the structures that serde reads, and what the checks, the JSON Schema and the
//! reference page say of each key. A key that is not in the list cannot be read, and one without a sentence does not
//! compile.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use toml::Spanned;

/// A table of the file, as `[dataplane]`, or of a list of tables, as `[[service]]`.
#[derive(Debug)]
pub(crate) struct Table {
    /// What it is about, in sentences.
    pub about: &'static [&'static str],
    /// Its keys, in the order in which they are shown.
    pub keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub(super) struct Key {
    /// The name in the file.
    pub name: &'static str,
    /// What it does, in sentences.
    pub help: &'static [&'static str],
    /// What TOML has for it.
    pub shape: Shape,
    /// Whether the file is wrong without it.
    pub is_needed: bool,
    /// Which values are right.
    pub holds: Holds,
    /// The value that holds without it, as the file would have it; `None` where nothing is done without it, or where
    /// the sentences say it.
    pub default: Option<&'static str>,
    /// The types (the table's key `type`) that alone have it; empty: all have it.
    pub only: &'static [&'static str],
    /// Whether none but the appliance's owner may set it by a command: by it programs would be run with the daemon's
    /// rights, or its files be read.
    pub is_owners: bool,
}

/// What TOML has for a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Whole,
    /// A number, whole or not; or `"off"`.
    Number,
    /// A text.
    Text,
    /// `true`, `false` or a text.
    FlagOrText,
    /// A text, or a list of texts.
    Texts,
    /// A table of texts under names of their own.
    Map,
    /// A list.
    List(&'static Self),
    /// A table.
    Table(&'static Table),
}

impl Shape {
    /// The table, or that of a list of tables.
    pub(super) fn table(&self) -> Option<&'static Table> {
        match self {
            Self::Table(table) => Some(table),
            Self::List(inner) => inner.table(),
            Self::Flag
            | Self::Whole
            | Self::Number
            | Self::Text
            | Self::FlagOrText
            | Self::Texts
            | Self::Map => None,
        }
    }
}

/// Which values of a key are right, as far as it can be said without the rest of the file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holds {
    /// What the shape says.
    Any,
    /// A whole number from the first to the second.
    Whole(i64, i64),
    /// A number from the first to the second.
    Number(f64, f64),
    /// A duration, as `"2s"`, from the first to the second.
    Time(Duration, Duration),
    /// One of these words.
    Words(fn() -> Vec<&'static str>),
    /// A text of this form.
    Form(&'static str),
}

/// The shortest and the longest duration of a timer.
pub(super) const TIMER: Holds = Holds::Time(Duration::from_millis(100), Duration::from_secs(86_400));
/// A port of a transport protocol.
pub(super) const L4_PORT: Holds = Holds::Whole(1, 65_535);
/// A part of a whole.
pub(super) const SHARE: Holds = Holds::Number(0.0, 1.0);
/// A name of a thing in the file.
pub(super) const NAME: Holds = Holds::Form("1 to 63 letters, digits, `-`, `_` and `.`");
/// An address without a port.
pub(super) const ADDRESS: Holds = Holds::Form("ADDRESS");
/// A network.
pub(super) const NETWORK: Holds = Holds::Form("ADDRESS/LENGTH");
/// An address with a port.
pub(super) const SOCKET: Holds = Holds::Form("ADDRESS:PORT");
/// A path in the file system.
pub(super) const PATH: Holds = Holds::Form("path");

impl Table {
    /// The key of this name.
    ///
    /// # Panics
    /// When there is none: where it is asked for in a constant, nothing compiles then.
    pub(super) const fn key(&self, name: &str) -> &Key {
        let mut at = 0;
        while at < self.keys.len() {
            if is_same(self.keys[at].name, name) {
                return &self.keys[at];
            }
            at += 1;
        }
        panic!("no key has this name");
    }

    /// The whole numbers that are right for a key.
    pub(super) const fn whole(&self, name: &str) -> Range<i64> {
        match self.key(name).holds {
            Holds::Whole(first, last) => first..last + 1,
            _ => panic!("this key is not a whole number in a range"),
        }
    }

    /// The shortest and the longest time that is right for a key.
    pub(super) const fn time(&self, name: &str) -> Range<Duration> {
        match self.key(name).holds {
            Holds::Time(first, last) => first..last,
            _ => panic!("this key is not a duration in a range"),
        }
    }

    /// The words that are right for a key.
    pub(super) fn words(&self, name: &str) -> Vec<&'static str> {
        match self.key(name).holds {
            Holds::Words(words) => words(),
            _ => Vec::new(),
        }
    }

    /// Whether it has a key of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.keys.iter().any(|key| key.name == name)
    }

    /// Whether a key, given by its path from here with dots, is its owner's, or in a table that is.
    pub(super) fn is_owners(&self, path: &str) -> bool {
        let (name, rest) = path.split_once('.').unwrap_or((path, ""));
        let Some(key) = self.keys.iter().find(|key| key.name == name) else { return false };
        key.is_owners || key.shape.table().is_some_and(|table| table.is_owners(rest))
    }
}

/// `==` of texts, which constants do not have.
const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// A type that stands for a key's value.
pub(super) trait Shaped {
    /// What TOML has for it.
    const SHAPE: Shape;
    /// Whether there is no value that stands for a key that is not there.
    const IS_NEEDED: bool = true;

    /// Where in the text it stands, if that is known.
    fn place(&self) -> Option<Range<usize>> {
        None
    }
}

impl Shaped for bool {
    const SHAPE: Shape = Shape::Flag;
}

impl Shaped for i64 {
    const SHAPE: Shape = Shape::Whole;
}

impl Shaped for String {
    const SHAPE: Shape = Shape::Text;
}

impl Shaped for BTreeMap<String, Spanned<String>> {
    const SHAPE: Shape = Shape::Map;
}

impl<T: Shaped> Shaped for Vec<T> {
    const SHAPE: Shape = Shape::List(&T::SHAPE);
}

impl<T: Shaped> Shaped for Spanned<T> {
    const SHAPE: Shape = T::SHAPE;

    fn place(&self) -> Option<Range<usize>> {
        Some(self.span())
    }
}

impl<T: Shaped> Shaped for Option<T> {
    const SHAPE: Shape = T::SHAPE;
    const IS_NEEDED: bool = false;

    fn place(&self) -> Option<Range<usize>> {
        self.as_ref()?.place()
    }
}

/// A structure of [`tables!`].
pub(super) trait Keyed {
    /// What it is, and its keys.
    const TABLE: Table;

    /// Where each of its keys stands, for those that are in the file.
    fn places(&self) -> impl Iterator<Item = (&'static Key, Range<usize>)>;
}

/// Makes structures of lists of keys: `name: type, which values [= "default"] [for types] [owner];`.
macro_rules! tables {
    (@name $key:ident) => { stringify!($key) };
    (@name $key:ident $word:literal) => { $word };
    (@needed $type:ty) => { <$type as $crate::config::keys::Shaped>::IS_NEEDED };
    (@needed $type:ty, default) => { false };
    (@needed $type:ty, rename) => { <$type as $crate::config::keys::Shaped>::IS_NEEDED };
    (@default) => { None };
    (@default $default:tt) => { Some(stringify!($default)) };
    (@only) => { &[] };
    (@only $only:expr) => { $only };
    (@owner) => { false };
    (@owner $owner:tt) => { $owner };
    ($(
        $(#[doc = $about:literal])+
        $(#[derive($derive:ident)])?
        $structure:ident {
            $(
                $(#[doc = $help:literal])+
                $(#[serde($serde:ident $(= $word:literal)?)])?
                $key:ident: $type:ty, $holds:expr
                $(, default $default:tt)?
                $(, only $only:expr)?
                $(, owner $owner:tt)?
                ;
            )+
        }
    )+) => {$(
        $(#[doc = $about])+
        #[derive(Debug, serde::Deserialize $(, $derive)?)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $structure {
            $(
                $(#[doc = $help])+
                $(#[serde($serde $(= $word)?)])?
                pub(super) $key: $type,
            )+
        }

        impl $crate::config::keys::Keyed for $structure {
            const TABLE: $crate::config::keys::Table = $crate::config::keys::Table {
                about: &[$($about),+],
                keys: &[$(
                    $crate::config::keys::Key {
                        name: tables!(@name $key $($($word)?)?),
                        help: &[$($help),+],
                        shape: <$type as $crate::config::keys::Shaped>::SHAPE,
                        is_needed: tables!(@needed $type $(, $serde)?),
                        holds: $holds,
                        default: tables!(@default $($default)?),
                        only: tables!(@only $($only)?),
                        is_owners: tables!(@owner $($owner)?),
                    },
                )+],
            };

            fn places(&self) -> impl Iterator<Item = (&'static $crate::config::keys::Key, std::ops::Range<usize>)> {
                use $crate::config::keys::Shaped;
                let places = [$(self.$key.place()),+];
                Self::TABLE.keys.iter().zip(places).filter_map(|(key, place)| Some((key, place?)))
            }
        }

        impl $crate::config::keys::Shaped for $structure {
            const SHAPE: $crate::config::keys::Shape =
                $crate::config::keys::Shape::Table(&<Self as $crate::config::keys::Keyed>::TABLE);
        }
    )+};
}

pub(super) use tables;
