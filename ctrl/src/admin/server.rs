//! The daemon's side of the socket: a thread that accepts, and one per client.

use super::PROTOCOL;
use super::peers::{Access, Peer};
use crate::config::Admin;
use crate::control::{Refusal, Reply, Request};
use serde_json::{Value, json};
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Clients at a time; another is told so and sent away.
const CLIENTS_MAX: usize = 64;
/// Places that those who only look leave to those who may change things.
const RESERVED: usize = 16;
/// The longest request, in bytes: a service with ten thousand servers.
const REQUEST_MAX: u64 = 1024 * 1024;
/// A client that neither speaks nor reads for so long is sent away.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// How long the control thread may take; it answers sooner, or says why it does not.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The bound socket. Dropping it removes the file.
#[derive(Debug)]
pub struct Server {
    access: AccessHandle,
    listener: UnixListener,
}

/// Who may use the socket, and who may change things by it: for all clients, also those that are connected.
#[derive(Clone, Debug)]
pub struct AccessHandle {
    path: PathBuf,
    rules: Arc<Mutex<Arc<Access>>>,
}

impl AccessHandle {
    /// Follows other rules.
    ///
    /// # Errors
    /// When the socket cannot be given to the group.
    pub fn follow(&self, admin: &Admin) -> Result<(), String> {
        let rules = admin.access.clone();
        if *self.current() == rules {
            return Ok(());
        }
        let group = rules.group;
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        std::os::unix::fs::chown(&self.path, None, Some(group))
            .map_err(|error| format!("admin.group: {}: {error}", self.path.display()))
    }

    fn current(&self) -> Arc<Access> {
        Arc::clone(&self.rules.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why the socket cannot be had.
#[derive(Debug)]
pub enum BindError {
    /// Another daemon answers there.
    InUse {
        /// Its process, if the system says.
        pid: Option<i32>,
    },
    /// The path cannot be used.
    Path(std::io::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { pid: Some(pid) } => {
                write!(f, "another sluiced (pid {pid}) serves it; stop that one, or set another admin.socket")
            }
            Self::InUse { pid: None } => {
                write!(f, "another sluiced serves it; stop that one, or set another admin.socket")
            }
            Self::Path(error) => {
                write!(f, "{error}; check that its folder exists and that you may write there")
            }
        }
    }
}

impl Server {
    /// Binds the socket, mode 0660. A file that a dead daemon left is replaced.
    ///
    /// # Errors
    /// When another daemon lives there, or the path cannot be used.
    pub fn bind(admin: &Admin) -> Result<Self, BindError> {
        let path = &*admin.socket;
        if let Ok(stream) = UnixStream::connect(path) {
            let pid = rustix::net::sockopt::socket_peercred(&stream).ok();
            return Err(BindError::InUse { pid: pid.map(|peer| peer.pid.as_raw_nonzero().get()) });
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(BindError::Path)?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
                std::fs::remove_file(path).map_err(BindError::Path)?;
            }
            Ok(_) | Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(BindError::Path)?;
        let access = admin.access.clone();
        std::os::unix::fs::chown(path, None, Some(access.group)).map_err(BindError::Path)?;
        let rules = Arc::new(Mutex::new(Arc::new(access)));
        let server = Self { access: AccessHandle { path: path.to_owned(), rules }, listener };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(BindError::Path)?;
        Ok(server)
    }

    /// Whoever decides who may use it.
    pub fn access(&self) -> AccessHandle {
        self.access.clone()
    }

    /// Serves for ever, on threads of its own.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn serve(&self, version: &str, requests: Sender<Request>) -> std::io::Result<()> {
        let (listener, access) = (self.listener.try_clone()?, self.access.clone());
        let version = version.to_owned();
        let clients = Arc::new(AtomicUsize::new(0));
        std::thread::Builder::new().name("admin".into()).spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let may_change = access.current().peer(&stream).may_change;
                let most = if may_change { CLIENTS_MAX } else { CLIENTS_MAX - RESERVED };
                if clients.fetch_add(1, Ordering::Relaxed) >= most {
                    clients.fetch_sub(1, Ordering::Relaxed);
                    let refusal = Refusal {
                        code: 1,
                        message: format!("{most} clients are connected already; try again"),
                    };
                    let _ = stream.write_all(response(&Value::Null, Err(refusal)).as_bytes());
                    continue;
                }
                let (requests, clients, version) = (requests.clone(), Arc::clone(&clients), version.clone());
                let access = access.clone();
                let client = std::thread::Builder::new().name("admin-client".into());
                let counter = Arc::clone(&clients);
                let spawned = client.spawn(move || {
                    // A client that goes away in mid-sentence is no event.
                    let _ = converse(stream, &version, &access, &requests);
                    clients.fetch_sub(1, Ordering::Relaxed);
                });
                if spawned.is_err() {
                    counter.fetch_sub(1, Ordering::Relaxed);
                }
            }
        })?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.access.path);
    }
}

