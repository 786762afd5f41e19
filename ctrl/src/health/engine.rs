//! All checks, on one thread: begins and ends them one by one, so that a change of one touches no other.

use super::ports::Ports;
use super::probe::Prober;
use super::script::{self, Variables};
use super::{Answer, CheckId, CheckKey, Fault, Tally};
use crate::health::Health;
use crate::kernel::VipChecks;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

/// Questions that are open at a time; others wait their turn.
const OPEN_MAX: usize = 4_096;
/// Programs that are told of something: those that wait or run, and the longest that one may take.
const HOOKS_WAITING: usize = 64;
const HOOK_TIME: Duration = Duration::from_secs(10);
/// How soon a server is asked again of which nothing is known yet.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// What the engine is told.
#[derive(Debug)]
pub enum Order {
    /// Ask this.
    Start {
        /// The check's number.
        id: CheckId,
        /// Who is asked what.
        key: CheckKey,
        /// From where.
        source: Option<IpAddr>,
        /// What the server counts as so far.
        health: Health,
        /// Where the last answer is put for who wants to see it.
        last: Arc<Mutex<Last>>,
    },
    /// From now on ask from elsewhere.
    Move {
        /// The check's number.
        id: CheckId,
        /// From where.
        source: Option<IpAddr>,
    },
    /// Ask no more.
    Stop(CheckId),
    /// Tell a program of something.
    Hook {
        /// The program and its arguments.
        command: Arc<[String]>,
        /// What it is told.
        variables: Variables,
        /// Whether it is told whatever waits.
        is_needed: bool,
    },
}

/// What a check found out that changes something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finding {
    /// Which check.
    pub id: CheckId,
    /// What the server is.
    pub health: Health,
    /// How much of its weight its load leaves it.
    pub relief: f64,
}

/// A check's last answer.
#[derive(Clone, Debug, Default)]
pub struct Last {
    /// How many answers there were.
    pub asked: u64,
    /// How many of them were bad.
    pub failed: u64,
    /// How often the server could not be asked, for reasons of this host.
    pub unasked: u64,
    /// How long the last one took.
    pub took: Duration,
    /// What was wrong with it; `None` when it was good.
    pub error: Option<String>,
    /// The load that the server told.
    pub load: Option<f64>,
    /// Why the load that it was asked for cannot be read.
    pub load_error: Option<String>,
    /// The last ten answers, the newest at the end.
    pub recent: VecDeque<Recent>,
    /// When the server last went up or down by this check.
    pub turned: Option<SystemTime>,
    /// How often it went up or down.
    pub turns: u64,
}

/// Answers that are remembered.
const RECENT: usize = 10;

/// One answer.
#[derive(Clone, Debug)]
pub struct Recent {
    /// When it came.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What was wrong with it; `None` when it was good.
    pub error: Option<Arc<str>>,
}

impl Last {
    fn remember(&mut self, took: Duration, error: Option<&str>) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        // The same fault again shares the words.
        let before = self.recent.back().and_then(|last| last.error.clone());
        let error =
            error.map(|error| before.filter(|words| **words == *error).unwrap_or_else(|| error.into()));
        self.recent.push_back(Recent { at: SystemTime::now(), took, error });
    }
}

/// The thread with all checks. It ends when this is dropped.
#[derive(Debug)]
pub struct Engine {
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread; `tell` gets what checks find out, on that thread. Without `vip_checks` those that aim at VIPs
    /// find that there is no way.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        vip_checks: Option<Arc<VipChecks>>,
        tell: impl Fn(Finding) + Send + 'static,
    ) -> Result<Self, String> {
        let says = |error: std::io::Error| format!("health checks cannot run: {error}");
        let (orders, received) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(says)?;
        raise_file_limit();
        let thread = std::thread::Builder::new()
            .name("health".into())
            .spawn(move || {
                let tasks = tokio::task::LocalSet::new();
                tasks.block_on(&runtime, serve(received, vip_checks, Rc::new(tell)));
                // What is under way ends here, programs that check included.
                drop(tasks);
                // Files that do not answer are not waited for.
                runtime.shutdown_background();
            })
            .map_err(says)?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Tells the engine something.
    pub fn order(&self, order: Order) {
        // The thread ends after this does.
        if let Some(orders) = &self.orders {
            let _ = orders.send(order);
        }
    }
}

