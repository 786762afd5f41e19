//! The `sluice` command: what can be typed, and what it prints.
//!
//! Exit status: 0 done, 1 refused or failed, 2 bad usage; `config check` also uses 2 for a
//! file that parses but is wrong, as `sluiced --check` does.

mod print;
mod table;

use crate::admin::{CallError, Client};
use crate::config;
use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Looks at and steers a running sluiced.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, max_term_width = 100)]
pub struct Arguments {
    /// Print JSON.
    #[arg(short = 'j', long = "json", global = true)]
    json: bool,
    /// The daemon's admin socket.
    #[arg(long, global = true, default_value = "/run/sluice/sluice.sock", value_name = "PATH")]
    socket: PathBuf,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// How the appliance is, on one page.
    Status,
    /// What clients connect to.
    #[command(subcommand)]
    Service(ServiceVerb),
    /// Who answers.
    #[command(subcommand)]
    Server(ListVerb),
    /// Flows between clients and servers.
    #[command(subcommand)]
    Session(SessionVerb),
    /// The director's addresses towards the servers.
    #[command(subcommand)]
    Local(ListVerb),
    /// Devices.
    #[command(subcommand)]
    Port(ListVerb),
    /// Stations on the links.
    #[command(subcommand)]
    Neighbor(ListVerb),
    /// Workers and their load.
    #[command(subcommand)]
    Worker(ListVerb),
    /// Counters.
    Stats {
        #[command(subcommand)]
        part: Option<StatsPart>,
    },
    /// The configuration file.
    #[command(subcommand)]
    Config(ConfigVerb),
}

#[derive(Debug, Subcommand)]
enum ListVerb {
    /// List all.
    List,
}

#[derive(Debug, Subcommand)]
enum ServiceVerb {
    /// List all, with their servers.
    List,
    /// Everything about one.
    Show {
        /// The service's name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum SessionVerb {
    /// List live sessions.
    List,
    /// How many there are.
    Count,
}

#[derive(Debug, Subcommand)]
enum StatsPart {
    /// Packets dropped, by reason.
    Drops,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Check a file without using it: exit 0 good, 1 cannot be read or parsed, 2 wrong.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Have the daemon read its file again.
    Reload,
}

/// Runs the command and returns its exit status.
pub fn run(arguments: &Arguments) -> u8 {
    if let Noun::Config(ConfigVerb::Check { file }) = &arguments.noun {
        return check(file, arguments.json);
    }
    match ask(arguments) {
        Ok(()) => 0,
        Err(CallError::Broken(message) | CallError::Refused(message)) => {
            if arguments.json {
                println!("{}", json!({ "error": message }));
            }
            eprintln!("sluice: {message}");
            1
        }
    }
}

/// Checks a file and says what is wrong with it, one line for each problem.
pub fn check(file: &Path, json: bool) -> u8 {
    let (status, problems) = match config::load(file) {
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

fn ask(arguments: &Arguments) -> Result<(), CallError> {
    let mut client = Client::connect(&arguments.socket)?;
    let json = arguments.json;
    match &arguments.noun {
        Noun::Status => one(&mut client, "status", Value::Null, json, print::status),
        Noun::Service(ServiceVerb::List) => list(&mut client, "service.list", json, print::services),
        Noun::Service(ServiceVerb::Show { name }) => {
            one(&mut client, "service.show", json!({ "name": name }), json, print::service)
        }
        Noun::Server(ListVerb::List) => list(&mut client, "server.list", json, print::servers),
        Noun::Session(SessionVerb::List) => list(&mut client, "session.list", json, print::sessions),
        Noun::Session(SessionVerb::Count) => {
            one(&mut client, "session.count", Value::Null, json, print::session_count)
        }
        Noun::Local(ListVerb::List) => list(&mut client, "local.list", json, print::locals),
        Noun::Port(ListVerb::List) => list(&mut client, "port.list", json, print::ports),
        Noun::Neighbor(ListVerb::List) => list(&mut client, "neighbor.list", json, print::neighbors),
        Noun::Worker(ListVerb::List) => list(&mut client, "worker.list", json, print::workers),
        Noun::Stats { part: None } => one(&mut client, "stats", Value::Null, json, print::stats),
        Noun::Stats { part: Some(StatsPart::Drops) } => {
            one(&mut client, "stats.drops", Value::Null, json, print::drops)
        }
        Noun::Config(ConfigVerb::Reload) => {
            one(&mut client, "config.reload", Value::Null, json, print::reloaded)
        }
        Noun::Config(ConfigVerb::Check { .. }) => Ok(()),
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
    let answer = client.call(method, params)?;
    let mut out = io::stdout().lock();
    finish(if json { writeln!(out, "{answer}") } else { print(&mut out, &answer) })
}

/// Prints a list page by page, so that a million sessions need no memory here.
fn list(client: &mut Client, method: &str, json: bool, print: PrintPage) -> Result<(), CallError> {
    let mut out = io::stdout().lock();
    let mut is_first = true;
    if json {
        finish(write!(out, "["))?;
    }
    client.pages(method, |items| {
        let written = if json {
            items.iter().try_for_each(|item| {
                let separator = if std::mem::take(&mut is_first) { "" } else { "," };
                write!(out, "{separator}{item}")
            })
        } else {
            print(&mut out, (&items, std::mem::take(&mut is_first)))
        };
        finish(written)
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