fn converse(
    stream: UnixStream,
    version: &str,
    access: &AccessHandle,
    requests: &Sender<Request>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_write_timeout(Some(IDLE_MAX))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let greeting = json!({ "jsonrpc": "2.0", "method": "hello", "params": { "protocol": PROTOCOL, "server": "sluiced", "version": version } });
    writeln!(writer, "{greeting}")?;
    let mut rules = access.current();
    let mut peer = rules.peer(&writer);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(REQUEST_MAX).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if !line.ends_with(b"\n") && read as u64 == REQUEST_MAX {
            let refusal =
                Refusal { code: -32600, message: format!("a line has at most {REQUEST_MAX} bytes") };
            writer.write_all(response(&Value::Null, Err(refusal)).as_bytes())?;
            return Ok(());
        }
        // The rules may have changed since this client came.
        let current = access.current();
        if !Arc::ptr_eq(&rules, &current) {
            rules = current;
            peer = rules.peer(&writer);
        }
        if let Some(answer) = handle(&line, &peer, requests) {
            // In one piece, which is one system call for most.
            writer.write_all(answer.as_bytes())?;
        }
    }
}

/// The answer to one line; `None` for a notification.
fn handle(line: &[u8], peer: &Peer, requests: &Sender<Request>) -> Option<String> {
    let refuse = |id: &Value, code: i32, message: &str| {
        Some(response(id, Err(Refusal { code, message: message.to_owned() })))
    };
    let Ok(call) = serde_json::from_slice::<Value>(line) else {
        return refuse(&Value::Null, -32700, "the line is not JSON");
    };
    let id = call.get("id").cloned();
    let (Some("2.0"), Some(method)) = (call["jsonrpc"].as_str(), call["method"].as_str()) else {
        return refuse(&id.unwrap_or(Value::Null), -32600, "the object is no JSON-RPC 2.0 request");
    };
    let (reply, answer) = channel();
    let (method, params) = (method.to_owned(), call["params"].clone());
    let request = Request::Call { method, params, peer: peer.clone(), reply };
    if requests.send(request).is_err() {
        return refuse(&id?, 1, "sluiced is stopping");
    }
    let answer = answer.recv_timeout(ANSWER_MAX).unwrap_or_else(|_| {
        Err(Refusal { code: 1, message: "sluiced is busy or stopping; try again".into() })
    });
    Some(response(&id?, answer))
}

/// A line of its own.
fn response(id: &Value, answer: Reply) -> String {
    match answer {
        Ok(result) => format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}\n"),
        Err(Refusal { code, message }) => {
            let error = json!({ "code": code, "message": message });
            format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{error}}}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{CallError, Client};

    struct TestSocket(PathBuf);

    impl TestSocket {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("sluice-admin-{name}-{}.sock", std::process::id())))
        }

        fn admin(&self) -> Admin {
            Admin {
                socket: self.0.clone(),
                group: None,
                operators: Vec::new(),
                access: Access::new(Vec::new(), None),
            }
        }
    }

    impl Drop for TestSocket {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// A server whose control thread answers `echo` with its parameters.
    fn echo(socket: &TestSocket) -> Server {
        let server = Server::bind(&socket.admin()).unwrap();
        let (sender, requests) = channel();
        server.serve("test", sender).unwrap();
        std::thread::spawn(move || {
            for request in requests {
                let Request::Call { method, params, reply, .. } = request else { return };
                let answer = if method == "echo" {
                    Ok(serde_json::value::to_raw_value(&params).unwrap())
                } else {
                    Err(Refusal { code: -32601, message: "no".into() })
                };
                reply.send(answer).unwrap();
            }
        });
        server
    }

    #[test]
    fn a_call_gets_its_answer_and_an_unknown_one_a_refusal() {
        let socket = TestSocket::new("calls");
        let _server = echo(&socket);
        let mut client = Client::connect(&socket.0).unwrap();

        assert_eq!(client.call("echo", json!({ "a": 1 })).unwrap(), json!({ "a": 1 }));
        assert!(
            matches!(client.call("other", Value::Null), Err(CallError::Refused(message)) if message == "no")
        );
    }

    #[test]
    fn the_socket_is_for_owner_and_group() {
        let socket = TestSocket::new("mode");
        let _server = echo(&socket);

        let mode = std::fs::metadata(&socket.0).unwrap().permissions().mode();

        assert_eq!(mode & 0o777, 0o660);
    }

    #[test]
    fn a_second_server_is_refused_and_a_dead_ones_file_is_replaced() {
        let socket = TestSocket::new("second");
        let server = echo(&socket);
        let refused = Server::bind(&socket.admin()).map(|_| ());
        assert!(
            matches!(refused, Err(BindError::InUse { pid: Some(pid) }) if pid == std::process::id() as i32)
        );
        // As after a crash: the file is there, and nobody listens.
        std::mem::forget(server);
        let stale = TestSocket::new("stale");
        drop(UnixListener::bind(&stale.0).unwrap());
        assert!(Server::bind(&stale.admin()).is_ok());
    }

    #[test]
    fn rubbish_is_answered_and_does_not_end_the_conversation() {
        let socket = TestSocket::new("rubbish");
        let _server = echo(&socket);
        let mut stream = UnixStream::connect(&socket.0).unwrap();
        stream
            .write_all(b"\xff{}\n[1]\n{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"echo\",\"params\":5}\n")
            .unwrap();

        let mut lines =
            BufReader::new(stream).lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());

        assert_eq!(lines.next().unwrap()["params"]["protocol"], PROTOCOL);
        assert_eq!(lines.next().unwrap()["error"]["code"], -32700);
        assert_eq!(lines.next().unwrap()["error"]["code"], -32600);
        assert_eq!(lines.next().unwrap()["result"], 5);
    }
}
