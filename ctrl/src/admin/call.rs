//! A call of the admin protocol, and its answer.

use crate::users::Peer;
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::mpsc::Sender;

/// A method of the admin protocol, and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// The method's name.
    pub method: String,
    /// Its parameters; `null` when there are none.
    pub params: Value,
    /// The client.
    pub peer: Peer,
    /// Where the answer goes. A client that went away is no error.
    pub reply: Sender<Reply>,
}

/// An answer as JSON, or why there is none. Long lists are written as they are made: a tree of their values first
/// would take four times as long.
pub type Reply = Result<Box<RawValue>, Refusal>;

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// JSON-RPC's code: -32601 no such method, -32602 bad parameters, 1 the appliance says no.
    pub code: i32,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Refusal {
    pub(crate) fn no(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    pub(crate) fn parameters(message: impl Into<String>) -> Self {
        Self { code: -32602, message: message.into() }
    }
}
