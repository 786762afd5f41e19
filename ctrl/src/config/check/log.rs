//! The log.

use super::{Checker, Keyed, raw, unknown};
use crate::config::LogSpec;
use crate::journal;

impl Checker<'_> {
    pub(super) fn log(&mut self, raw: &raw::Log) -> LogSpec {
        let mut format = journal::Format::Text;
        if let Some(value) = &raw.format {
            let word = value.get_ref().as_str();
            match journal::Format::named(word) {
                Some(named) => format = named,
                None => self.error(value.span(), "log.format", unknown(word, &raw::Log::TABLE, "format")),
            }
        }
        let mut level = log::LevelFilter::Info;
        if let Some(value) = &raw.level {
            let word = value.get_ref().as_str();
            match word.parse() {
                Ok(named) if raw::LOG_LEVELS.contains(&word) => level = named,
                _ => self.error(value.span(), "log.level", unknown(word, &raw::Log::TABLE, "level")),
            }
        }
        LogSpec { format, level }
    }
}
