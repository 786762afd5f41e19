//! The two text formats of metrics: Prometheus's 0.0.4 and OpenMetrics 1.0.
//!
//! In both all samples of a family stand together behind its `# HELP` and `# TYPE`. They differ in the name of counters'
//! families (OpenMetrics leaves `_total` to the samples), in info metrics, and in the last line, `# EOF`.

use std::fmt::Write as _;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format that an `Accept` header asks for: OpenMetrics if it is named, else 0.0.4.
    pub fn accepted(accept: &str) -> Self {
        let is_open = |range: &str| range.trim().starts_with("application/openmetrics-text");
        let is_refused = |range: &str| range.split(';').any(|part| part.trim() == "q=0");
        match accept.split(',').any(|range| is_open(range) && !is_refused(range)) {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    /// Its media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// It only grows; its samples end with `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Texts, as labels of a sample `_info` that is 1.
    Info,
    /// Cumulative buckets.
    Histogram,
}

/// A family's name, type and meaning.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// Its name, without the ending of its samples.
    pub name: String,
    /// What its samples are.
    pub kind: Type,
    /// What they mean.
    pub help: String,
}

/// The base units that a family's name may end with.
const UNITS: [&str; 3] = ["seconds", "bytes", "ratio"];

impl Head {
    /// The ending of its samples' names.
    const fn ending(&self) -> &'static str {
        match self.kind {
            Type::Counter => "_total",
            Type::Info => "_info",
            Type::Gauge | Type::Histogram => "",
        }
    }

    /// Its lines before the samples.
    pub(super) fn write(&self, format: Format, out: &mut String) {
        let (name, kind) = match (format, self.kind) {
            (Format::Prometheus, Type::Counter) => (format!("{}_total", self.name), "counter"),
            (Format::Prometheus, Type::Info) => (format!("{}_info", self.name), "gauge"),
            (Format::OpenMetrics, Type::Counter) => (self.name.clone(), "counter"),
            (Format::OpenMetrics, Type::Info) => (self.name.clone(), "info"),
            (_, Type::Gauge) => (self.name.clone(), "gauge"),
            (_, Type::Histogram) => (self.name.clone(), "histogram"),
        };
        let _ = writeln!(out, "# TYPE {name} {kind}");
        let unit = self.name.rsplit('_').next().filter(|last| UNITS.contains(last));
        if let (Format::OpenMetrics, Some(unit)) = (format, unit) {
            let _ = writeln!(out, "# UNIT {name} {unit}");
        }
        let help = self.help.replace('\\', "\\\\").replace('\n', "\\n");
        // OpenMetrics has quotes escaped here, too.
        let help = if format == Format::OpenMetrics { help.replace('"', "\\\"") } else { help };
        let _ = writeln!(out, "# HELP {name} {help}");
    }

    /// One sample.
    pub(super) fn sample(&self, out: &mut String, labels: &[(&str, &str)], value: impl Into<Value>) {
        self.line(out, self.ending(), labels, value);
    }

    /// One sample with an ending of its own, as a histogram's.
    pub(super) fn line(
        &self,
        out: &mut String,
        ending: &str,
        labels: &[(&str, &str)],
        value: impl Into<Value>,
    ) {
        out.push_str(&self.name);
        out.push_str(ending);
        for (at, (name, value)) in labels.iter().enumerate() {
            out.push(if at == 0 { '{' } else { ',' });
            out.push_str(name);
            out.push_str("=\"");
            escape(value, out);
            out.push('"');
        }
        out.push_str(if labels.is_empty() { " " } else { "} " });
        match value.into() {
            Value::Whole(number) => drop(write!(out, "{number}")),
            Value::Float(number) if number.is_infinite() => {
                out.push_str(if number > 0.0 { "+Inf" } else { "-Inf" })
            }
            Value::Float(number) => drop(write!(out, "{number}")),
        }
        out.push('\n');
    }
}

/// A label's value, as both formats escape it.
fn escape(text: &str, out: &mut String) {
    if !text.contains(['\\', '"', '\n']) {
        return out.push_str(text);
    }
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

/// A sample's number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    /// Whole.
    Whole(u64),
    /// Any.
    Float(f64),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<bool> for Value {
    fn from(is: bool) -> Self {
        Self::Whole(u64::from(is))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(kind: Type) -> Head {
        Head { name: "sluice_x_seconds".into(), kind, help: "A \"thing\".".into() }
    }

    #[test]
    fn a_counters_family_has_its_ending_where_the_format_has_it() {
        let mut out = String::new();
        head(Type::Counter).write(Format::Prometheus, &mut out);
        head(Type::Counter).sample(&mut out, &[("a", "b\"c\\")], 7);
        assert_eq!(
            out,
            "# TYPE sluice_x_seconds_total counter\n# HELP sluice_x_seconds_total A \"thing\".\nsluice_x_seconds_total{a=\"b\\\"c\\\\\"} 7\n"
        );
        out.clear();
        head(Type::Counter).write(Format::OpenMetrics, &mut out);
        assert_eq!(
            out,
            "# TYPE sluice_x_seconds counter\n# UNIT sluice_x_seconds seconds\n# HELP sluice_x_seconds A \\\"thing\\\".\n"
        );
    }

    #[test]
    fn an_info_is_a_gauge_where_there_are_none() {
        let info = Head { name: "sluice_build".into(), kind: Type::Info, help: "It.".into() };
        let mut out = String::new();
        info.write(Format::Prometheus, &mut out);
        info.sample(&mut out, &[("version", "1")], 1);
        assert!(
            out.starts_with("# TYPE sluice_build_info gauge\n")
                && out.ends_with("sluice_build_info{version=\"1\"} 1\n")
        );
    }

    #[test]
    fn only_who_asks_for_openmetrics_gets_it() {
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/plain;version=0.0.4", Format::Prometheus),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            ("application/openmetrics-text;q=0, text/plain", Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }
}