/// No check, and no program that checks, is left when this is gone.
impl Drop for Engine {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// A thousand checks need a thousand sockets, and many systems begin with that.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Tells a program of something.
async fn hook(command: &[String], variables: &Variables) {
    let program = command.first().map_or("", |program| program);
    let ended = tokio::time::timeout(HOOK_TIME, script::run(command, variables)).await;
    let problem = match ended {
        Ok(Ok(())) => return,
        Ok(Err(Fault::Server(problem) | Fault::Here(problem))) => problem,
        Err(_) => format!("{program}: it was ended after {} s", HOOK_TIME.as_secs()),
    };
    log::warn!(target: "hooks", why = problem; "hook: {problem}");
}

struct Check {
    source: watch::Sender<Option<IpAddr>>,
    task: JoinHandle<()>,
}

async fn serve(
    mut orders: mpsc::UnboundedReceiver<Order>,
    vip_checks: Option<Arc<VipChecks>>,
    tell: Rc<dyn Fn(Finding)>,
) {
    let mut checks: HashMap<CheckId, Check> = HashMap::new();
    let ports = Rc::new(Ports::default());
    let mut hooks: HashMap<Arc<[String]>, Rc<Semaphore>> = HashMap::new();
    let told = Rc::new(());
    let means = Means { open: Rc::new(Semaphore::new(OPEN_MAX)), tell, vip_checks, ports };
    while let Some(order) = orders.recv().await {
        match order {
            Order::Start { id, key, source, health, last } => {
                let (sender, source) = watch::channel(source);
                let tally = Tally::new(&key.spec, health);
                let job = run(id, key, source, tally, last, means.clone());
                checks.insert(id, Check { source: sender, task: tokio::task::spawn_local(job) });
            }
            Order::Move { id, source } => {
                if let Some(check) = checks.get(&id) {
                    check.source.send_replace(source);
                }
            }
            Order::Hook { command, variables, is_needed } => {
                // Each that runs or waits holds one.
                if Rc::strong_count(&told) > HOOKS_WAITING && !is_needed {
                    log::warn!(target: "hooks", "too many programs are to be told of something; one is not");
                    continue;
                }
                let turn = Rc::clone(
                    hooks.entry(Arc::clone(&command)).or_insert_with(|| Rc::new(Semaphore::new(1))),
                );
                let place = Rc::clone(&told);
                tokio::task::spawn_local(async move {
                    let _place = place;
                    // One after the other, in order: what is over must not be told before it begins.
                    let Ok(_turn) = turn.acquire().await else { return };
                    hook(&command, &variables).await;
                });
            }
            Order::Stop(id) => {
                if let Some(check) = checks.remove(&id) {
                    check.task.abort();
                }
                if checks.len().is_multiple_of(64) {
                    means.ports.forget_unused();
                }
            }
        }
    }
}

/// What all checks share.
#[derive(Clone)]
struct Means {
    open: Rc<Semaphore>,
    tell: Rc<dyn Fn(Finding)>,
    vip_checks: Option<Arc<VipChecks>>,
    ports: Rc<Ports>,
}

/// One check's life.
async fn run(
    id: CheckId,
    key: CheckKey,
    source: watch::Receiver<Option<IpAddr>>,
    mut tally: Tally,
    last: Arc<Mutex<Last>>,
    Means { open, tell, vip_checks, ports }: Means,
) {
    let (target, spec) = (key.target, Arc::clone(&key.spec));
    let prober = Prober::new(key, vip_checks, ports);
    let mut is_hindered = false;
    let mut health = tally.health();
    // Not all at once.
    tokio::time::sleep(spec.interval.min(FIRST_PAUSE).mul_f64(fastrand::f64())).await;
    loop {
        let began;
        let answer = {
            let _turn = open.acquire().await;
            began = Instant::now();
            let source = *source.borrow();
            // Boxed, because a check that waits for its time must be small.
            Box::pin(prober.ask(source)).await
        };
        let took = began.elapsed();
        let hindrance = match answer {
            Err(Fault::Here(error)) => {
                let mut noted = last.lock().unwrap_or_else(PoisonError::into_inner);
                noted.unasked += 1;
                noted.error = Some(format!("it was not asked: {error}"));
                Some(error)
            }
            Err(Fault::Server(error)) => {
                note_answer(target, &last, took, Err(error));
                if tally.note(false, None) {
                    note_turn(&last, &mut health, tally.health());
                    tell(Finding { id, health: tally.health(), relief: tally.relief() });
                }
                None
            }
            Ok(answer) => {
                let load = note_answer(target, &last, took, Ok(answer));
                if tally.note(true, load) {
                    note_turn(&last, &mut health, tally.health());
                    tell(Finding { id, health: tally.health(), relief: tally.relief() });
                }
                None
            }
        };
        if hindrance.is_some() != is_hindered {
            is_hindered = hindrance.is_some();
            match hindrance {
                Some(error) => log::warn!(target: "health",
                    "{target} cannot be asked ({}), which says nothing of it: {error}", spec.probe.name()),
                None => log::info!(target: "health", "{target} can be asked again ({})", spec.probe.name()),
            }
        }
        let jitter = f64::from(spec.jitter) / 1_000.0 * (fastrand::f64() * 2.0 - 1.0);
        let interval = if tally.is_undecided() { spec.interval.min(FIRST_PAUSE) } else { spec.interval };
        let pause = interval.mul_f64(1.0 + jitter).saturating_sub(began.elapsed());
        tokio::time::sleep(pause.max(Duration::from_millis(10))).await;
    }
}

/// Notes that a server went up or down; a finding may be about its load alone.
fn note_turn(last: &Mutex<Last>, before: &mut Health, now: Health) {
    let was = std::mem::replace(before, now);
    if was != now {
        let mut noted = last.lock().unwrap_or_else(PoisonError::into_inner);
        noted.turned = Some(SystemTime::now());
        // The first answers say what it is, not that it changed.
        noted.turns += u64::from(was != Health::Checking);
    }
}

/// Puts an answer where it is seen. Returns the load that it told.
fn note_answer(
    target: SocketAddr,
    last: &Mutex<Last>,
    took: Duration,
    answer: Result<Answer, String>,
) -> Option<f64> {
    let mut noted = last.lock().unwrap_or_else(PoisonError::into_inner);
    noted.asked += 1;
    noted.took = took;
    noted.load = None;
    match answer {
        Err(error) => {
            noted.failed += 1;
            noted.remember(took, Some(&error));
            noted.error = Some(error);
        }
        Ok(answer) => {
            noted.remember(took, None);
            noted.error = None;
            if let Some(told) = answer.load {
                say_load_edge(target, noted.load_error.as_deref(), told.as_ref().err());
                noted.load = told.as_ref().ok().copied();
                noted.load_error = told.err();
            }
        }
    }
    noted.load
}

/// Logs when a server's load can no longer be read, and when it can again: protection from overload depends on it.
fn say_load_edge(target: SocketAddr, before: Option<&str>, now: Option<&String>) {
    match (before, now) {
        (None, Some(error)) => {
            log::warn!(target: "health", "the load of {target} is not known, so it keeps its weight: {error}");
        }
        (Some(_), None) => log::info!(target: "health", "the load of {target} is known again"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HealthSpec, Http, Probe};
    use dataplane::wire::ProxyVersion;
    use std::io::{Read, Write};
    use std::net::{TcpListener, UdpSocket};
    use std::sync::mpsc::{Receiver, channel};

    fn spec(probe: Probe) -> Arc<HealthSpec> {
        let interval = Duration::from_millis(100);
        let timeout = Duration::from_millis(500);
        let (rise, fall, jitter) = (1, 2, 100);
        Arc::new(HealthSpec {
            probe,
            l4_port: None,
            interval,
            timeout,
            rise,
            fall,
            jitter,
            initially_up: false,
            load: None,
            at_vip: false,
            proxy: None,
        })
    }

    fn tcp() -> Arc<HealthSpec> {
        spec(Probe::Tcp { send: Vec::new(), expect: Vec::new() })
    }

    fn engine() -> (Engine, Receiver<Finding>) {
        let (sender, findings) = channel();
        let engine = Engine::start(None, move |finding| sender.send(finding).unwrap_or_default()).unwrap();
        (engine, findings)
    }

    fn begin(engine: &Engine, id: u64, target: SocketAddr, spec: Arc<HealthSpec>) -> Arc<Mutex<Last>> {
        let last = Arc::new(Mutex::new(Last::default()));
        let key = CheckKey { target, spec, vip: None };
        let health = Health::Checking;
        engine.order(Order::Start { id: CheckId(id), key, source: None, health, last: Arc::clone(&last) });
        last
    }

    fn next(findings: &Receiver<Finding>) -> (u64, Health) {
        let finding = findings.recv_timeout(Duration::from_secs(10)).unwrap();
        (finding.id.0, finding.health)
    }

    #[test]
    fn a_server_that_listens_is_up_and_one_that_stops_goes_down() {
        let (engine, findings) = engine();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let last = begin(&engine, 1, address, tcp());
        assert_eq!(next(&findings), (1, Health::Up));
        drop(server);
        assert_eq!(next(&findings), (1, Health::Down));
        assert!(last.lock().unwrap().error.as_ref().unwrap().contains("refused"));
        let _server = TcpListener::bind(address).unwrap();
        assert_eq!(next(&findings), (1, Health::Up));
    }

    #[test]
    fn ending_one_check_leaves_the_others_alone() {
        let (engine, findings) = engine();
        let servers: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let lasts: Vec<_> = servers
            .iter()
            .zip(1..)
            .map(|(server, id)| begin(&engine, id, server.local_addr().unwrap(), tcp()))
            .collect();
        let mut first = [next(&findings), next(&findings)];
        first.sort_by_key(|(id, _)| *id);
        assert_eq!(first, [(1, Health::Up), (2, Health::Up)]);
        engine.order(Order::Stop(CheckId(1)));
        let asked = |at: usize| lasts[at].lock().unwrap().asked;
        let (one, two) = (asked(0), asked(1));
        let deadline = Instant::now() + Duration::from_secs(10);
        while asked(1) < two + 5 {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert!(asked(0) <= one + 1, "at most the one that was under way");
        assert!(findings.try_recv().is_err(), "and nothing changed");
    }

    #[test]
    fn a_datagram_that_nobody_takes_is_bad_and_silence_is_good() {
        let (engine, findings) = engine();
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let probe = || spec(Probe::Udp { send: b"x".to_vec(), expect: Vec::new() });
        begin(&engine, 1, silent.local_addr().unwrap(), probe());
        begin(&engine, 2, gone, probe());
        let mut found = [next(&findings), next(&findings)];
        found.sort_by_key(|(id, _)| *id);
        assert_eq!(found, [(1, Health::Up), (2, Health::Down)]);
    }

    #[test]
    fn scripts_are_run_with_the_servers_address_and_killed_when_they_hang() {
        let (engine, findings) = engine();
        let script = |text: &str| {
            let command = ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
            spec(Probe::Script { command })
        };
        let target = "127.0.0.9:80".parse().unwrap();
        begin(&engine, 1, target, script("test $SLUICE_ADDRESS = 127.0.0.9 -a $SLUICE_PORT = 80"));
        begin(&engine, 2, target, script("sleep 60"));
        assert_eq!(next(&findings), (1, Health::Up));
        assert_eq!(next(&findings), (2, Health::Down));
    }

    /// A server that gives these answers, one to each connection and the last for ever, and tells what it was sent. With
    /// `at_once` it does not wait to be asked.
    fn answering(at_once: bool, answers: &'static [&'static [u8]]) -> (SocketAddr, Receiver<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, asked) = channel();
        std::thread::spawn(move || {
            let mut answers = answers.iter().chain(std::iter::repeat(answers.last().unwrap()));
            for stream in listener.incoming() {
                let (mut stream, answer) = (stream.unwrap(), answers.next().unwrap());
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let mut room = [0; 1_024];
                if at_once {
                    let _ = stream.write_all(answer);
                }
                let mut len = 0;
                let is_whole =
                    |seen: &[u8]| seen.ends_with(b"\r\n\r\n") && seen.windows(3).any(|part| part == b"GET");
                while !is_whole(&room[..len]) {
                    match stream.read(&mut room[len..]) {
                        Ok(0) | Err(_) => break,
                        Ok(more) => len += more,
                    }
                }
                let _ = sender.send(room[..len].to_vec());
                if !at_once {
                    let _ = stream.write_all(answer);
                }
            }
        });
        (address, asked)
    }

    fn http() -> Arc<HealthSpec> {
        spec(Probe::Http(Box::new(Http {
            method: "GET".into(),
            path: "/".into(),
            host: None,
            status: vec![200..=299],
            body: None,
            tls: None,
        })))
    }

    #[test]
    fn answers_that_everybody_else_takes_are_good() {
        let (engine, findings) = engine();
        let many: &'static [u8] = {
            let headers: String = (0..500).map(|n| format!("X-{n}: {n}\r\n")).collect();
            format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: 0\r\n\r\n").into_bytes().leak()
        };
        let odd: [&'static [u8]; 5] = [
            b"HTTP/1.1 200 OK\r\nX-Long: a\r\n  b\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX(odd): 1\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\nhello",
            many,
        ];
        let mut lasts = Vec::new();
        for (answer, id) in odd.into_iter().zip(1..) {
            let (address, _) = answering(false, vec![answer].leak());
            lasts.push(begin(&engine, id, address, http()));
        }
        // One that answers before it is asked.
        let (early, _) = answering(true, &[b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]);
        lasts.push(begin(&engine, 6, early, http()));
        let mut found: Vec<_> = (0..6).map(|_| next(&findings)).collect();
        found.sort_by_key(|(id, _)| *id);
        let errors: Vec<_> = lasts.iter().map(|last| last.lock().unwrap().error.clone()).collect();
        assert!(found.iter().all(|(_, health)| *health == Health::Up), "{found:?}: {errors:?}");
    }

