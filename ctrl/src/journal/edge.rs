//! Edges of states, which go into the log and among the events.

/// One edge of a state: which way it went decides who looks for it in the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// Whether something became worse, which is a warning.
    is_worse: bool,
    line: String,
    fields: Vec<(&'static str, String)>,
}

impl Edge {
    /// Something became worse.
    pub fn worse(line: String) -> Self {
        Self { is_worse: true, line, fields: Vec::new() }
    }

    /// It is as it was, or better.
    pub fn better(line: String) -> Self {
        Self { is_worse: false, line, fields: Vec::new() }
    }

    /// What it is about, by a field's name: `service`, `server`, `port`.
    #[must_use]
    pub fn of(mut self, subject: &'static str, name: impl ToString) -> Self {
        self.fields.push((subject, name.to_string()));
        self
    }

    /// The services that it concerns; of many the first ones.
    #[must_use]
    pub fn of_services<'a>(self, names: impl Iterator<Item = &'a str>) -> Self {
        /// More would say nothing more.
        const NAMED: usize = 8;
        let names: Vec<_> = names.take(NAMED).collect();
        if names.is_empty() { self } else { self.of("service", names.join(",")) }
    }

    /// The line of the log.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// The states on both sides.
    #[must_use]
    pub fn from_to(self, from: &str, to: &str) -> Self {
        self.of("from", from).of("to", to)
    }

    /// Logs it as one of a kind.
    pub fn tell(&self, kind: &str) {
        let level = if self.is_worse { log::Level::Warn } else { log::Level::Info };
        let fields: Vec<(&str, &str)> = self.fields.iter().map(|(name, value)| (*name, &**value)).collect();
        log::logger().log(
            &log::Record::builder()
                .level(level)
                .target(kind)
                .module_path_static(Some(module_path!()))
                .key_values(&fields.as_slice())
                .args(format_args!("{}", self.line))
                .build(),
        );
    }
}
