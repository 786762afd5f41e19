//! `sluiced`: reads the configuration, starts DPDK, the workers and the control thread,
//! and takes them down again in order.
//!
//! Exit status: 0 stopped as asked, 1 could not start (one line says why and what to do), 78 the
//! configuration is bad and no last good state is kept (EX_CONFIG of sysexits.h: another try would
//! end so too); `--check` exits 0 good, 1 cannot be read or parsed, 2 wrong.

mod machine;
mod preflight;
mod replay;

use clap::Parser;
use ctrl::admin::Server;
use ctrl::compile;
use ctrl::config::{self, Config, Loaded};
use ctrl::control::{Control, Files, Identity, Parts, Request};
use ctrl::desired::last_good::{self, Keeper};
use ctrl::devices::DeviceFacts;
use ctrl::discovery::Discovery;
use ctrl::health::{self, Engine};
use ctrl::journal;
use ctrl::kernel::KernelPath;
use ctrl::lists::Lists;
use ctrl::state::{self, Settings};
use ctrl::steering::Ladder;
use ctrl::web::Ask;
use dataplane::cookie::Cookies;
use dataplane::director::{Director, Limits, Sequences};
use dataplane::dpdk::{self, Clock, Device, DeviceSettings, Eal, EalSettings, Memory, Pool};
use dataplane::flow::FlowHasher;
use dataplane::ids::{PortId, WorkerId};
use dataplane::snapshot::{Snapshot, mailboxes};
use dataplane::stats::WorkerStats;
use dataplane::steering::{Seat, Steering, Toeplitz};
use dataplane::worker::{self, Worker};
use machine::Hardware;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, SystemTime};

/// A layer-4 load balancer on DPDK.
#[derive(Debug, Parser)]
#[command(name = "sluiced", version = env!("SLUICE_VERSION"), max_term_width = 100)]
struct Arguments {
    /// The configuration to run.
    #[arg(long, value_name = "FILE", default_value = "/etc/sluice/sluice.toml")]
    config: PathBuf,
    /// Where the last good state is kept; /var/lib/sluice for files in /etc, else `state` beside the file.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Only check a configuration: exit 0 good, 1 cannot be read or parsed, 2 wrong.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    check: Option<PathBuf>,
    /// Print the configuration's form as a JSON Schema, for editors.
    #[arg(long, conflicts_with_all = ["config", "check"])]
    schema: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(file) = &arguments.check {
        return ExitCode::from(ctrl::cli::check(file, false));
    }
    if arguments.schema {
        println!("{:#}", config::schema());
        return ExitCode::SUCCESS;
    }
    if let Err(error) = journal::start() {
        eprintln!("sluiced: there can be no log: {error}");
        return ExitCode::FAILURE;
    }
    let ended = run(&arguments);
    health::end_orphans();
    let status = match &ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(_)) => ExitCode::from(EX_CONFIG),
        Err(Failure::Start(_)) => ExitCode::FAILURE,
    };
    if let Err(Failure::Configuration(message) | Failure::Start(message)) = &ended {
        message.lines().for_each(|line| log::error!(target: "start", "{line}"));
    }
    journal::flush();
    status
}

/// Why the daemon did not start, a problem a line.
enum Failure {
    /// The files are bad, and there is nothing else to run.
    Configuration(String),
    /// Something else.
    Start(String),
}

