//! The `sluice` command: what can be typed, and what it prints.
//!
//! Exit status: 0 done, 1 refused or failed, 2 bad usage; `config check` also uses 2 for a
//! file that parses but is wrong, as `sluiced --check` does.

mod arguments;
mod doctor;
mod print;
mod shape;
mod table;
mod top;

pub use arguments::Arguments;

use crate::admin::{CallError, Client};
use crate::config;
use arguments::{
    AclVerb, BanVerb, ConfigVerb, Imagined, Keys, ListVerb, Noun, RouteVerb, ServerVerb, ServiceVerb,
    SessionConditions, SessionVerb, StatsPart, TopPart,
};
use clap::CommandFactory;
use serde_json::{Value, json};
use shape::Shape;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The socket of a daemon whose configuration says none.
const SOCKET: &str = "/run/sluice/sluice.sock";

/// Runs the command and returns its exit status.
pub fn run(arguments: &Arguments) -> u8 {
    table::set_wide(arguments.wide);
    let Arguments { sort, columns, rate, .. } = arguments;
    shape::set(Shape { sort: sort.clone(), columns: columns.clone(), rate: *rate });
    if let Noun::Completions { shell } = arguments.noun {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "sluice", &mut script);
        return u8::from(finish(io::stdout().write_all(&script)).is_err());
    }
    if let Noun::Config(ConfigVerb::Check { file }) = &arguments.noun {
        let file = file.clone().or_else(|| file_of_daemon(arguments));
        return check(file.as_deref().unwrap_or(&arguments.config), arguments.json);
    }
    if let Some(pause) = arguments.watch {
        if !looks(&arguments.noun) {
            eprintln!("sluice: --watch is for commands that look; events have --follow");
            return 2;
        }
        loop {
            // A screen that is cleared, and the time, as watch(1) has them; a file gets one answer after the other.
            if io::stdout().is_terminal() {
                print!("\x1b[H\x1b[2J");
                println!("{}  every {pause} s\n", humantime::format_rfc3339_seconds(SystemTime::now()));
            }
            answer(arguments);
            std::thread::sleep(Duration::from_secs(pause.max(1)));
        }
    }
    answer(arguments)
}

/// Whether a command only looks, so that it may be asked again and again.
fn looks(noun: &Noun) -> bool {
    match noun {
        Noun::Status { .. }
        | Noun::Session(_)
        | Noun::Local(_)
        | Noun::Port(_)
        | Noun::Neighbor(_)
        | Noun::Route(_)
        | Noun::Explain(_)
        | Noun::Doctor
        | Noun::Health(_)
        | Noun::Worker(_)
        | Noun::Attack(_)
        | Noun::Stats { .. } => true,
        Noun::Service(verb) => matches!(verb, ServiceVerb::List { .. } | ServiceVerb::Show { .. }),
        Noun::Server(verb) => matches!(verb, ServerVerb::List),
        Noun::Acl(_) => true,
        Noun::Ban(verb) => matches!(verb, BanVerb::List),
        Noun::Config(verb) => matches!(verb, ConfigVerb::Diff | ConfigVerb::History),
        Noun::Top { part, .. } => part.is_some(),
        Noun::Events { .. } | Noun::Completions { .. } | Noun::Methods => false,
    }
}

/// Asks once, and prints what there is to say.
fn answer(arguments: &Arguments) -> u8 {
    match ask(arguments) {
        Ok(status) => status,
        Err(CallError::Broken(message) | CallError::Refused(message)) => {
            if arguments.json {
                println!("{}", json!({ "error": message }));
            }
            eprintln!("sluice: {}", message.lines().map(print::printable).collect::<Vec<_>>().join("\n"));
            1
        }
    }
}

/// Where the daemon is asked: as it was said, or as its configuration says.
fn socket_of(arguments: &Arguments) -> PathBuf {
    let named = || {
        let text = std::fs::read_to_string(&arguments.config).ok()?;
        let table: toml::Table = text.parse().ok()?;
        Some(PathBuf::from(table.get("admin")?.get("socket")?.as_str()?))
    };
    arguments.socket.clone().or_else(named).unwrap_or_else(|| PathBuf::from(SOCKET))
}