    #[test]
    fn servers_that_want_a_proxy_header_get_one_that_tells_of_nobody() {
        let (engine, _findings) = engine();
        let good: &[&[u8]] = &[b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"];
        for (version, wanted) in [
            (ProxyVersion::One, &b"PROXY UNKNOWN\r\nGET / HTTP/1.1\r\n"[..]),
            (ProxyVersion::Two, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0GET / HTTP/1.1\r\n"),
        ] {
            let (address, asked) = answering(false, good);
            let spec = HealthSpec { proxy: Some(version), ..HealthSpec::clone(&http()) };
            begin(&engine, wanted.len() as u64, address, Arc::new(spec));
            let seen = asked.recv_timeout(Duration::from_secs(10)).unwrap();
            assert!(seen.starts_with(wanted), "{seen:?}");
        }
    }

    #[test]
    fn what_this_host_cannot_do_is_no_servers_failure() {
        let (engine, findings) = engine();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = server.local_addr().unwrap();
        let last = Arc::new(Mutex::new(Last::default()));
        let key = CheckKey { target, spec: tcp(), vip: None };
        // An address that this host does not have.
        let source = Some("192.0.2.200".parse().unwrap());
        let (id, health) = (CheckId(1), Health::Checking);
        engine.order(Order::Start { id, key, source, health, last: Arc::clone(&last) });
        let deadline = Instant::now() + Duration::from_secs(10);
        while last.lock().unwrap().unasked < 5 {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert!(findings.try_recv().is_err(), "nothing is known of it");
        let said = last.lock().unwrap().clone();
        assert_eq!((said.asked, said.failed), (0, 0));
        assert!(said.error.unwrap().starts_with("it was not asked: "));
        // And when it can be asked again, it is.
        engine.order(Order::Move { id, source: None });
        assert_eq!(next(&findings), (1, Health::Up));
    }

    #[test]
    fn more_checks_of_one_slow_server_than_there_are_ports_wait_for_each_other() {
        let (engine, findings) = engine();
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = server.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut room = [0; 64];
            while let Ok((len, from)) = server.recv_from(&mut room) {
                let _ = server.send_to(&room[..len], from);
            }
        });
        let mut lasts = Vec::new();
        for id in 0..700 {
            let send = format!("question {id}").into_bytes();
            let probe = Probe::Udp { send: send.clone(), expect: send };
            let spec = HealthSpec { timeout: Duration::from_secs(5), ..HealthSpec::clone(&spec(probe)) };
            let last = Arc::new(Mutex::new(Last::default()));
            let key = CheckKey { target, spec: Arc::new(spec), vip: None };
            let source = Some("127.0.0.1".parse().unwrap());
            let (id, health) = (CheckId(id), Health::Checking);
            engine.order(Order::Start { id, key, source, health, last: Arc::clone(&last) });
            lasts.push(last);
        }
        for _ in 0..700 {
            assert_eq!(next(&findings).1, Health::Up);
        }
        let failed: u64 = lasts.iter().map(|last| last.lock().unwrap().failed).sum();
        assert_eq!(failed, 0);
    }

    #[test]
    fn what_a_script_started_ends_with_it_and_with_the_daemon() {
        let folder = std::env::temp_dir().join(format!("sluice-script-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let note = folder.join("pids");
        let (engine, findings) = engine();
        let text = format!("sleep 600 & echo $! >> {}; sleep 600", note.display());
        let command = ["/bin/sh", "-c", &text].map(str::to_owned).to_vec();
        begin(&engine, 1, "127.0.0.9:80".parse().unwrap(), spec(Probe::Script { command }));
        assert_eq!(next(&findings), (1, Health::Down));
        let started = || std::fs::read_to_string(&note).unwrap_or_default().lines().count();
        let before = started();
        let deadline = Instant::now() + Duration::from_secs(10);
        while started() == before {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        drop(engine);
        let is_alive = |pid: &str| {
            // A killed one may wait to be asked for its status.
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            state.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
        };
        let pids = std::fs::read_to_string(&note).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while pids.lines().any(is_alive) {
            assert!(Instant::now() < deadline, "{pids}");
            std::thread::yield_now();
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