/// sysexits.h: something was found wrong with the configuration. The unit does not start again then.
const EX_CONFIG: u8 = 78;

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Start(message)
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    // A reload reads the same file, wherever the process stands then.
    let path = &arguments.config;
    let path = std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let state = arguments.state.clone().unwrap_or_else(|| last_good::usual_folder(&path));
    if let Err(error) = journal::remember(&last_good::events_file(&state, &path)) {
        log::warn!(target: "start", "events are not kept over a restart: {error}");
    }
    let (loaded, fallback) = load(&path, &state).map_err(Failure::Configuration)?;
    config::shown(&loaded.warnings).iter().for_each(|line| log::warn!(target: "start", "{line}"));
    let config = &loaded.config;

    // Everything that can be found wrong without touching a device.
    let (sender, requests) = channel();
    let admin = Server::bind(&config.admin)
        .map_err(|error| format!("admin.socket {}: {error}", config.admin.socket.display()))?;
    let control_cores = preflight::control_cores(&config.dataplane.workers)?;
    preflight::keep_threads_on(&control_cores);
    let _held = preflight::claim_devices(&config.ports, config.dataplane.workers.len())?;
    let buffers = buffers_needed(config);
    preflight::session_memory(config)?;
    let memory = preflight::memory(config.dataplane.hugepages, buffers, preflight::buffer_room(config))?;

    preflight::clear_runtime_folder();
    let mut eal = Eal::start(&EalSettings {
        worker_cores: config.dataplane.workers.clone(),
        control_cores,
        memory,
        pci: devices(config, |device| matches!(device, config::Device::Pci(_))),
        vdevs: devices(config, |device| matches!(device, config::Device::Vdev(_))),
    })
    .map_err(|error| format!("DPDK does not start: {error}; {}", preflight::remedy(config, &error.reason)))?;
    let clock = Clock::start(&eal);
    let hardware = start_hardware(&mut eal, config, buffers)?;
    dpdk::close_on_exec();
    let files = Paths { config: path, state, fallback };
    Ok(serve(&eal, clock, hardware, loaded, files, memory, &admin, (sender, requests))?)
}

/// Where things stand, and why another file than the operator's runs, if it does.
struct Paths {
    config: PathBuf,
    state: PathBuf,
    fallback: Option<String>,
}

/// The configuration; when it is bad, the last good one.
fn load(path: &Path, state: &Path) -> Result<(Loaded, Option<String>), String> {
    let error = match config::load_to_start(path) {
        Ok(loaded) => return Ok((loaded, None)),
        Err(error) => error,
    };
    let problems = config::shown(error.problems()).join("\n");
    let Some((loaded, kept)) = last_good::load(state, path) else { return Err(problems) };
    problems.lines().for_each(|line| log::warn!(target: "start", "{line}"));
    let fallback = format!(
        "{} is bad: the last good state runs, {}; mend the file, then `sluice config reload`",
        path.display(),
        kept.display()
    );
    log::warn!(target: "start", "{fallback}");
    Ok((loaded, Some(fallback)))
}

fn devices(config: &Config, wanted: impl Fn(&config::Device) -> bool) -> Vec<String> {
    let devices = config.ports.iter().filter(|port| port.vlan.is_none()).map(|port| &port.device);
    devices.filter(|device| wanted(device)).map(|device| device.text().to_owned()).collect()
}

/// Frames that each queue holds in each direction.
const DESCRIPTORS: u16 = 1_024;

/// Packet buffers for full queues, bursts in flight, waiting and handed-over packets, each lcore's
/// cache, and what devices keep for ever.
fn buffers_needed(config: &Config) -> u32 {
    let workers = config.dataplane.workers.len() as u32;
    let queues = config.ports.len() as u32 * workers;
    // Of all the rings that lead to a worker two may be full before buffers get scarce.
    let rings = (workers - 1).min(2) * worker::RING_SIZE as u32;
    let per_worker = 256 + 512 + 1_024 + rings;
    let kept: u32 = config.ports.iter().map(|port| replay::frames_kept(port.device.text())).sum();
    (queues * 2 * u32::from(DESCRIPTORS) + workers * per_worker).max(8_192) + kept
}

