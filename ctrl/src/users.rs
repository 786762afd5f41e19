//! Who is at the other end of the socket, and what they may do.

use crate::files;
use crate::journal;
use nix::unistd::{Gid, Group, Uid, User};
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What is read when names of users and groups are looked up, which may be a server.
const USERS: &str = "the system's users and groups (nsswitch.conf)";

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
        let name = text.to_owned();
        match files::beside(Path::new(USERS), move |_| User::from_name(&name)) {
            Ok(Ok(Some(user))) => Ok(Self::User(user.uid.as_raw())),
            Err(error) if error.kind() == ErrorKind::TimedOut => Err(error.to_string()),
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
    let name = text.to_owned();
    match files::beside(Path::new(USERS), move |_| Group::from_name(&name)) {
        Ok(Ok(Some(group))) => Ok(group.gid.as_raw()),
        Err(error) if error.kind() == ErrorKind::TimedOut => Err(error.to_string()),
        _ => Err(format!("there is no group `{text}`; `groupadd {text}` makes it")),
    }
}

/// A client of the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user, by name or number.
    pub user: String,
    /// The user and the process, for the log.
    pub name: String,
    /// Whether it may change things.
    pub may_change: bool,
    /// Whether it is root or the daemon's own user, who may also name programs and files that the daemon uses.
    pub is_owner: bool,
}

impl Peer {
    /// A part of the daemon that looks as any user may.
    pub fn looking(name: &str) -> Self {
        Self { user: name.to_owned(), name: name.to_owned(), may_change: false, is_owner: false }
    }

    /// A part of the daemon that changes something as an operator would.
    pub fn inside(name: &str) -> Self {
        Self { user: name.to_owned(), name: name.to_owned(), may_change: true, is_owner: true }
    }

    /// The kind of the log's lines about this user, so that one who calls without end uses up no other's lines.
    pub fn log_kind(&self) -> String {
        format!("{}{}", journal::CALLS, self.user)
    }
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
    /// These operators, and a socket of this group; of the daemon's own, which is root's, if none is said.
    pub fn new(operators: Vec<Operator>, group: Option<u32>) -> Self {
        let group = group.unwrap_or(Gid::effective().as_raw());
        Self { operators, own: Uid::effective().as_raw(), group }
    }

    /// Who is at the other end.
    pub fn peer(&self, stream: &UnixStream) -> Peer {
        let Ok(peer) = rustix::net::sockopt::socket_peercred(stream) else {
            let name = "somebody".to_owned();
            return Peer { user: name.clone(), name, may_change: false, is_owner: false };
        };
        let (uid, gid, pid) = (peer.uid.as_raw(), peer.gid.as_raw(), peer.pid.as_raw_nonzero());
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
        let name = user.clone().unwrap_or_else(|| format!("uid {uid}"));
        let may_change = self.allows(uid, gid, user.as_deref());
        Peer { name: format!("{name} (pid {pid})"), user: name, may_change, is_owner: self.is_owner(uid) }
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
        self.is_owner(uid) || self.operators.iter().any(is)
    }

    fn is_owner(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own
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
        assert!([0, 77].iter().all(|uid| access.is_owner(*uid)) && !access.is_owner(1_000));
    }

    #[test]
    fn names_are_those_of_the_system() {
        assert_eq!(Operator::parse("root"), Ok(Operator::User(0)));
        assert_eq!(Operator::parse("@root"), Ok(Operator::Group(0)));
        assert_eq!(Operator::parse("1234"), Ok(Operator::User(1_234)));
        assert!(Operator::parse("no-such-user").unwrap_err().contains("@no-such-user"));
    }
}