/// The file that the running daemon reads, if one runs.
fn file_of_daemon(arguments: &Arguments) -> Option<PathBuf> {
    let mut client = Client::connect(&socket_of(arguments)).ok()?;
    let status = client.call("status", Value::Null).ok()?;
    status["config"].as_str().map(PathBuf::from)
}

/// Checks a file and says what is wrong with it, one line for each problem.
pub fn check(file: &Path, json: bool) -> u8 {
    // `sluice config check <(make-config)` has a pipe there.
    let is_pipe = file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
    let loaded = match std::fs::read_to_string(file).ok().filter(|_| is_pipe) {
        Some(text) => config::parse(&text, file),
        None => config::load(file),
    };
    let (status, problems) = match loaded {
        Ok(loaded) => (0, loaded.warnings),
        Err(error) => (error.exit_status(), error.problems().to_vec()),
    };
    if json {
        let list: Vec<_> = problems
            .iter()
            .map(|problem| {
                json!({
                    "file": problem.file, "line": problem.line, "key": problem.key, "message": problem.message,
                    "severity": if problem.severity == config::Severity::Error { "error" } else { "warning" },
                })
            })
            .collect();
        println!("{}", json!({ "ok": status == 0, "problems": list }));
    } else {
        problems.iter().for_each(|problem| eprintln!("{problem}"));
        if status == 0 {
            println!("{}: good", file.display());
        }
    }
    status
}