fn start_hardware(eal: &mut Eal, config: &Config, buffers: u32) -> Result<Hardware, String> {
    let (pools, by_worker) = pools(eal, config, buffers)?;
    let settings = DeviceSettings {
        queues: config.dataplane.workers.len() as u16,
        rss_key: random_key()?,
        descriptors: DESCRIPTORS,
        mtu: None,
        vlans: Vec::new(),
    };
    let mut devices = Vec::new();
    for (at, port) in config.ports.iter().filter(|port| port.vlan.is_none()).enumerate() {
        let id = PortId(at as u16);
        let settings = DeviceSettings { mtu: port.mtu, vlans: vlans_of(config, port), ..settings.clone() };
        let (name, text) = (port.device.name(), port.device.text());
        let said = |line: Option<String>| line.map_or(String::new(), |line| format!(" [{line}]"));
        if !Device::is_taken(eal, name) {
            let line = eal.complaint_about(name);
            let remedy = preflight::remedy(config, line.as_deref().unwrap_or_default());
            return Err(format!(
                "port {}: device {text}: no driver of DPDK took it{}; {remedy}",
                port.name,
                said(line)
            ));
        }
        let mark = eal.mark();
        let device = Device::start(eal, id, name, by_worker.clone(), &settings).map_err(|error| {
            format!("port {}: device {text}: {error}{}", port.name, said(eal.complaint_since(mark)))
        })?;
        if device.scatters() {
            log::warn!(target: "start",
                "port {}: driver {} gives long frames in several buffers; each is copied into one",
                port.name,
                device.driver()
            );
        }
        devices.push(device);
    }
    Ok(Hardware { devices, device_of: machine::devices_of(config), pools, rules: Vec::new() })
}

/// The VLANs that are ports on a link.
fn vlans_of(config: &Config, link: &config::PortSpec) -> Vec<u16> {
    let is_link =
        |parent: PortId| config.ports.get(usize::from(parent.0)).is_some_and(|of| of.name == link.name);
    let subs = config.ports.iter().filter_map(|port| port.vlan);
    subs.filter(|sub| is_link(sub.parent)).map(|sub| sub.vlan).collect()
}

/// A pool of buffers on each NUMA node that has workers, and each worker's.
fn pools(eal: &Eal, config: &Config, buffers: u32) -> Result<(Vec<Pool>, Vec<Pool>), String> {
    let workers = config.dataplane.workers.len();
    let sockets: Vec<_> = (0..workers).map(|at| dpdk::socket_of(eal, at as u32 + 1)).collect();
    let distinct: BTreeSet<_> = sockets.iter().copied().collect();
    let share = buffers.div_ceil(distinct.len() as u32);
    let mut pools = BTreeMap::new();
    for socket in distinct {
        let pool =
            Pool::create(&format!("packets{socket}"), share, preflight::buffer_room(config), socket as i32);
        let pool = pool.map_err(|error| {
            format!("no memory for {share} packet buffers on NUMA node {socket}: {error}; free some memory or reserve more hugepages")
        })?;
        pools.insert(socket, pool);
    }
    let by_worker = sockets.iter().map(|socket| pools[socket]).collect();
    Ok((pools.into_values().collect(), by_worker))
}

/// A key for the devices' hash: nobody outside can tell which worker a flow will go to.
fn random_key() -> Result<Vec<u8>, String> {
    /// The longest that devices have.
    const LONGEST: usize = 52;
    loop {
        let mut key = vec![0; LONGEST];
        getrandom::fill(&mut key)
            .map_err(|error| format!("the system gives no randomness for the devices' hash: {error}"))?;
        if Toeplitz::new(&key).is_some_and(|hash| hash.spreads_ports()) {
            return Ok(key);
        }
    }
}

