//! Who is at the other end of the socket, and what they may do.

use crate::config::Admin;
use nix::unistd::{Gid, Group, Uid, User};
use std::os::unix::net::UnixStream;

/// Someone who may change things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// A user.
    User(u32),
    /// Everybody in a group.
    Group(u32),
}

impl Operator {
    /// A user's name or number, or a group's after `@`.
    ///
    /// # Errors
    /// When the system knows nobody of that name.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix('@') {
            return group(name).map(Self::Group);
        }
        if let Ok(number) = text.parse() {
            return Ok(Self::User(number));
        }
        match User::from_name(text) {
            Ok(Some(user)) => Ok(Self::User(user.uid.as_raw())),
            _ => Err(format!("there is no user `{text}`; write @{text} for a group, or a number")),
        }
    }
}

/// A group's number, by its name or number.
///
/// # Errors
/// When the system knows none of that name.
pub fn group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(format!("there is no group `{text}`; `groupadd {text}` makes it")),
    }
}

/// A client of the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is, for the log.
    pub name: String,
    /// Whether it may change things.
    pub may_change: bool,
}

/// The rules, with names as numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    operators: Vec<Operator>,
    own: u32,
    /// Whose group the socket is.
    pub(super) group: u32,
}

impl Access {
    /// The rules of a configuration.
    pub fn of(admin: &Admin) -> Self {
        let operators = admin.operators.iter().filter_map(|text| Operator::parse(text).ok()).collect();
        // What is not said is the daemon's own, which is root's.
        let group = admin.group.as_deref().and_then(|text| group(text).ok());
        let group = group.unwrap_or(Gid::effective().as_raw());
        Self { operators, own: Uid::effective().as_raw(), group }
    }

    /// Who is at the other end.
    pub fn peer(&self, stream: &UnixStream) -> Peer {
        let Ok(peer) = rustix::net::sockopt::socket_peercred(stream) else {
            return Peer { name: "somebody".into(), may_change: false };
        };
        let (uid, gid, pid) = (peer.uid.as_raw(), peer.gid.as_raw(), peer.pid.as_raw_nonzero());
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
        let name = user.clone().unwrap_or_else(|| format!("uid {uid}"));
        Peer { name: format!("{name} (pid {pid})"), may_change: self.allows(uid, gid, user.as_deref()) }
    }

    fn allows(&self, uid: u32, gid: u32, user: Option<&str>) -> bool {
        let is_member = |group: u32| {
            let members = Group::from_gid(Gid::from_raw(group)).ok().flatten().map(|group| group.mem);
            gid == group
                || members.is_some_and(|members| members.iter().any(|name| Some(name.as_str()) == user))
        };
        let is = |operator: &Operator| match operator {
            Operator::User(user) => *user == uid,
            Operator::Group(group) => is_member(*group),
        };
        uid == 0 || uid == self.own || self.operators.iter().any(is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_operators_may_change() {
        let access =
            Access { operators: vec![Operator::User(1_000), Operator::Group(2_000)], own: 77, group: 0 };
        assert!(
            [(0, 9), (77, 9), (1_000, 9), (5, 2_000)]
                .iter()
                .all(|(uid, gid)| access.allows(*uid, *gid, None))
        );
        assert!(!access.allows(1_001, 9, Some("nobody")));
    }

    #[test]
    fn names_are_those_of_the_system() {
        assert_eq!(Operator::parse("root"), Ok(Operator::User(0)));
        assert_eq!(Operator::parse("@root"), Ok(Operator::Group(0)));
        assert_eq!(Operator::parse("1234"), Ok(Operator::User(1_234)));
        assert!(Operator::parse("no-such-user").unwrap_err().contains("@no-such-user"));
    }
}
