//! The admin protocol: JSON-RPC 2.0 over a Unix socket, one object per line.
//!
//! The server greets with `{"jsonrpc":"2.0","method":"hello","params":{"protocol":1,...}}`.
//! A list is paged: it takes `cursor` and `limit` and gives `items` and `next`, which is
//! null at the end.

mod call;
mod client;
mod places;
mod server;
mod verbs;

pub use call::{Call, Refusal, Reply};
pub use client::{CallError, Client};
pub use server::{AccessHandle, BindError, Server};
pub use verbs::{Method, Right};

/// The protocol's version; it changes when an old client could misread an answer.
pub const PROTOCOL: u64 = 1;

/// Longest answer that a client takes, in bytes: a service with every server that fits has 80 MB.
const LINE_MAX: u64 = 256 * 1024 * 1024;
