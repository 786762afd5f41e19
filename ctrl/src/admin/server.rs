//! The daemon's side of the socket: a thread that accepts, and one per client.

use super::PROTOCOL;
use super::call::{Call, Refusal, Reply};
use super::places::{Place, Places};
use crate::config::Admin;
use crate::users::{Access, Peer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest request, in bytes: a service with ten thousand servers.
const REQUEST_MAX: u64 = 1024 * 1024;
/// A client that neither speaks nor reads for so long is sent away.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// A line that was begun is to end within that time.
const LINE_TIME: Duration = Duration::from_secs(10);
/// How often it is looked whether the socket's file is still there.
const FILE_PAUSE: Duration = Duration::from_secs(1);
/// How long the control thread may take; it answers sooner, or says why it does not.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Where folders are made for sockets.
static RUN: LazyLock<[&Path; 2]> = LazyLock::new(|| [Path::new("/run"), Path::new("/var/run")]);

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
    /// The file that is the socket's.
    own: Arc<Mutex<FileId>>,
    /// Whether the server is gone.
    over: Arc<AtomicBool>,
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

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
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
    /// Something else is there, or its folder is not.
    Place(String),
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
            Self::Place(message) => f.write_str(message),
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
        let folder = path.parent().unwrap_or(Path::new("/"));
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                std::fs::remove_file(path).map_err(BindError::Path)?;
            }
            Ok(found) => {
                let what = if found.is_dir() { "a folder" } else { "a file" };
                let message = format!("there is {what} of this name already; choose another, or remove it");
                return Err(BindError::Place(message));
            }
            // The usual folder goes with each boot. Any other is the operator's to make: it may be mistyped.
            Err(_) if !folder.exists() && folder.parent().is_some_and(|above| RUN.contains(&above)) => {
                std::fs::create_dir(folder).map_err(BindError::Path)?;
            }
            Err(_) if !folder.exists() => {
                let folder = folder.display();
                let message = format!("there is no folder {folder}; make it, or correct the path");
                return Err(BindError::Place(message));
            }
            Err(_) => {}
        }
        let access = admin.access.clone();
        let (listener, own) = bind_at(path, access.group).map_err(BindError::Path)?;
        let rules = Arc::new(Mutex::new(Arc::new(access)));
        let own = Arc::new(Mutex::new(own));
        let access = AccessHandle { path: path.to_owned(), rules, own, over: Arc::default() };
        Ok(Self { access, listener })
    }

    /// Whoever decides who may use it.
    pub fn access(&self) -> AccessHandle {
        self.access.clone()
    }

    /// Serves for ever, on threads of its own.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn serve<M: From<Call> + Send + 'static>(
        &self,
        version: &str,
        requests: Sender<M>,
    ) -> std::io::Result<()> {
        let (listener, access) = (self.listener.try_clone()?, self.access.clone());
        let places = Places::default();
        let door = Door { listener, access, version: version.to_owned(), requests, places };
        std::thread::Builder::new().name("admin".into()).spawn(move || door.keep())?;
        Ok(())
    }
}

/// Where clients come in.
struct Door<M> {
    listener: UnixListener,
    access: AccessHandle,
    version: String,
    requests: Sender<M>,
    places: Places,
}

impl<M: From<Call> + Send + 'static> Door<M> {
    /// Lets clients in for ever, and makes the socket's file anew when somebody removed it.
    fn keep(mut self) {
        let pause = Timespec::try_from(FILE_PAUSE).ok();
        loop {
            let came = {
                let mut polled = [PollFd::new(&self.listener, PollFlags::IN)];
                poll(&mut polled, pause.as_ref())
            };
            match came {
                Ok(0) => self.look_for_file(),
                Ok(_) => {
                    if let Ok((stream, _)) = self.listener.accept() {
                        self.let_in(stream);
                    }
                }
                Err(_) => {}
            }
        }
    }

    fn look_for_file(&mut self) {
        let path = &*self.access.path;
        let is_gone = path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        if !is_gone || self.access.is_over() {
            return;
        }
        match bind_at(path, self.access.current().group) {
            Ok((listener, own)) => {
                *self.access.own.lock().unwrap_or_else(PoisonError::into_inner) = own;
                log::warn!(target: "admin", "{} was removed, and is made again", path.display());
                self.listener = listener;
            }
            // Its folder may be gone, too; it is tried again.
            Err(error) => log::debug!(target: "admin", "{}: {error}", path.display()),
        }
    }

    /// Gives a client a thread, or sends it away.
    fn let_in(&self, mut stream: UnixStream) {
        let user = rustix::net::sockopt::socket_peercred(&stream).map_or(u32::MAX, |peer| peer.uid.as_raw());
        let place = match self.places.take(user) {
            Ok(place) => place,
            Err(message) => {
                // A client that does not read is not waited for.
                let _ = stream.set_nonblocking(true);
                let _ = stream.write_all(refused(&message).as_bytes());
                return;
            }
        };
        let (requests, version, access) = (self.requests.clone(), self.version.clone(), self.access.clone());
        // Without a thread the client is gone, and its place free.
        let _ = std::thread::Builder::new().name("admin-client".into()).spawn(move || {
            // A client that goes away in mid-sentence is no event.
            let _ = converse(stream, &version, &access, &requests, place);
        });
    }
}

