//! Logs: one line an event, as JSON in the shape etcd's readers know or as text for people.
//!
//! `{"level":"info","ts":"2026-11-21T12:59:22.617518Z","caller":"door/accept.rs:40","msg":"...","field":...}`
//! In: tracing events. Out: whole lines to the outputs. A line that cannot be written is dropped: logging never stops the server.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, Registry};

use super::rotate::{Rotated, Rotation};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    Console,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Stderr,
    Stdout,
    /// systemd's journal, by way of the standard error that it keeps for its services; there must be a journal.
    Journal,
    /// Appended to; made if absent.
    File(PathBuf),
    /// The same, but moved aside when it is full.
    Rotated(PathBuf, Rotation),
}

/// Where systemd's journal listens.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Makes these the process's logs; lines above `level` in detail are dropped. Other crates' lines are kept from `warn` on.
///
/// # Errors
/// A file that cannot be opened, by name; a journal that is not there; or logs that are set already.
pub fn install(level: Level, format: Format, outputs: &[Output]) -> Result<(), String> {
    let lines = Lines::open(level, format, outputs)?;
    tracing::subscriber::set_global_default(Registry::default().with(lines)).map_err(|e| e.to_string())
}

struct Lines {
    level: Level,
    format: Format,
    sinks: Vec<Sink>,
}

enum Sink {
    Stderr,
    Stdout,
    File(Mutex<File>),
    Rotated(Mutex<Rotated>),
    #[cfg_attr(not(test), expect(dead_code, reason = "tests read what was written"))]
    Memory(Arc<Mutex<Vec<u8>>>),
}

fn cannot(path: &Path, e: &io::Error) -> String {
    format!("cannot open log output {}: {e}", path.display())
}

impl Lines {
    fn open(level: Level, format: Format, outputs: &[Output]) -> Result<Self, String> {
        let open = |output: &Output| match output {
            Output::Stderr => Ok(Sink::Stderr),
            Output::Stdout => Ok(Sink::Stdout),
            Output::Journal => match UnixDatagram::unbound().and_then(|socket| socket.connect(JOURNAL)) {
                Ok(()) => Ok(Sink::Stderr),
                Err(e) => Err(format!("cannot open log output systemd/journal: there is no journal at {JOURNAL}: {e}")),
            },
            Output::File(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                file.map(|f| Sink::File(Mutex::new(f))).map_err(|e| cannot(path, &e))
            }
            Output::Rotated(path, rotation) => {
                Rotated::open(path, rotation.clone()).map(|f| Sink::Rotated(Mutex::new(f))).map_err(|e| cannot(path, &e))
            }
        };
        Ok(Self { level, format, sinks: outputs.iter().map(open).collect::<Result<_, _>>()? })
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let ours = metadata.target().starts_with("quorate");
        *metadata.level() <= if ours { self.level } else { self.level.min(Level::WARN) }
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = line(self.format, event.metadata(), SystemTime::now(), fields);
        for sink in &self.sinks {
            let _ = sink.write(line.as_bytes());
        }
    }
}

impl Sink {
    /// One write a line, so that lines of several threads do not mix.
    fn write(&self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().lock().write_all(line),
            Self::Stdout => io::stdout().lock().write_all(line),
            Self::File(file) => file.lock().write_all(line),
            Self::Rotated(file) => file.lock().write(line),
            Self::Memory(bytes) => bytes.lock().write_all(line),
        }
    }
}

fn line(format: Format, metadata: &Metadata<'_>, at: SystemTime, fields: Fields) -> String {
    let level = match *metadata.level() {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    };
    let (ts, caller) = (timestamp(at), caller(metadata));
    let rest = Value::Object(fields.rest).to_string();
    match format {
        // Put together by hand for the order; serde_json keeps the fields' own order only as a sorted map.
        Format::Json => {
            let more = if rest.len() > 2 { format!(",{}", &rest[1..]) } else { "}".into() };
            let msg = Value::from(fields.message);
            format!("{{\"level\":\"{level}\",\"ts\":\"{ts}\",\"caller\":{},\"msg\":{msg}{more}\n", Value::from(caller))
        }
        Format::Console => {
            let more = if rest.len() > 2 { format!("\t{rest}") } else { String::new() };
            format!("{ts}\t{level}\t{caller}\t{}{more}\n", fields.message)
        }
    }
}

