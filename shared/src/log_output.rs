//! The operator's log, the same in every process of ours: one line per event on stderr.
//!
//! Pretty for people on a terminal, JSON elsewhere. Where stderr is the journal, the JSON has the
//! syslog priority in front (`<6>{…}`), which journald takes off and understands (sd-daemon(3)):
//! this needs neither a socket nor a library, and fields stay machine-readable.
//!
//! Processes share a stderr, so each line names its process. Noise is held down by `rate_limit`
//! where it arises. Writing is a thread's work ([`queue`]): no process waits for its log.

pub mod queue;
pub mod rate_limit;

pub use queue::flush;
pub use rate_limit::{Admit, RateLimit};

use crate::config::{Log, LogFormat, LogLevel};
use serde_json::{Map, Value};
use std::fmt;
use std::io::IsTerminal;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Overrides `[log] level`; may name modules.
pub const LEVEL_VARIABLE: &str = "TASUKI_LOG";
/// Overrides `[log] format`.
pub const FORMAT_VARIABLE: &str = "TASUKI_LOG_FORMAT";

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{LEVEL_VARIABLE} is not a level or a list such as 'info,tasuki_worker=debug': {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    #[error("{FORMAT_VARIABLE} must be auto, pretty, json or journald")]
    Format,
    #[error("a log has been set up already")]
    Twice,
    #[error("the thread that writes the log cannot start: {0}")]
    Thread(#[from] std::io::Error),
}

/// Sends this process's events to stderr. `process` is what lines call it, for example
/// `supervisor` or `w3 g17`. The environment overrides `log`.
pub fn init(log: Log, process: &str) -> Result<(), LogError> {
    let directives = std::env::var(LEVEL_VARIABLE).ok().filter(|text| !text.is_empty());
    let directives = directives.unwrap_or_else(|| level_name(log.level).to_owned());
    let format = match std::env::var(FORMAT_VARIABLE).ok().filter(|text| !text.is_empty()) {
        Some(text) => parse_format(&text).ok_or(LogError::Format)?,
        None => log.format,
    };
    let style = style(format, Stderr::look());
    let line = Line { style, process: process.to_owned() };
    let told = line.clone();
    let tell = move |lost| told.lost(lost);
    let queue = queue::Queue::start(std::io::stderr(), tell)?.install();
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(directives)?)
        .with_writer(queue)
        .with_ansi(style == Style::Pretty && colour)
        .event_format(line)
        .try_init()
        .map_err(|_| LogError::Twice)
}

/// What a process gets into its environment to log as this one does.
#[must_use]
pub fn environment(log: Log) -> [(&'static str, String); 2] {
    let inherited = |variable, own: &str| {
        let value = std::env::var(variable).ok().filter(|text| !text.is_empty());
        (variable, value.unwrap_or_else(|| own.to_owned()))
    };
    [
        inherited(LEVEL_VARIABLE, level_name(log.level)),
        inherited(FORMAT_VARIABLE, format_name(log.format)),
    ]
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Pretty,
    Json,
    Journald,
}

/// What stderr is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stderr {
    Terminal,
    Journal,
    Other,
}

impl Stderr {
    fn look() -> Self {
        if std::io::stderr().is_terminal() {
            return Self::Terminal;
        }
        let journal = std::env::var("JOURNAL_STREAM").ok().and_then(|text| parse_stream(&text));
        let stderr = nix::sys::stat::fstat(std::io::stderr()).ok();
        match (journal, stderr) {
            (Some(journal), Some(stat)) if journal == (stat.st_dev, stat.st_ino) => Self::Journal,
            (Some(_) | None, Some(_) | None) => Self::Other,
        }
    }
}

/// What a configured format comes to.
#[must_use]
pub fn style(format: LogFormat, stderr: Stderr) -> Style {
    match (format, stderr) {
        (LogFormat::Pretty, _) | (LogFormat::Auto, Stderr::Terminal) => Style::Pretty,
        (LogFormat::Json, _) | (LogFormat::Auto, Stderr::Other) => Style::Json,
        (LogFormat::Journald, _) | (LogFormat::Auto, Stderr::Journal) => Style::Journald,
    }
}

/// `JOURNAL_STREAM` is "device:inode" of what systemd connected (systemd.exec(5)).
fn parse_stream(text: &str) -> Option<(u64, u64)> {
    let (device, inode) = text.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

fn format_name(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Auto => "auto",
        LogFormat::Pretty => "pretty",
        LogFormat::Json => "json",
        LogFormat::Journald => "journald",
    }
}

fn parse_format(text: &str) -> Option<LogFormat> {
    [LogFormat::Auto, LogFormat::Pretty, LogFormat::Json, LogFormat::Journald]
        .into_iter()
        .find(|format| format_name(*format) == text)
}