fn ask(arguments: &Arguments) -> Result<u8, CallError> {
    let mut client = Client::connect(&socket_of(arguments))?;
    let json = arguments.json;
    if let Noun::Top { once, part: None } = arguments.noun {
        match once {
            true => top::once(&mut client)?,
            false => top::run(client, &socket_of(arguments))?,
        }
        return Ok(0);
    }
    if let Noun::Doctor = arguments.noun {
        return doctor::run(&mut client, json);
    }
    if let Noun::Status { exit_code } = arguments.noun {
        let answer = client.call("status", Value::Null)?;
        show(&answer, json, print::status)?;
        return Ok(if exit_code { severity(&answer) } else { 0 });
    }
    if let Noun::Route(RouteVerb::Get { address }) = &arguments.noun {
        let way = client.call("route.get", json!({ "address": address }))?;
        show(&way, json, print::way)?;
        return Ok(u8::from(way["via"].is_null()));
    }
    let done = match &arguments.noun {
        Noun::Top { part: Some(TopPart::Sources), .. } => {
            list(&mut client, "source.list", json, print::sources)
        }
        Noun::Status { .. } | Noun::Doctor | Noun::Top { .. } | Noun::Route(RouteVerb::Get { .. }) => Ok(()),
        Noun::Service(verb) => service(&mut client, verb, json),
        Noun::Server(verb) => server(&mut client, verb, json),
        Noun::Session(SessionVerb::List(conditions)) => {
            let SessionConditions { client: from, vip, local, server, protocol, state, limit } = conditions;
            let params = json!({
                "client": from, "vip": vip, "local": local, "server": server, "protocol": protocol, "state": state,
            });
            list_of(&mut client, "session.list", (params, *limit), json, print::sessions)
        }
        Noun::Session(SessionVerb::Count) => {
            one(&mut client, "session.count", Value::Null, json, print::session_count)
        }
        Noun::Local(ListVerb::List) => list(&mut client, "local.list", json, print::locals),
        Noun::Port(ListVerb::List) => list(&mut client, "port.list", json, print::ports),
        Noun::Neighbor(ListVerb::List) => list(&mut client, "neighbor.list", json, print::neighbors),
        Noun::Route(RouteVerb::List) => list(&mut client, "route.list", json, print::routes),
        Noun::Explain(Imagined { protocol, source, destination, port, flags, reply }) => {
            let params = json!({
                "protocol": protocol, "source": source, "destination": destination, "port": port, "flags": flags, "reply": reply,
            });
            one(&mut client, "explain", params, json, print::explanation)
        }
        Noun::Health(ListVerb::List) => list(&mut client, "health.list", json, print::health),
        Noun::Worker(ListVerb::List) => list(&mut client, "worker.list", json, print::workers),
        Noun::Acl(AclVerb::List) => list(&mut client, "acl.list", json, print::acls),
        Noun::Acl(AclVerb::Get { address }) => {
            one(&mut client, "acl.get", json!({ "address": address }), json, print::listed)
        }
        Noun::Ban(BanVerb::List) => list(&mut client, "ban.list", json, print::bans),
        Noun::Ban(BanVerb::Add { prefix, lasting, reason }) => {
            let params =
                json!({ "prefix": prefix, "seconds": seconds(lasting.as_deref())?, "reason": reason });
            one(&mut client, "ban.add", params, json, print::changed)
        }
        Noun::Ban(BanVerb::Remove { prefix }) => {
            one(&mut client, "ban.remove", json!({ "prefix": prefix }), json, print::changed)
        }
        Noun::Attack(ListVerb::List) => list(&mut client, "attack.list", json, print::attacks),
        Noun::Stats { part: None } => one(&mut client, "stats", Value::Null, json, print::stats),
        Noun::Stats { part: Some(StatsPart::Drops) } => {
            one(&mut client, "stats.drops", Value::Null, json, print::drops)
        }
        Noun::Events { follow, since, service, kind, limit } => {
            let since = seconds(since.as_deref())?;
            let asked = json!({ "service": service, "kind": kind });
            events(&mut client, asked, since, *limit, *follow, json)
        }
        Noun::Config(ConfigVerb::Reload { confirm }) => {
            let params = json!({ "confirm_s": seconds(confirm.as_deref())? });
            one(&mut client, "config.reload", params, json, print::reloaded)?;
            if let Some(lasting) = confirm.as_ref().filter(|_| !json) {
                println!("goes back after {lasting} unless `sluice config confirm` comes first");
            }
            Ok(())
        }
        Noun::Config(ConfigVerb::Confirm) => {
            one(&mut client, "config.confirm", Value::Null, json, print::changed)
        }
        Noun::Config(ConfigVerb::History) => {
            one(&mut client, "config.history", Value::Null, json, print::history)
        }
        Noun::Completions { .. } => Ok(()),
        Noun::Config(ConfigVerb::Diff) => one(&mut client, "config.diff", Value::Null, json, print::diff),
        Noun::Config(ConfigVerb::Export { write }) => {
            one(&mut client, "config.export", json!({ "write": write }), json, print::export)
        }
        Noun::Config(ConfigVerb::Rollback) => {
            one(&mut client, "config.rollback", Value::Null, json, print::changed)
        }
        Noun::Config(ConfigVerb::Check { .. }) => Ok(()),
        Noun::Methods => one(&mut client, "methods", Value::Null, json, print::methods),
    };
    done.map(|()| 0)
}

