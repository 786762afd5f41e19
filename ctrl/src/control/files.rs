//! The files, beside the control thread: a disk may be slow and a server gone, and packets' neighbours do not wait for
//! either. One thread reads, checks and writes, one job after the other; control goes on and hears of it.

use super::changes::exported;
use super::requests::Request;
use super::wanted::Unconfirmed;
use super::{Control, discovery, needs_restart};
use crate::admin::{Refusal, Reply};
use crate::config::{self, Config, LoadError, Loaded, Reader, Text};
use crate::desired::Desired;
use crate::desired::diff;
use crate::devices::Devices;
use crate::files;
use crate::users::Peer;
use dataplane::clock::Instant;
use dataplane::ids::Generation;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use toml_edit::{DocumentMut, Item};

/// Something to do with the files.
#[derive(Debug)]
enum Job {
    /// Read and check them.
    Read,
    /// Work changes by command into their text, and write it unless somebody edited them since they were `on_disk`.
    Export { desired: Desired, on_disk: Option<Arc<Text>> },
}

/// What came of it.
#[derive(Debug)]
pub enum Done {
    /// What the files say.
    Read(Box<Result<Loaded, LoadError>>),
    /// The text with all changes, and the files that were written.
    Exported(Result<(Arc<Text>, Vec<String>), String>),
}

/// The thread that has to do with the files. It ends when this is dropped.
#[derive(Debug)]
pub struct Files {
    jobs: Sender<Job>,
    /// By whom each job that is under way was asked for.
    asked: VecDeque<Asker>,
}

/// Who waits for a job, and what for.
#[derive(Debug)]
enum Asker {
    /// SIGHUP.
    Signal,
    Reload(Peer, Sender<Reply>, Option<Duration>),
    Diff(Sender<Reply>),
    Export(Peer, Sender<Reply>),
    /// The text from which it began, and how many changes it had.
    Write(Peer, Sender<Reply>, Desired),
}

impl Files {
    /// Starts the thread; `tell` gets what comes of jobs, on that thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        loaded: &Loaded,
        path: PathBuf,
        tell: impl Fn(Done) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, given) = channel();
        let mut reader = Reader::of(loaded);
        std::thread::Builder::new().name("files".into()).spawn(move || {
            for job in given {
                tell(match job {
                    Job::Read => Done::Read(Box::new(reader.load(&path))),
                    Job::Export { desired, on_disk } => Done::Exported(export(&desired, on_disk.as_deref())),
                });
            }
        })?;
        Ok(Self { jobs, asked: VecDeque::new() })
    }

    fn ask(&mut self, job: Job, asker: Asker) {
        // The thread ends after this does.
        if self.jobs.send(job).is_ok() {
            self.asked.push_back(asker);
        }
    }
}

