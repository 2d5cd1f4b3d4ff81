//! The history of a run: what the clients did and saw, one JSON line each, appended while the run goes on.
//!
//! In: [`Line`]s from many tasks, through a bounded queue. Out: a file, which [`read`] gives back.
//! Invariant: a line is on file at most [`FLUSH`] after it was noted; a reader ignores a last line that is cut short, so the
//! file may be read while it grows.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Lines that may wait for the file; clients wait when it is full.
const QUEUE: usize = 4096;
/// Longest time that a line stays in memory.
const FLUSH: Duration = Duration::from_millis(100);

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// A write ended. `at` is when, in milliseconds of the Unix epoch.
    Write {
        /// Milliseconds since the Unix epoch.
        at: u64,
        /// Which writer; each has keys of its own.
        writer: u32,
        /// Its how manieth write, which names the key.
        number: u64,
        /// How it ended.
        end: End,
        /// The revision of an acknowledged write, else 0.
        revision: i64,
    },
    /// A step of the shared counter ended; an acknowledged one names the value that it wrote.
    Count {
        /// Milliseconds since the Unix epoch.
        at: u64,
        /// The value after the step.
        value: u64,
        /// How it ended.
        end: End,
    },
    /// The watch told of a write.
    Seen {
        /// The writer that the key names.
        writer: u32,
        /// The number that the key names.
        number: u64,
        /// The event's revision.
        revision: i64,
    },
    /// A client saw what must never be.
    Violation {
        /// Milliseconds since the Unix epoch.
        at: u64,
        /// What it saw.
        text: String,
    },
}

/// How a write ended, as its client knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Acknowledged: it must be there for ever.
    Ok,
    /// Nobody knows: it may be there or not.
    Unknown,
    /// It did not happen.
    Refused,
}

/// Milliseconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The clients' side.
#[derive(Debug, Clone)]
pub struct Notes(mpsc::Sender<Line>);

impl Notes {
    /// Appends to the file at `path`, which a task of its own writes. The task ends after the last clone is gone.
    pub fn open(path: &Path) -> std::io::Result<(Self, tokio::task::JoinHandle<std::io::Result<()>>)> {
        let file = File::options().create(true).append(true).open(path)?;
        let (sender, lines) = mpsc::channel(QUEUE);
        Ok((Self(sender), tokio::spawn(write_lines(BufWriter::new(file), lines))))
    }

    /// Notes a line. When the file cannot be written the run is worthless, and the writer's task has said so.
    pub async fn note(&self, line: Line) {
        let _ = self.0.send(line).await;
    }

    /// Notes what must never be.
    pub async fn violation(&self, text: String) {
        eprintln!("violation: {text}");
        self.note(Line::Violation { at: now(), text }).await;
    }
}

async fn write_lines(mut file: BufWriter<File>, mut lines: mpsc::Receiver<Line>) -> std::io::Result<()> {
    let mut tick = tokio::time::interval(FLUSH);
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(line) => {
                    serde_json::to_writer(&mut file, &line)?;
                    file.write_all(b"\n")?;
                }
                None => return file.flush(),
            },
            _ = tick.tick() => file.flush()?,
        }
    }
}

/// All whole lines of a file.
pub fn read(path: &Path) -> std::io::Result<Vec<Line>> {
    let text = std::fs::read_to_string(path)?;
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    whole.lines().map(|line| serde_json::from_str(line).map_err(std::io::Error::other)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_noted_is_read_back_without_the_line_that_is_cut_short() {
        let path = std::env::temp_dir().join(format!("quorate-e2e-history-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let lines = [
            Line::Write { at: 1, writer: 2, number: 3, end: End::Ok, revision: 4 },
            Line::Count { at: 5, value: 1, end: End::Unknown },
            Line::Seen { writer: 2, number: 3, revision: 4 },
            Line::Violation { at: 6, text: "\"quoted\"".to_string() },
        ];
        let (notes, task) = Notes::open(&path).unwrap();
        for line in &lines {
            notes.note(line.clone()).await;
        }
        drop(notes);
        task.await.unwrap().unwrap();
        File::options().append(true).open(&path).unwrap().write_all(b"{\"kind\":\"wri").unwrap();
        assert_eq!(read(&path).unwrap(), lines);
        std::fs::remove_file(&path).unwrap();
    }
}