/// Prints events: the last ones, or those since a time; and those that come, if that is asked for.
fn events(
    client: &mut Client,
    mut asked: Value,
    since: Option<u64>,
    limit: u16,
    follow: bool,
    json: bool,
) -> Result<(), CallError> {
    const PAUSE: Duration = Duration::from_millis(500);
    let print = |page: &Value| {
        let mut out = io::stdout().lock();
        let items = page["items"].as_array().map_or(&[][..], Vec::as_slice);
        // An object a line, so that a reader need not wait for an end that never comes.
        let written = items.iter().try_for_each(|event| match json {
            true => writeln!(out, "{event}"),
            false => print::event(&mut out, event),
        });
        finish(written.and_then(|()| out.flush()))
    };
    match since {
        Some(seconds) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let from = now.saturating_sub(Duration::from_secs(seconds));
            asked["since_ms"] = json!(from.as_millis() as u64);
            asked["after"] = json!(0);
        }
        None => asked["limit"] = json!(limit),
    }
    loop {
        let page = client.call("event.list", asked.clone())?;
        print(&page)?;
        asked["limit"] = Value::Null;
        let is_more = since.is_some() && page["items"].as_array().is_some_and(|items| items.len() == 1_000);
        asked["after"] = page["next"].clone();
        if !is_more {
            if !follow {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// How bad what `status` says is, as an exit status that says nothing else.
fn severity(status: &Value) -> u8 {
    let has_any = |key: &str| match &status[key] {
        Value::Object(object) => !object.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    match () {
        () if has_any("unready") => 4,
        () if has_any("warnings") || has_any("protected") => 3,
        () => 0,
    }
}

fn service(client: &mut Client, verb: &ServiceVerb, json: bool) -> Result<(), CallError> {
    let (method, params) = match verb {
        ServiceVerb::List { names } if names.is_empty() => {
            return list(client, "service.list", json, print::services);
        }
        ServiceVerb::List { names } => {
            let ask = |name| client.call("service.show", json!({ "name": name }));
            let services = names.iter().map(ask).collect::<Result<Vec<_>, _>>()?;
            let print: PrintOne =
                |out, all| print::services(out, (all.as_array().map_or(&[], Vec::as_slice), true));
            return show(&Value::Array(services), json, print);
        }
        ServiceVerb::Show { name } => {
            return one(client, "service.show", json!({ "name": name }), json, print::service);
        }
        ServiceVerb::Add { name, keys } => ("service.add", json!({ "name": name, "keys": keys.object()? })),
        ServiceVerb::Set { name, keys } => ("service.set", json!({ "name": name, "keys": keys.object()? })),
        ServiceVerb::Drain { name, lasting } => {
            ("service.drain", json!({ "name": name, "seconds": seconds(lasting.as_deref())? }))
        }
        ServiceVerb::Remove { name } => ("service.remove", json!({ "name": name })),
        ServiceVerb::Switch { name, to, lasting } => {
            let seconds = seconds(lasting.as_deref())?;
            ("service.switch", json!({ "name": name, "to": to, "seconds": seconds }))
        }
    };
    one(client, method, params, json, print::changed)
}

fn server(client: &mut Client, verb: &ServerVerb, json: bool) -> Result<(), CallError> {
    let of = |service: &str, address: &str| json!({ "service": service, "address": address });
    let (method, params) = match verb {
        ServerVerb::List => return list(client, "server.list", json, print::servers),
        ServerVerb::Add { service, address, keys } => {
            let mut params = of(service, address);
            params["keys"] = keys.object()?;
            ("server.add", params)
        }
        ServerVerb::Set { service, address, keys } => {
            let mut params = of(service, address);
            params["keys"] = keys.object()?;
            ("server.set", params)
        }
        ServerVerb::Drain { service, address, lasting } => {
            let mut params = of(service, address);
            params["seconds"] = json!(seconds(lasting.as_deref())?);
            ("server.drain", params)
        }
        ServerVerb::Remove { service, address } => ("server.remove", of(service, address)),
    };
    one(client, method, params, json, print::changed)
}

impl Keys {
    /// The keys as an object. A value is TOML, or else a text.
    fn object(&self) -> Result<Value, CallError> {
        let mut object = serde_json::Map::new();
        for text in &self.keys {
            let Some((key, value)) = text.split_once('=') else {
                return Err(CallError::Refused(format!("`{text}` is not KEY=VALUE; write as weight=10")));
            };
            let value = match (value, toml_value(value)) {
                ("", _) => Value::Null,
                (_, Some(value)) => value,
                (list, None) if LISTS.contains(&key) => plain_list(key, list),
                (text, None) => Value::String(text.to_owned()),
            };
            object.insert(key.to_owned(), value);
        }
        Ok(Value::Object(object))
    }
}

/// Keys whose values are lists of texts, or of one.
const LISTS: [&str; 7] =
    ["local_addresses", "listen", "protocol", "sources", "scheduler_flags", "server", "health.expect_status"];

/// A value as TOML, if it is that.
fn toml_value(text: &str) -> Option<Value> {
    let mut table = format!("x = {text}").parse::<toml::Table>().ok()?;
    serde_json::to_value(table.remove("x")?).ok()
}

/// `10.0.0.200,10.0.0.201` as the list that a key has.
fn plain_list(key: &str, text: &str) -> Value {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    match key {
        "server" => words.map(|address| json!({ "address": address })).collect(),
        _ => words.map(|word| json!(word)).collect(),
    }
}

fn seconds(text: Option<&str>) -> Result<Option<u64>, CallError> {
    let Some(text) = text else { return Ok(None) };
    match config::parse_duration(text) {
        Some(duration) => Ok(Some(duration.as_secs())),
        None => Err(CallError::Refused(format!("`{text}` is not a time; write 30s, 10m or 2h"))),
    }
}

type PrintOne = for<'a> fn(&'a mut dyn Write, &'a Value) -> io::Result<()>;
/// Items, and whether they are the first page.
type PrintPage = for<'a> fn(&'a mut dyn Write, (&'a [Value], bool)) -> io::Result<()>;

fn one(
    client: &mut Client,
    method: &str,
    params: Value,
    json: bool,
    print: PrintOne,
) -> Result<(), CallError> {
    show(&client.call(method, params)?, json, print)
}

fn show(answer: &Value, json: bool, print: PrintOne) -> Result<(), CallError> {
    let mut out = io::stdout().lock();
    finish(if json { writeln!(out, "{answer}") } else { print(&mut out, answer) })
}

fn list(client: &mut Client, method: &str, json: bool, print: PrintPage) -> Result<(), CallError> {
    list_of(client, method, (json!({}), None), json, print)
}

/// Prints a list that must be known to its end before: because it is sorted, or asked for twice.
fn whole_list(
    client: &mut Client,
    method: &str,
    (params, limit): (Value, Option<usize>),
    json: bool,
    print: PrintPage,
) -> Result<(), CallError> {
    const RATE_OVER: Duration = Duration::from_secs(1);
    let mut all = |params: Value| {
        let mut all = Vec::new();
        client.pages(method, params, |items| {
            all.extend(items);
            Ok(all.len() < limit.unwrap_or(usize::MAX))
        })?;
        all.truncate(limit.unwrap_or(usize::MAX));
        Ok::<_, CallError>(all)
    };
    let mut items = all(params.clone())?;
    if shape::is_rate() {
        let began = Instant::now();
        std::thread::sleep(RATE_OVER);
        let before = std::mem::replace(&mut items, all(params)?);
        shape::rates(&before, &mut items, began.elapsed().as_secs_f64());
    }
    let mut out = io::stdout().lock();
    finish(if json { writeln!(out, "{}", Value::Array(items)) } else { print(&mut out, (&items, true)) })
}

/// Prints a list page by page, so that a million sessions need no memory here; of those that `params` ask for at most
/// so many.
fn list_of(
    client: &mut Client,
    method: &str,
    (params, limit): (Value, Option<usize>),
    json: bool,
    print: PrintPage,
) -> Result<(), CallError> {
    if shape::needs_all() {
        return whole_list(client, method, (params, limit), json, print);
    }
    let mut left = limit.unwrap_or(usize::MAX);
    let mut out = io::stdout().lock();
    let mut is_first = true;
    if json {
        finish(write!(out, "["))?;
    }
    client.pages(method, params, |mut items| {
        items.truncate(left);
        left -= items.len();
        let written = if json {
            items.iter().try_for_each(|item| {
                let separator = if std::mem::take(&mut is_first) { "" } else { "," };
                write!(out, "{separator}{item}")
            })
        } else {
            print(&mut out, (&items, std::mem::take(&mut is_first)))
        };
        finish(written)?;
        Ok(left > 0)
    })?;
    finish(if json { writeln!(out, "]") } else { Ok(()) })
}

/// A reader that has seen enough (`| head`) is no failure.
fn finish(written: io::Result<()>) -> Result<(), CallError> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(CallError::Broken(format!("cannot print: {error}"))),
        Ok(()) => Ok(()),
    }
}