fn refused(message: &str) -> String {
    response(&Value::Null, Err(Refusal { code: 1, message: message.to_owned() }))
}

/// What a file is known by, wherever it stands: device and number.
type FileId = (u64, u64);

/// A socket of this group at `path`, mode 0660, and its file.
fn bind_at(path: &Path, group: u32) -> std::io::Result<(UnixListener, FileId)> {
    let listener = UnixListener::bind(path)?;
    std::os::unix::fs::chown(path, None, Some(group))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok((listener, id_of(path)?))
}

fn id_of(path: &Path) -> std::io::Result<FileId> {
    path.symlink_metadata().map(|file| (file.dev(), file.ino()))
}

impl Drop for Server {
    fn drop(&mut self) {
        self.access.over.store(true, Ordering::Relaxed);
        // Somebody may have put another file there since.
        let own = *self.access.own.lock().unwrap_or_else(PoisonError::into_inner);
        if id_of(&self.access.path).is_ok_and(|found| found == own) {
            let _ = std::fs::remove_file(&self.access.path);
        }
    }
}

fn converse<M: From<Call>>(
    stream: UnixStream,
    version: &str,
    access: &AccessHandle,
    requests: &Sender<M>,
    mut place: Place,
) -> std::io::Result<()> {
    stream.set_write_timeout(Some(IDLE_MAX))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let greeting = json!({ "jsonrpc": "2.0", "method": "hello", "params": { "protocol": PROTOCOL, "server": "sluiced", "version": version } });
    writeln!(writer, "{greeting}")?;
    let mut rules = access.current();
    let mut peer = rules.peer(&writer);
    if !peer.may_change
        && let Err(message) = place.look_only()
    {
        return writer.write_all(refused(&message).as_bytes());
    }
    let mut line = Vec::new();
    loop {
        line.clear();
        if !read_line(&mut reader, &mut line)? {
            return Ok(());
        }
        if !line.ends_with(b"\n") && line.len() as u64 == REQUEST_MAX {
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

/// Reads a line, however long the client takes to begin it, if it then goes on. False at the end.
fn read_line(reader: &mut BufReader<UnixStream>, line: &mut Vec<u8>) -> std::io::Result<bool> {
    reader.get_ref().set_read_timeout(Some(IDLE_MAX))?;
    if reader.fill_buf()?.is_empty() {
        return Ok(false);
    }
    let deadline = Instant::now() + LINE_TIME;
    while !line.ends_with(b"\n") && (line.len() as u64) < REQUEST_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        reader.get_ref().set_read_timeout(Some(left))?;
        let there = reader.fill_buf()?;
        if there.is_empty() {
            return Ok(!line.is_empty());
        }
        let room = (REQUEST_MAX as usize - line.len()).min(there.len());
        let taken = there[..room].iter().position(|byte| *byte == b'\n').map_or(room, |at| at + 1);
        line.extend_from_slice(&there[..taken]);
        reader.consume(taken);
    }
    Ok(true)
}

/// The answer to one line; `None` for a notification.
fn handle<M: From<Call>>(line: &[u8], peer: &Peer, requests: &Sender<M>) -> Option<String> {
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
    let call = Call { method, params, peer: peer.clone(), reply };
    if requests.send(call.into()).is_err() {
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
        let (sender, requests) = channel::<Call>();
        server.serve("test", sender).unwrap();
        std::thread::spawn(move || {
            for Call { method, params, reply, .. } in requests {
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
        drop(server);
        // As after a crash: the file is there, and nobody listens.
        let stale = TestSocket::new("stale");
        drop(UnixListener::bind(&stale.0).unwrap());
        assert!(Server::bind(&stale.admin()).is_ok());
    }

    #[test]
    fn a_file_that_somebody_else_put_there_stays() {
        let socket = TestSocket::new("other");
        let server = echo(&socket);
        std::fs::remove_file(&socket.0).unwrap();
        std::fs::write(&socket.0, "precious").unwrap();
        drop(server);
        assert_eq!(std::fs::read_to_string(&socket.0).unwrap(), "precious");
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
