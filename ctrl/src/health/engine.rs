//! All checks, on one thread: begins and ends them one by one, so that a change of one touches no other.

use super::probe::Prober;
use super::{CheckId, CheckKey, Tally};
use crate::balance::Health;
use crate::kernel::VipChecks;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

/// Questions that are open at a time; others wait their turn.
const OPEN_MAX: usize = 4_096;
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
    /// How long the last one took.
    pub took: Duration,
    /// What was wrong with it; `None` when it was good.
    pub error: Option<String>,
    /// The load that the server told.
    pub load: Option<f64>,
}

/// The thread with all checks. It ends when this is dropped.
#[derive(Debug)]
pub struct Engine {
    orders: mpsc::UnboundedSender<Order>,
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
        std::thread::Builder::new()
            .name("health".into())
            .spawn(move || {
                let tasks = tokio::task::LocalSet::new();
                tasks.block_on(&runtime, serve(received, vip_checks, Arc::new(tell)));
            })
            .map_err(says)?;
        Ok(Self { orders })
    }

    /// Tells the engine something.
    pub fn order(&self, order: Order) {
        // It ends only with the process.
        let _ = self.orders.send(order);
    }
}

/// A thousand checks need a thousand sockets, and many systems begin with that.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

struct Check {
    source: watch::Sender<Option<IpAddr>>,
    task: JoinHandle<()>,
}

async fn serve(
    mut orders: mpsc::UnboundedReceiver<Order>,
    vip_checks: Option<Arc<VipChecks>>,
    tell: Arc<dyn Fn(Finding)>,
) {
    let mut checks: HashMap<CheckId, Check> = HashMap::new();
    let open = Arc::new(Semaphore::new(OPEN_MAX));
    while let Some(order) = orders.recv().await {
        match order {
            Order::Start { id, key, source, health, last } => {
                let (sender, source) = watch::channel(source);
                let (open, tell) = (Arc::clone(&open), Arc::clone(&tell));
                let tally = Tally::new(&key.spec, health);
                let job = run(id, key, source, tally, vip_checks.clone(), last, open, tell);
                checks.insert(id, Check { source: sender, task: tokio::task::spawn_local(job) });
            }
            Order::Move { id, source } => {
                if let Some(check) = checks.get(&id) {
                    check.source.send_replace(source);
                }
            }
            Order::Stop(id) => {
                if let Some(check) = checks.remove(&id) {
                    check.task.abort();
                }
            }
        }
    }
}

/// One check's life.
#[allow(clippy::too_many_arguments, reason = "what a check has and where its findings go")]
async fn run(
    id: CheckId,
    key: CheckKey,
    source: watch::Receiver<Option<IpAddr>>,
    mut tally: Tally,
    vip_checks: Option<Arc<VipChecks>>,
    last: Arc<Mutex<Last>>,
    open: Arc<Semaphore>,
    tell: Arc<dyn Fn(Finding)>,
) {
    let (target, spec) = (key.target, Arc::clone(&key.spec));
    let prober = Prober::new(key, vip_checks);
    if let Err(error) = &prober {
        log::info!(target: "health", "health check of {target}: {error}");
    }
    // Not all at once.
    tokio::time::sleep(spec.interval.min(FIRST_PAUSE).mul_f64(fastrand::f64())).await;
    loop {
        let began;
        let answer = {
            let _turn = open.acquire().await;
            began = Instant::now();
            let source = *source.borrow();
            match &prober {
                // Boxed, because a check that waits for its time must be small.
                Ok(prober) => Box::pin(prober.ask(source)).await,
                Err(error) => Err(error.clone()),
            }
        };
        let (good, load) = (answer.is_ok(), answer.as_ref().ok().and_then(|answer| answer.load));
        {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            let Last { asked, failed, .. } = *last;
            let failed = failed + u64::from(!good);
            *last = Last { asked: asked + 1, failed, took: began.elapsed(), error: answer.err(), load };
        }
        if tally.note(good, load) {
            tell(Finding { id, health: tally.health(), relief: tally.relief() });
        }
        let jitter = f64::from(spec.jitter) / 1_000.0 * (fastrand::f64() * 2.0 - 1.0);
        let interval = if tally.is_undecided() { spec.interval.min(FIRST_PAUSE) } else { spec.interval };
        let pause = interval.mul_f64(1.0 + jitter).saturating_sub(began.elapsed());
        tokio::time::sleep(pause.max(Duration::from_millis(10))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HealthSpec, Probe};
    use std::net::{SocketAddr, TcpListener, UdpSocket};
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
}
