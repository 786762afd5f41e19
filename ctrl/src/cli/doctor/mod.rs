//! `sluice doctor`: whether a new client of every service would be served, and what of the host costs packets or
//! seconds. Each finding has its remedy.

mod host;

use super::print::printable;
use crate::admin::{CallError, Client};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::Path;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Grade {
    /// As it should be.
    Good,
    /// It costs speed, or may become worse.
    Warning,
    /// A new client is not served.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) grade: Grade,
    /// What was looked at: `service web`, `core 3`.
    pub(super) subject: String,
    /// What was seen.
    pub(super) seen: String,
    /// What to do.
    pub(super) remedy: Option<String>,
}

impl Finding {
    fn good(subject: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { grade: Grade::Good, subject: subject.into(), seen: seen.into(), remedy: None }
    }

    fn warning(subject: impl Into<String>, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { grade: Grade::Warning, subject: subject.into(), seen: seen.into(), remedy }
    }
}

/// Looks at everything, prints what was found, and returns the command's status: 0 if a new client of every service
/// would be served, 4 otherwise.
pub(super) fn run(client: &mut Client, json: bool) -> Result<u8, CallError> {
    let findings = findings(client)?;
    let is_bad = findings.iter().any(|finding| finding.grade == Grade::Bad);
    let mut out = io::stdout().lock();
    let written = if json { writeln!(out, "{}", json!(findings)) } else { print(&mut out, &findings) };
    super::finish(written)?;
    Ok(if is_bad { 4 } else { 0 })
}

fn findings(client: &mut Client) -> Result<Vec<Finding>, CallError> {
    let status = client.call("status", Value::Null)?;
    let mut findings = Vec::new();
    let mut names = Vec::new();
    client.pages("service.list", json!({}), |items| {
        names.extend(items.iter().filter_map(|item| Some(item["name"].as_str()?.to_owned())));
        Ok(true)
    })?;
    if names.is_empty() {
        findings.push(Finding::warning(
            "services",
            "there is none",
            "add a [[service]] to the configuration",
        ));
    }
    for name in names {
        findings.extend(of_service(client, &name)?);
    }
    let list = |key: &str| status[key].as_array().cloned().unwrap_or_default();
    for warning in list("warnings").iter().filter_map(Value::as_str) {
        // What to do stands in it.
        findings.push(Finding { remedy: None, ..Finding::warning("status", warning, "") });
    }
    for hint in list("hints").iter().filter_map(Value::as_str) {
        findings.push(Finding { remedy: None, ..Finding::warning("status", hint, "") });
    }
    let workers = items(client, "worker.list")?;
    let ports = items(client, "port.list")?;
    findings.extend(host::findings(Path::new("/"), &status, &workers, &ports));
    Ok(findings)
}

/// A whole list.
fn items(client: &mut Client, method: &str) -> Result<Vec<Value>, CallError> {
    let mut all = Vec::new();
    client.pages(method, json!({}), |items| {
        all.extend(items);
        Ok(true)
    })?;
    Ok(all)
}

/// What becomes of a new client of each endpoint of a service.
fn of_service(client: &mut Client, name: &str) -> Result<Vec<Finding>, CallError> {
    let mut findings = Vec::new();
    let subject = format!("service {name}");
    let (mut at, mut of) = (0, 1);
    while at < of {
        let said = match client.call("explain", json!({ "service": name, "endpoint": at })) {
            Ok(said) => said,
            Err(CallError::Refused(why)) => {
                findings.push(Finding {
                    grade: Grade::Bad,
                    ..Finding::warning(&subject, why, "see `sluice status`")
                });
                return Ok(findings);
            }
            Err(error) => return Err(error),
        };
        of = said["endpoints"].as_u64().unwrap_or(1);
        at += 1;
        findings.extend(judge(&subject, &said));
    }
    if findings.is_empty() {
        findings.push(Finding::good(subject, "a new client is served"));
    }
    Ok(findings)
}

/// What is wrong with what becomes of a packet, if anything is.
fn judge(subject: &str, said: &Value) -> Option<Finding> {
    let word = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
    let what = format!("{} from {} to {}", word("protocol"), word("source"), word("destination"));
    let state = word("service_state");
    let is_served = matches!(word("verdict").as_str(), "forwarded" | "waits");
    if is_served {
        let grade = match state.split(':').next().unwrap_or_default() {
            "ready" | "" => return None,
            "protected" | "full" | "draining" => Grade::Warning,
            _ => Grade::Bad,
        };
        // What to do stands in it.
        return Some(Finding {
            grade,
            remedy: None,
            ..Finding::warning(subject, format!("it is {state}"), "")
        });
    }
    let seen = match word("reason") {
        reason if reason.is_empty() => format!("{what} is not forwarded: {}", word("verdict")),
        reason => format!("{what} is dropped as {reason}: {} (the service is {state})", word("meaning")),
    };
    Some(Finding { grade: Grade::Bad, ..Finding::warning(subject, seen, word("remedy")) })
}

fn print(out: &mut dyn Write, findings: &[Finding]) -> io::Result<()> {
    for finding in findings {
        let mark = match finding.grade {
            Grade::Good => "ok",
            Grade::Warning => "warning",
            Grade::Bad => "BAD",
        };
        writeln!(out, "{mark:<8} {}: {}", printable(&finding.subject), printable(&finding.seen))?;
        if let Some(remedy) = &finding.remedy {
            writeln!(out, "{:<8} -> {}", "", printable(remedy))?;
        }
    }
    let count = |grade| findings.iter().filter(|finding| finding.grade == grade).count();
    writeln!(
        out,
        "{} good, {} warnings, {} bad",
        count(Grade::Good),
        count(Grade::Warning),
        count(Grade::Bad)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_good_only_if_a_new_client_is_served() {
        let said = |verdict: &str, reason: &str, state: &str| json!({ "verdict": verdict, "reason": reason, "service_state": state, "remedy": "do it" });
        let grade = |verdict, reason, state| {
            judge("service web", &said(verdict, reason, state)).map(|finding| finding.grade)
        };
        assert_eq!(grade("forwarded", "", "ready"), None);
        assert_eq!(grade("waits", "", "ready"), None);
        assert_eq!(grade("forwarded", "", "protected: too few"), Some(Grade::Warning));
        assert_eq!(grade("forwarded", "", "down: no server is healthy"), Some(Grade::Bad));
        assert_eq!(grade("dropped", "no_route", "unready: no route"), Some(Grade::Bad));
        assert_eq!(grade("kernel", "", ""), Some(Grade::Bad));
        let finding = judge("service web", &said("dropped", "no_route", "unready: x")).unwrap();
        assert_eq!(finding.remedy.as_deref(), Some("do it"));
    }
}
