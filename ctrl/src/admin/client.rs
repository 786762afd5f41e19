//! The command's side of the socket.

use super::{LINE_MAX, PROTOCOL};
use serde_json::{Value, json};
use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long the daemon may take; it gives up by itself sooner.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// A conversation with a daemon.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    next_id: u64,
}

/// Why a call gave nothing.
#[derive(Debug)]
pub enum CallError {
    /// The daemon cannot be reached, or what it says makes no sense.
    Broken(String),
    /// The daemon says no.
    Refused(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(message) | Self::Refused(message) => f.write_str(message),
        }
    }
}

impl Client {
    /// Connects to the daemon at `path` and checks its greeting.
    ///
    /// # Errors
    /// When nobody answers there, or it speaks another protocol.
    pub fn connect(path: &Path) -> Result<Self, CallError> {
        let broken = |error: std::io::Error| {
            let path = path.display();
            CallError::Broken(match error.kind() {
                ErrorKind::PermissionDenied => format!(
                    "{path}: permission denied; only root and the group of admin.group may use it: `ls -l {path}` names the group, `id` yours"
                ),
                ErrorKind::NotFound => {
                    format!("{path} is not there; is sluiced running? Use --socket to name another socket")
                }
                ErrorKind::ConnectionRefused => {
                    format!(
                        "{path}: nobody answers; is sluiced running? It left its socket behind when it ended"
                    )
                }
                _ => format!("{path}: {error}; is sluiced running? Use --socket to name another socket"),
            })
        };
        let writer = UnixStream::connect(path).map_err(broken)?;
        writer.set_read_timeout(Some(ANSWER_MAX)).map_err(broken)?;
        let reader = BufReader::new(writer.try_clone().map_err(broken)?);
        let mut client = Self { reader, writer, next_id: 1 };
        let greeting = client.read()?;
        if let Some(message) = greeting["error"]["message"].as_str() {
            return Err(CallError::Refused(message.to_owned()));
        }
        match greeting["params"]["protocol"].as_u64() {
            Some(PROTOCOL) => Ok(client),
            Some(other) => Err(CallError::Broken(format!(
                "the daemon speaks protocol {other}, this command {PROTOCOL}; use the `sluice` that came with the daemon"
            ))),
            None => Err(CallError::Broken("the program that listens there is not sluiced".into())),
        }
    }

    /// Calls `method` and waits for its answer.
    ///
    /// # Errors
    /// When the daemon refuses or went away.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, CallError> {
        let id = self.next_id;
        self.next_id += 1;
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let gone = |error: std::io::Error| CallError::Broken(format!("the daemon went away: {error}"));
        self.writer.write_all(format!("{request}\n").as_bytes()).map_err(gone)?;
        let mut answer = self.read()?;
        if let Some(message) = answer["error"]["message"].as_str() {
            return Err(CallError::Refused(message.to_owned()));
        }
        Ok(answer["result"].take())
    }

    /// Calls a list's method until its last page, and gives each page's items to `each`.
    ///
    /// # Errors
    /// As [`call`](Self::call); or whatever `each` says.
    pub fn pages(
        &mut self,
        method: &str,
        mut params: Value,
        mut each: impl FnMut(Vec<Value>) -> Result<bool, CallError>,
    ) -> Result<(), CallError> {
        let mut cursor = json!(0);
        loop {
            params["cursor"] = cursor;
            let mut page = self.call(method, params.clone())?;
            let Value::Array(items) = page["items"].take() else {
                return Err(CallError::Broken("the daemon's page has no items".into()));
            };
            if !each(items)? {
                return Ok(());
            }
            cursor = page["next"].take();
            if cursor.is_null() {
                return Ok(());
            }
        }
    }

    fn read(&mut self) -> Result<Value, CallError> {
        let mut line = Vec::new();
        let read = self.reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line);
        match read {
            Ok(0) => Err(CallError::Broken("the daemon closed the connection".into())),
            Ok(_) => serde_json::from_slice(&line)
                .map_err(|error| CallError::Broken(format!("the daemon's answer is no JSON: {error}"))),
            Err(error) => Err(CallError::Broken(format!("the daemon did not answer: {error}"))),
        }
    }
}
