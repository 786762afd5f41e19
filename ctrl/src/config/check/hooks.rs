//! Programs that are told of attacks.

use super::{Checker, Keyed, raw, unknown};
use crate::attacks::Kind;
use crate::config::HookSpec;
use toml::Spanned;

impl Checker<'_> {
    /// The programs that are told of attacks.
    pub(super) fn hooks(&mut self, list: &[Spanned<raw::Hook>]) -> Vec<HookSpec> {
        let mut hooks = Vec::new();
        for (at, entry) in list.iter().enumerate() {
            let raw = entry.get_ref();
            let command: Vec<_> = raw.command.get_ref().iter().cloned().collect();
            let key = format!("hook[{at}].command");
            let command = self.program(command, raw.command.span(), &key);
            let mut kinds = Vec::new();
            for (n, word) in raw.kinds.iter().flat_map(|kinds| kinds.get_ref()).enumerate() {
                match Kind::ALL.into_iter().find(|kind| kind.name() == word.get_ref()) {
                    Some(kind) => kinds.push(kind),
                    None => {
                        let message = unknown(word.get_ref(), &raw::Hook::TABLE, "kinds");
                        self.error(word.span(), &format!("hook[{at}].kinds[{n}]"), message);
                    }
                }
            }
            if raw.kinds.is_none() {
                kinds.extend(Kind::ALL);
            }
            hooks.extend(command.map(|command| HookSpec { command: command.into(), kinds }));
        }
        hooks
    }
}