/// The text with all changes; with `on_disk` also in the files, if they still say that or what is to be written.
fn export(desired: &Desired, on_disk: Option<&Text>) -> Result<(Arc<Text>, Vec<String>), String> {
    let text = desired.written()?;
    let Some(on_disk) = on_disk else { return Ok((text, Vec::new())) };
    let known: HashMap<&Path, &str> = on_disk.pieces().collect();
    let mut stale = Vec::new();
    for (path, piece) in text.pieces() {
        match files::read_text(path) {
            Ok(there) if there == piece => {}
            Ok(there) if known.get(path) != Some(&there.trim_start_matches('\u{feff}')) => {
                return Err(format!(
                    "{} was edited since it was read, so nothing is written; `sluice config diff` shows what a reload would take from it, `sluice config export` prints what runs",
                    path.display()
                ));
            }
            _ => stale.push((path, piece)),
        }
    }
    for (path, piece) in &stale {
        files::replace(path, piece).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let written = stale.iter().map(|(path, _)| path.display().to_string()).collect();
    Ok((text, written))
}

/// A text in which nobody can guess at passwords.
fn without_hashes(text: &Text) -> Text {
    let pieces = text.pieces().map(|(path, piece)| {
        let mut document: DocumentMut = piece.parse().unwrap_or_default();
        for table in ["metrics", "web"] {
            let users = document.get_mut(table).and_then(|table| table.get_mut("basic_auth_users"));
            for (_, hash) in
                users.and_then(Item::as_table_like_mut).into_iter().flat_map(|users| users.iter_mut())
            {
                *hash = toml_edit::value("hidden");
            }
        }
        (path.to_owned(), document.to_string())
    });
    Text::join(pieces.collect())
}

impl<D: Devices> Control<D> {
    /// Reads the files again and follows them, when a signal asks for it.
    pub(super) fn reload_by_signal(&mut self) {
        // Many signals at once ask for one reading, unless that has begun.
        let waits = |files: &Files| files.asked.iter().skip(1).any(|asker| matches!(asker, Asker::Signal));
        if !self.wanted.files.as_ref().is_some_and(waits) {
            self.ask_files(Job::Read, Asker::Signal);
        }
    }

    /// Reads the files again and follows them; what ran before comes back after `confirm`, unless it is confirmed.
    pub(super) fn reload_by_call(&mut self, peer: Peer, reply: Sender<Reply>, confirm: Option<Duration>) {
        self.ask_files(Job::Read, Asker::Reload(peer, reply, confirm));
    }

    /// What would change if the files were read again.
    pub(super) fn differences(&mut self, reply: Sender<Reply>) {
        self.ask_files(Job::Read, Asker::Diff(reply));
    }

    /// The running state as text.
    pub(super) fn export(&mut self, peer: Peer, reply: Sender<Reply>) {
        let desired = self.wanted.history.desired.clone();
        self.ask_files(Job::Export { desired, on_disk: None }, Asker::Export(peer, reply));
    }

    /// The running state as text, also into the files that it came from. What somebody wrote there meanwhile is not
    /// overwritten.
    pub(super) fn write_back(&mut self, peer: Peer, reply: Sender<Reply>) {
        if let Some(fallback) = &self.identity.fallback {
            return drop(reply.send(Err(Refusal::no(format!("nothing is written: {fallback}")))));
        }
        let desired = self.wanted.history.desired.clone();
        let on_disk = Some(Arc::clone(&self.wanted.history.on_disk));
        let asker = Asker::Write(peer, reply, desired.clone());
        self.ask_files(Job::Export { desired, on_disk }, asker);
    }

    fn ask_files(&mut self, job: Job, asker: Asker) {
        match &mut self.wanted.files {
            Some(files) => files.ask(job, asker),
            None => {
                self.tell_asker(asker, "the files' thread could not be started; `sluice status` says why")
            }
        }
    }

    fn tell_asker(&mut self, asker: Asker, message: &str) {
        match asker {
            Asker::Signal => log::warn!(target: "config", "not reloaded: {message}"),
            Asker::Reload(_, reply, _)
            | Asker::Diff(reply)
            | Asker::Export(_, reply)
            | Asker::Write(_, reply, _) => {
                let _ = reply.send(Err(Refusal::no(message)));
            }
        }
    }

    /// Takes in what came of a job.
    pub(super) fn hear_of_files(&mut self, done: Done, now: Instant) {
        let Some(asker) = self.wanted.files.as_mut().and_then(|files| files.asked.pop_front()) else {
            return;
        };
        match (done, asker) {
            (Done::Read(read), Asker::Signal) => match self.follow_files(*read, now) {
                Ok((generation, counts)) => {
                    self.wanted.history.ended_by("SIGHUP");
                    log::info!(target: "config", generation = generation.0, who = "SIGHUP"; "reloaded as generation {}: {counts}", generation.0);
                }
                Err(problems) => {
                    log::warn!(target: "config", "not reloaded, nothing changed:");
                    problems.iter().for_each(|line| log::warn!(target: "config", "{line}"));
                }
            },
            (Done::Read(read), Asker::Reload(peer, reply, confirm)) => match self.follow_files(*read, now) {
                Ok((generation, counts)) => {
                    self.wanted.history.ended_by(&format!("config.reload by {}", peer.name));
                    if let Some(lasting) = confirm {
                        self.wanted.unconfirmed =
                            Some(Unconfirmed { until: now + lasting, by: peer.name.clone() });
                    }
                    let (who, number) = (&peer.name, generation.0);
                    log::info!(target: &peer.log_kind(), generation = number, who = peer.name; "config.reload by {who}: generation {number}: {counts}");
                    let mut answer = counts.json();
                    answer["generation"] = json!(generation.0);
                    self.promise(&answer, reply, now);
                }
                Err(problems) => {
                    let kind = peer.log_kind();
                    log::warn!(target: &kind, "config.reload by {}: refused, nothing changed:", peer.name);
                    problems.iter().for_each(|line| log::warn!(target: &kind, "{line}"));
                    let message = format!("not reloaded, nothing changed:\n{}", problems.join("\n"));
                    let _ = reply.send(Err(Refusal::no(message)));
                }
            },
            (Done::Read(read), Asker::Diff(reply)) => {
                let by_command = self.wanted.history.desired.changes().len();
                let answer = read.map_err(|error| Refusal::no(config::shown(error.problems()).join("\n")));
                let answer = answer.and_then(|loaded| {
                    let changes = diff::lines(&self.wanted.config, &loaded.config);
                    let restart = needs_restart(&self.wanted.config, &loaded.config);
                    super::requests::written(&json!({
                        "changes": changes, "by_command": by_command, "restart": restart,
                    }))
                });
                let _ = reply.send(answer);
            }
            (Done::Exported(done), Asker::Export(peer, reply)) => {
                let answer = done.map_err(Refusal::no);
                // Passwords' hashes are not for those who only look, who cannot read the files either.
                let shown =
                    |text: Arc<Text>| if peer.may_change { text } else { Arc::new(without_hashes(&text)) };
                let answer =
                    answer.and_then(|(text, _)| super::requests::written(&exported(&shown(text), &[])));
                let _ = reply.send(answer);
            }
            (Done::Exported(done), Asker::Write(peer, reply, began)) => {
                let answer = done.map(|(text, written)| self.note_written(text, &written, &began));
                match answer {
                    Ok(answer) => {
                        log::info!(target: &peer.log_kind(), "config.export by {}: done: written", peer.name);
                        self.promise(&answer, reply, now);
                    }
                    Err(message) => {
                        log::warn!(target: &peer.log_kind(), "config.export by {}: refused: {message}", peer.name);
                        let _ = reply.send(Err(Refusal::no(message)));
                    }
                }
            }
            // Jobs are done in the order in which they are asked for.
            (_, asker) => self.tell_asker(asker, "something else came of it; try again"),
        }
    }

    /// What was written is what the files say now; changes that came meanwhile stand beside it still.
    fn note_written(&mut self, text: Arc<Text>, written: &[String], began: &Desired) -> Value {
        let answer = exported(&text, written);
        self.wanted.history.on_disk = Arc::clone(&text);
        if let Some(later) = self.wanted.history.desired.since(began) {
            self.wanted.history.desired = Desired::with(text, later);
            self.wanted.keep_last_good();
        }
        answer
    }

    /// Follows what the files say, as one change or not at all.
    pub(super) fn follow_files(
        &mut self,
        read: Result<Loaded, LoadError>,
        now: Instant,
    ) -> Result<(Generation, diff::Counts), Vec<String>> {
        // That is no fault of the files.
        if let Some(waiting) = &self.wanted.unconfirmed {
            return Err(vec![waiting.refusal(now)]);
        }
        let followed = self.try_files(read, now);
        self.wanted.failed_reload = match &followed {
            Ok(_) => {
                self.metering.note_reload();
                None
            }
            Err(problems) => problems.first().cloned(),
        };
        followed
    }

    fn try_files(
        &mut self,
        read: Result<Loaded, LoadError>,
        now: Instant,
    ) -> Result<(Generation, diff::Counts), Vec<String>> {
        let loaded = read.map_err(|error| config::shown(error.problems()))?;
        let fixed = needs_restart(&self.wanted.config, &loaded.config);
        if !fixed.is_empty() {
            let (path, list) = (self.identity.config_path.display(), fixed.join(", "));
            return Err(vec![format!(
                "{path}: {list} cannot change while sluiced runs; restart it, or undo that change"
            )]);
        }
        discovery::check_found(&loaded.config, &self.wanted.config).map_err(|error| vec![error])?;
        let before: Config = self.wanted.config.clone();
        self.apply(loaded.config, now).map_err(|error| vec![error])?;
        // Certificates may be others under their old names.
        self.follow_metrics(true);
        let counts = diff::counts(&before, &self.wanted.config);
        self.wanted.warnings = loaded.warnings;
        self.identity.fallback = None;
        self.wanted.history.on_disk = Arc::clone(&loaded.text);
        let desired = std::mem::replace(&mut self.wanted.history.desired, Desired::of(loaded.text));
        if !desired.changes().is_empty() {
            log::warn!(target: "config",
                "{} changes by command are not in the files and were given up; `sluice config rollback` brings them back",
                desired.changes().len()
            );
        }
        self.wanted.history.keep(before, desired);
        self.wanted.keep_last_good();
        Ok((self.workers.world.generation, counts))
    }
}

impl From<Done> for Request {
    fn from(done: Done) -> Self {
        Self::Files(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_passwords_are_not_for_everybody() {
        let text = Text::join(vec![
            (
                PathBuf::from("a"),
                "# mine\n[metrics]\nlisten = [\"127.0.0.1:1\"]\nbasic_auth_users = { x = \"$2y$10$secret\" } # his\n".into(),
            ),
            (PathBuf::from("b"), "[[service]]\nname = \"$2y\"\n".into()),
        ]);
        let shown = without_hashes(&text);
        assert!(
            !shown.whole().contains("secret") && shown.whole().contains("x = \"hidden\""),
            "{}",
            shown.whole()
        );
        assert!(shown.whole().starts_with("# mine\n") && shown.whole().contains("name = \"$2y\""));
        let table = "[metrics.basic_auth_users]\nx = '$2y$10$secret'\n";
        assert!(!without_hashes(&Text::of(Path::new("c"), table)).whole().contains("secret"));
    }
}