/// `room/file.rs:line`: the last folder and the file, as zap prints them.
fn caller(metadata: &Metadata<'_>) -> String {
    let file = metadata.file().unwrap_or("unknown");
    let cut = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    format!("{}:{}", &file[cut..], metadata.line().unwrap_or(0))
}

/// RFC 3339 in UTC with microseconds.
pub fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days as i64);
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:06}Z", since.subsec_micros())
}

/// Year, month and day of a count of days since 1970-01-01; years are counted from March, so that the leap day comes last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, of_year - (153 * march_month + 2) / 5 + 1)
}

/// An event's message and its other fields.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            // The log crate's lines, carried over by a bridge, name their origin in fields of their own.
            (name, _) if name.starts_with("log.") => {}
            (name, value) => drop(self.rest.insert(name.to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn written(level: Level, format: Format, log: impl FnOnce()) -> String {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let lines = Lines { level, format, sinks: vec![Sink::Memory(bytes.clone())] };
        tracing::subscriber::with_default(Registry::default().with(lines), log);
        let bytes = bytes.lock().clone();
        String::from_utf8(bytes).expect("text")
    }

    /// A JSON line has zap's head, in its order, and the fields after it; the level cuts.
    #[test]
    fn json_line() {
        let text = written(Level::INFO, Format::Json, || {
            tracing::info!(target: "quorate::x", n = 3, ok = true, remote.addr = %"1.2.3.4:5", "say \"hi\"");
            tracing::debug!(target: "quorate::x", "not shown");
            tracing::info!(target: "h2", "not shown");
        });
        assert_eq!(text.lines().count(), 1);
        assert!(text.starts_with("{\"level\":\"info\",\"ts\":\"2"), "{text}");
        let line: Value = serde_json::from_str(&text).expect("JSON");
        assert!(line["caller"].as_str().expect("caller").starts_with("telemetry/log.rs:"), "{text}");
        assert_eq!((&line["msg"], &line["n"], &line["ok"]), (&"say \"hi\"".into(), &3.into(), &true.into()));
        assert!(text.find("\"caller\"") < text.find("\"msg\"") && text.find("\"msg\"") < text.find("\"remote.addr\""));
    }

    /// The text form holds the same, between tabs.
    #[test]
    fn console_line() {
        let text = written(Level::DEBUG, Format::Console, || tracing::debug!(target: "quorate", a = 1, "m"));
        let parts: Vec<&str> = text.trim_end().split('\t').collect();
        assert_eq!((parts[1], parts[3], parts[4]), ("debug", "m", "{\"a\":1}"));
    }

    /// Dates, leap days and the turn of a century among them.
    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (4_107_542_399, "2100-02-28T23:59:59"),
            (1_795_266_000, "2026-11-21T13:00:00"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), format!("{text}.000000Z"));
        }
    }

    /// A file is appended to; one that cannot be opened is named.
    #[test]
    fn files() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        for _ in 0..2 {
            let lines = Lines::open(Level::INFO, Format::Json, &[Output::File(path.clone())]).expect("open");
            tracing::subscriber::with_default(Registry::default().with(lines), || tracing::info!(target: "quorate", "x"));
        }
        assert_eq!(std::fs::read_to_string(&path).expect("read").lines().count(), 2);
        let rotated = dir.path().join("r/log");
        let small = Rotation { max_bytes: 200, max_age: None, max_backups: 0, local_time: false, compress: false };
        let lines = Lines::open(Level::INFO, Format::Json, &[Output::Rotated(rotated.clone(), small)]).expect("open");
        let log = || (0..9).for_each(|n| tracing::info!(target: "quorate", n, "a line of some length"));
        tracing::subscriber::with_default(Registry::default().with(lines), log);
        let files: Vec<PathBuf> = std::fs::read_dir(dir.path().join("r")).expect("dir").map(|e| e.expect("entry").path()).collect();
        assert!(files.len() > 2 && files.iter().all(|f| f.metadata().expect("file").len() <= 200), "{files:?}");
        let count = |file: &PathBuf| std::fs::read_to_string(file).expect("read").lines().count();
        assert_eq!(files.iter().map(count).sum::<usize>(), 9);
        let absent = dir.path().join("no/log");
        assert!(Lines::open(Level::INFO, Format::Json, &[Output::File(absent)]).err().expect("refused").contains("no/log"));
    }
}
