//! Lists of addresses.

use super::{Checker, Keyed, raw, unknown};
use crate::config::{AclSpec, ServiceSpec};
use crate::lists;
use dataplane::ids::MAX_ACLS;
use dataplane::snapshot::AclAction;
use std::path::PathBuf;
use std::sync::Arc;
use toml::Spanned;

impl Checker<'_> {
    /// The lists of addresses, in the order in which they are asked.
    pub(super) fn acls(&mut self, list: &[Spanned<raw::Acl>], services: &[Arc<ServiceSpec>]) -> Vec<AclSpec> {
        let mut acls: Vec<AclSpec> = Vec::new();
        for (at, entry) in list.iter().enumerate() {
            let raw = entry.get_ref();
            let key = |name: &str| format!("acl[{at}].{name}");
            self.check_name(&raw.name, &key("name"));
            let name = raw.name.get_ref().clone();
            if acls.iter().any(|other| other.name == name) || name == lists::BANS {
                let message = format!("`{name}` names another list already; choose another name");
                self.error(raw.name.span(), &key("name"), message);
            }
            let word = raw.action.as_ref().map_or(AclAction::Deny.name(), |word| word.get_ref());
            let action = AclAction::ALL.into_iter().find(|action| action.name() == word);
            if let (None, Some(value)) = (action, &raw.action) {
                self.error(value.span(), &key("action"), unknown(word, &raw::Acl::TABLE, "action"));
            }
            let mut prefixes = Vec::new();
            for (n, text) in raw.prefixes.iter().enumerate() {
                match lists::network(text.get_ref()) {
                    Some(network) => prefixes.push(network),
                    None => {
                        let message = format!(
                            "`{}` is no prefix; write it as 192.0.2.0/24, 2001:db8::/32 or 192.0.2.7",
                            text.get_ref()
                        );
                        self.error(text.span(), &key(&format!("prefixes[{n}]")), message);
                    }
                }
            }
            let mut files = Vec::new();
            for (n, text) in raw.files.iter().enumerate() {
                let path = PathBuf::from(text.get_ref());
                if !path.is_absolute() {
                    let message = format!("`{}` begins at no root; write the whole path", path.display());
                    self.error(text.span(), &key(&format!("files[{n}]")), message);
                }
                files.push(path);
            }
            if raw.prefixes.is_empty() && raw.files.is_empty() {
                let message = "the list has neither prefixes nor files; name some";
                self.error(entry.span(), &format!("acl[{at}]"), message);
            }
            let named = raw.services.as_ref().map(|names| {
                for (n, name) in names.get_ref().iter().enumerate() {
                    if !services.iter().any(|spec| spec.name == *name.get_ref()) {
                        let message =
                            format!("there is no service `{}`; name one, or remove it", name.get_ref());
                        self.error(name.span(), &key(&format!("services[{n}]")), message);
                    }
                }
                if names.get_ref().is_empty() {
                    let message = "the list is for no service; name some, or remove the key for all";
                    self.error(names.span(), &key("services"), message);
                }
                names.get_ref().iter().map(|name| name.get_ref().clone()).collect()
            });
            let action = action.unwrap_or(AclAction::Deny);
            acls.push(AclSpec { name, action, prefixes, files, services: named });
        }
        if let Some(entry) = list.get(MAX_ACLS - 1) {
            let message = format!("there are more than {} lists; put some together", MAX_ACLS - 1);
            self.error(entry.span(), "acl", message);
        }
        acls
    }
}