/// A worker's counters and tables, made on its own core, so that they lie in the memory next to it.
fn prepare(
    eal: &Eal,
    config: &Config,
    steering: &Arc<Steering>,
    sequences: Sequences,
    cookies: Cookies,
) -> Result<(Vec<Arc<WorkerStats>>, Vec<Director>), String> {
    let (sender, made) = channel();
    let ports = config.ports.len();
    let limits = Limits::for_sessions(config.dataplane.session_capacity, config.session_capacity_ipv6());
    let mut lcores = Vec::new();
    for at in 0..config.dataplane.workers.len() {
        let seat = Seat { worker: WorkerId(at as u16), steering: Arc::clone(steering) };
        let (sender, hasher) = (sender.clone(), hasher()?);
        lcores.push(dpdk::launch(eal, at as u32 + 1, move || {
            let stats = Arc::new(WorkerStats::new(ports));
            let mut director = Director::new(limits, hasher, seat, Arc::clone(&stats));
            director.continue_sequences(sequences);
            director.use_cookies(cookies);
            let _ = sender.send((at, stats, director));
        })?);
    }
    drop(sender);
    // What the lcores send comes before they end; waiting for it does not keep this core busy.
    let mut all: Vec<_> = made.iter().collect();
    lcores.into_iter().for_each(dpdk::Lcore::join);
    all.sort_by_key(|(at, ..)| *at);
    Ok(all.into_iter().map(|(_, stats, director)| (stats, director)).unzip())
}