/// Formats one event as one line.
#[derive(Clone)]
struct Line {
    style: Style,
    process: String,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        match self.style {
            Style::Pretty => self.pretty(context, writer, event),
            Style::Json => self.json(context, &mut writer, event),
            Style::Journald => {
                write!(writer, "<{}>", priority(level))?;
                self.json(context, &mut writer, event)
            }
        }
    }
}

impl Line {
    /// What stands for lines that were dropped.
    fn lost(&self, lines: u64) -> String {
        let message = "log lines were dropped: stderr is too slow";
        let mut time = String::new();
        // Writing to a string cannot fail; a clock that cannot be shown leaves it empty.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let json = || {
            serde_json::json!({
                "time": time, "level": "warn", "process": self.process, "target": "log",
                "message": message, "lines": lines,
            })
        };
        match self.style {
            Style::Pretty => format!("{time}  WARN {}: {message} lines={lines}\n", self.process),
            Style::Json => format!("{}\n", json()),
            Style::Journald => format!("<{}>{}\n", priority(Level::WARN), json()),
        }
    }

    fn pretty<S, N>(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        N: for<'a> FormatFields<'a> + 'static,
    {
        let level = *event.metadata().level();
        SystemTime.format_time(&mut writer)?;
        if writer.has_ansi_escapes() {
            write!(writer, " \x1b[{}m{level:>5}\x1b[0m {}: ", colour(level), self.process)?;
        } else {
            write!(writer, " {level:>5} {}: ", self.process)?;
        }
        for span in spans(context) {
            write!(writer, "{span}: ")?;
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }

    fn json<S, N>(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: &mut Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        N: for<'a> FormatFields<'a> + 'static,
    {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let metadata = event.metadata();
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let mut line = Map::new();
        line.insert("time".into(), time.into());
        line.insert("level".into(), metadata.level().as_str().to_ascii_lowercase().into());
        line.insert("process".into(), self.process.clone().into());
        line.insert("target".into(), metadata.target().into());
        let spans = spans(context);
        if !spans.is_empty() {
            line.insert("spans".into(), spans.into());
        }
        // A field of an event never replaces one of the line's own.
        for (name, value) in fields.0 {
            line.entry(name).or_insert(value);
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Enclosing spans, outermost first, as `name{fields}`.
fn spans<S, N>(context: &FmtContext<'_, S, N>) -> Vec<String>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let Some(scope) = context.event_scope() else { return Vec::new() };
    scope
        .from_root()
        .map(|span| {
            let extensions = span.extensions();
            match extensions.get::<FormattedFields<N>>().filter(|fields| !fields.is_empty()) {
                Some(fields) => format!("{}{{{fields}}}", span.name()),
                None => span.name().to_owned(),
            }
        })
        .collect()
}

/// Syslog priorities (RFC 5424, 6.2.1).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// SGR foreground colours (ECMA-48).
fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    }
}

/// An event's fields as JSON.
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    /// Collects what a subscriber writes.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(style: Style, events: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("info"))
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(Line { style, process: "w3 g17".into() })
            .finish();
        tracing::subscriber::with_default(subscriber, events);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn auto_is_pretty_on_a_terminal_journald_on_the_journal_and_json_elsewhere() {
        assert_eq!(style(LogFormat::Auto, Stderr::Terminal), Style::Pretty);
        assert_eq!(style(LogFormat::Auto, Stderr::Journal), Style::Journald);
        assert_eq!(style(LogFormat::Auto, Stderr::Other), Style::Json);
        assert_eq!(style(LogFormat::Json, Stderr::Terminal), Style::Json);
    }

    #[test]
    fn a_json_line_is_one_object_with_the_events_fields_and_its_spans() {
        let text = written(Style::Json, || {
            let span = tracing::info_span!("session", id = "5-1");
            let _inside = span.enter();
            tracing::info!(name = "cam", frames = 3, level = "spoofed", "two\nlines");
            tracing::debug!("below the level");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "two\nlines");
        assert_eq!(line["frames"], 3);
        assert_eq!(line["level"], "info");
        assert_eq!(line["process"], "w3 g17");
        assert_eq!(line["spans"][0], "session{id=\"5-1\"}");
    }

    #[test]
    fn a_journald_line_has_the_priority_in_front() {
        let text = written(Style::Journald, || tracing::warn!("careful"));
        let json = text.strip_prefix("<4>").expect(&text);
        assert!(serde_json::from_str::<Value>(json).is_ok());
    }

    #[test]
    fn a_pretty_line_names_level_process_message_and_fields() {
        let text = written(Style::Pretty, || tracing::error!(slot = 3, "died"));
        assert!(text.ends_with(" ERROR w3 g17: died slot=3\n"), "{text}");
    }

    #[test]
    fn a_journal_stream_is_two_numbers_or_ignored() {
        assert_eq!(parse_stream("8:1234"), Some((8, 1234)));
        for bad in ["", "8", "8:", ":8", "a:b", "8:9:10"] {
            assert_eq!(parse_stream(bad), None, "{bad}");
        }
    }
}