#[allow(clippy::too_many_arguments, reason = "the one place where everything meets")]
fn serve(
    eal: &Eal,
    clock: Clock,
    mut hardware: Hardware,
    loaded: Loaded,
    files: Paths,
    memory: Memory,
    admin: &Server,
    (sender, requests): (Sender<Request>, std::sync::mpsc::Receiver<Request>),
) -> Result<(), String> {
    let config = &loaded.config;
    let facts: Vec<_> = hardware
        .device_of
        .iter()
        .zip(&config.ports)
        .map(|(at, port)| (&hardware.devices[*at], port))
        .map(|(device, port)| DeviceFacts {
            driver: device.driver().to_owned(),
            mac: device.mac(),
            // A sub-interface may have smaller packets than its link.
            mtu: port.mtu.map_or(device.mtu(), |mtu| mtu.min(device.mtu())),
        })
        .collect();
    let count = config.dataplane.workers.len();
    let (steering, choices) = machine::steering(&mut hardware, config, hasher()?);
    let steering = Arc::new(steering);
    let (publisher, mailboxes) = mailboxes(count);
    let fresh = random_words()?;
    let (key, kept) = state::sequence_key(&files.state, fresh);
    let hasher = FlowHasher::new(key);
    // Without a key there was no process before, or nobody can know what it did.
    let sequences = match key == fresh {
        true => Sequences::first(hasher, since_epoch()),
        false => Sequences::continued(hasher, since_epoch()),
    };
    let cookies = Cookies::of_key(key, since_epoch());
    let (stats, directors) = prepare(eal, config, &steering, sequences, cookies)?;
    let mut links = Vec::new();
    let mut workers = Vec::new();
    let mut kernel_lanes = Vec::new();
    let empty = Arc::new(Snapshot::empty(compile::ports(config, &facts).to_vec()));
    let peers = worker::peers(count, facts.len());
    for (at, ((mailbox, director), peers)) in mailboxes.into_iter().zip(directors).zip(peers).enumerate() {
        let (link, worker_link) = worker::link();
        links.push(link);
        let (kernel, kernel_lane) = worker::kernel_lane();
        kernel_lanes.push(kernel_lane);
        let ports = hardware.devices.iter_mut().filter_map(Device::take_queue).collect();
        workers.push(Worker::new(worker::Parts {
            id: WorkerId(at as u16),
            ports,
            sub_interfaces: config.ports.iter().filter_map(|port| port.vlan).collect(),
            director,
            world: Arc::clone(&empty),
            mailbox,
            peers,
            link: worker_link,
            kernel: Some(kernel),
            stats: Arc::clone(&stats[at]),
        }));
    }

    // Packets are forwarded also without what cannot be started here.
    let mut missing = Vec::new();
    let mut note = |error: String| {
        log::warn!(target: "start", "{error}");
        missing.push(error);
    };
    if let Err(error) = kept {
        note(format!(
            "{}: {error}; after the next start new connections may wait for servers to forget old ones",
            files.state.display()
        ));
    }
    let kernel =
        KernelPath::start(config, &facts, kernel_lanes, Settings::of(&files.state)).map_err(&mut note).ok();
    let found = sender.clone();
    // A control thread that ends wants to know nothing more.
    let vip_checks = kernel.as_ref().and_then(KernelPath::vip_checks).cloned();
    if let Err(error) = health::adopt_orphans() {
        note(format!("what checks' scripts leave behind is not ended: {error}"));
    }
    let engine =
        Engine::start(vip_checks, move |finding| found.send(Request::Found(finding)).unwrap_or_default());
    let engine = engine.map_err(&mut note).ok();
    let heard = sender.clone();
    let discovery = Discovery::start(move |news| heard.send(Request::Discovered(news)).unwrap_or_default());
    let discovery = discovery.map_err(&mut note).ok();
    let read = sender.clone();
    let lists = Lists::start(move |news| read.send(Request::Listed(news)).unwrap_or_default());
    let lists = lists.map_err(|error| note(format!("lists of addresses are not read: {error}"))).ok();
    let asks = sender.clone();
    let ask = Ask::by(move |call| asks.send(Request::Call(call)).is_ok());
    let told = sender.clone();
    let reader = Files::start(&loaded, files.config.clone(), move |done| {
        told.send(done.into()).unwrap_or_default();
    });
    let reader = reader.map_err(|error| note(format!("the files are not read again: {error}"))).ok();
    let keeper = Keeper::start(&files.state, &files.config);
    let keeper = keeper.map_err(|error| note(format!("the last good state is not kept: {error}"))).ok();
    let identity = Identity {
        version: env!("SLUICE_VERSION").to_owned(),
        dpdk: dpdk::version(),
        memory: preflight::describe(memory),
        config_path: files.config,
        fallback: files.fallback,
        missing,
    };
    let ladder = Ladder::new(steering, choices);
    let parts = Parts {
        identity,
        loaded,
        facts,
        devices: hardware,
        publisher,
        links,
        files: reader,
        keeper,
        watchdog: machine::watchdog(),
        kernel,
        engine,
        access: Some(admin.access()),
        ask: Some(ask),
        discovery,
        lists,
        ladder,
        stats,
        requests,
    };
    let mut control = Control::new(parts, clock.now())?;

    let stop = Arc::new(AtomicBool::new(false));
    let mut lcores = Vec::new();
    let launched = workers.into_iter().enumerate().try_for_each(|(at, worker)| {
        let stop = Arc::clone(&stop);
        lcores.push(dpdk::launch(eal, at as u32 + 1, move || work(worker, clock, &stop))?);
        Ok(())
    });
    let served = launched.and_then(|()| {
        machine::forward_signals(sender.clone())
            .and_then(|()| admin.serve(env!("SLUICE_VERSION"), sender))
            .map_err(|error| format!("a thread cannot be started: {error}"))
    });
    if served.is_ok() {
        machine::notify_ready();
        log::info!(target: "start", "ready");
        control.run(|| clock.now());
        log::info!(target: "start", "stopping");
    }
    // Also when something failed: devices close only after the last worker has ended.
    stop.store(true, Ordering::Release);
    lcores.into_iter().for_each(dpdk::Lcore::join);
    served
}

/// A worker's life: turns until told to stop.
fn work(mut worker: Worker<dpdk::Queue>, clock: Clock, stop: &AtomicBool) {
    let mut now = clock.now();
    while !stop.load(Ordering::Relaxed) {
        now = worker.timed_turn(now, || clock.now());
    }
}

fn hasher() -> Result<FlowHasher, String> {
    random_words().map(FlowHasher::new)
}

/// The time of day: a clock that goes on from one process to the next.
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn random_words() -> Result<[u64; 4], String> {
    let mut key = [0u64; 4];
    for word in &mut key {
        *word = getrandom::u64()
            .map_err(|error| format!("the system gives no randomness for the flow hash: {error}"))?;
    }
    Ok(key)
}
