//! View: the durable rows pinned at one applied position, read in chunks by whoever holds it.
//!
//! A thread of its own holds the pin and answers; it ends, and the pin with it, when the last holder lets go. Rows that can be
//! pinned without a thread are held by the view itself.

use super::SnapshotError;
use super::rows::{self, Place};
use crate::base::kind::sys;
use crate::base::{Base, BaseError, Family, Pinned};
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use prost::Message;
use quorate_proto::state::{Applied, Configuration};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Questions that may wait; each asker has one at a time.
const QUESTIONS: usize = 64;

/// Rows of one family, and where to go on.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub family: u32,
    pub rows: Bytes,
    /// Rows in it.
    pub count: u64,
    /// `None` when these were the last rows.
    pub next: Option<Place>,
}

/// Rows and bytes of a view, as chunks hold them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    pub rows: u64,
    pub bytes: u64,
    /// Chunks that [`View::chunk`] would give of them.
    pub chunks: u64,
}

enum Question {
    Chunk { from: Place, max: usize, answer: oneshot::Sender<Result<Chunk, BaseError>> },
    Extent { max: usize, answer: oneshot::Sender<Result<Vec<Extent>, BaseError>> },
}

/// A pinned state.
pub struct View {
    /// Drawn at random; a transfer that was cut short goes on only within the same view.
    pub id: u64,
    /// The applied position the rows belong to.
    pub applied: Applied,
    /// Raft's configuration at that position.
    pub configuration: Configuration,
    held: Held,
    /// The furthest place up to which rows were read.
    reached: Mutex<Place>,
}

/// Who holds the pin.
enum Held {
    /// A thread, which answers.
    Thread(Sender<Question>),
    /// The view itself.
    Here(Box<dyn Pinned + Send + Sync>),
}

impl View {
    /// Pins the rows as they are now. Only the thread that writes them may call this, so that they belong to one position.
    ///
    /// # Errors
    /// When the rows hold no position, cannot be read, or the system gives no thread.
    pub fn open(base: Arc<dyn Base>) -> Result<Arc<Self>, SnapshotError> {
        if let Some(rows) = base.pin() {
            let (applied, configuration) = head(rows.as_ref())?;
            return Ok(Self::of(applied, configuration, Held::Here(rows)));
        }
        let (opened, is_open) = bounded(1);
        let (questions, asked) = bounded(QUESTIONS);
        let body = move || {
            base.pinned(&mut |rows| {
                let head = head(rows);
                let failed = head.is_err();
                if opened.send(head).is_ok() && !failed {
                    serve(rows, &asked);
                }
            });
        };
        let thread = std::thread::Builder::new().name("snapshot-view".into()).spawn(body);
        thread.map_err(|e| BaseError::Io(e.to_string()))?;
        let (applied, configuration) = is_open.recv().map_err(|_| BaseError::Io("the view's thread ended".into()))??;
        Ok(Self::of(applied, configuration, Held::Thread(questions)))
    }

    fn of(applied: Applied, configuration: Configuration, held: Held) -> Arc<Self> {
        Arc::new(Self { id: rand::random::<u64>() | 1, applied, configuration, held, reached: Mutex::default() })
    }

    /// The furthest place up to which anybody has read the rows: it moves while a transfer makes headway, and does not when one begins
    /// anew.
    pub fn reached(&self) -> Place {
        self.reached.lock().clone()
    }

    /// The next rows after a place, about `max` bytes of them, at least one row.
    pub async fn chunk(&self, from: Place, max: usize) -> Result<Chunk, SnapshotError> {
        let chunk = match &self.held {
            Held::Here(rows) => cut(rows.as_ref(), from, max)?,
            Held::Thread(_) => {
                let (answer, answered) = oneshot::channel();
                self.ask(Question::Chunk { from, max, answer })?;
                answered.await.map_err(|_| gone())??
            }
        };
        let end = || Place { family: u32::MAX, after: Bytes::new() };
        let next = chunk.next.clone().unwrap_or_else(end);
        let mut reached = self.reached.lock();
        if next > *reached {
            *reached = next;
        }
        drop(reached);
        Ok(chunk)
    }

    /// What each family holds, in order, when it is read in chunks of about `max` bytes. Reads everything once.
    pub async fn extent(&self, max: usize) -> Result<Vec<Extent>, SnapshotError> {
        if let Held::Here(rows) = &self.held {
            return Ok(measure(rows.as_ref(), max)?);
        }
        let (answer, answered) = oneshot::channel();
        self.ask(Question::Extent { max, answer })?;
        Ok(answered.await.map_err(|_| gone())??)
    }

    fn ask(&self, question: Question) -> Result<(), SnapshotError> {
        let Held::Thread(questions) = &self.held else { return Err(gone()) };
        questions.try_send(question).map_err(|_| SnapshotError::Refused("too many readers of one snapshot".into()))
    }
}

fn gone() -> SnapshotError {
    SnapshotError::Refused("the view's thread ended".into())
}

fn head(rows: &dyn Pinned) -> Result<(Applied, Configuration), BaseError> {
    let missing = || BaseError::Corrupt("the durable rows hold no applied position".into());
    let applied = rows.get(Family::Sys, &sys::single(sys::APPLIED))?.ok_or_else(missing)?;
    let applied = Applied::decode(applied).map_err(|e| BaseError::Corrupt(format!("applied position: {e}")))?;
    let configuration = rows.get(Family::Sys, &sys::single(sys::CONFIGURATION))?.unwrap_or_default();
    let configuration = Configuration::decode(configuration).map_err(|e| BaseError::Corrupt(format!("configuration row: {e}")))?;
    Ok((applied, configuration))
}

fn serve(rows: &dyn Pinned, asked: &Receiver<Question>) {
    while let Ok(question) = asked.recv() {
        // Whoever asked may have gone; then nobody misses the answer.
        match question {
            Question::Chunk { from, max, answer } => drop(answer.send(cut(rows, from, max))),
            Question::Extent { max, answer } => drop(answer.send(measure(rows, max))),
        }
    }
}

fn cut(rows: &dyn Pinned, mut from: Place, max: usize) -> Result<Chunk, BaseError> {
    while let Some(family) = rows::family(from.family) {
        let mut lower = from.after.to_vec();
        if !lower.is_empty() {
            // The first key after it.
            lower.push(0);
        }
        let mut cursor = rows.cursor(family, &lower)?;
        let (mut out, mut count, mut last) = (Vec::new(), 0, Bytes::new());
        while let Some((k, v)) = cursor.row() {
            if !out.is_empty() && out.len() + rows::size(k, v) > max {
                let next = Some(Place { family: from.family, after: last });
                return Ok(Chunk { family: from.family, rows: out.into(), count, next });
            }
            rows::put(&mut out, k, v);
            count += 1;
            last = Bytes::copy_from_slice(k);
            cursor.advance()?;
        }
        let next = Place { family: from.family + 1, after: Bytes::new() };
        let next = rows::family(next.family).map(|_| next);
        if !out.is_empty() || next.is_none() {
            return Ok(Chunk { family: from.family, rows: out.into(), count, next });
        }
        from = next.expect("checked");
    }
    Ok(Chunk { family: from.family, rows: Bytes::new(), count: 0, next: None })
}

fn measure(rows: &dyn Pinned, max: usize) -> Result<Vec<Extent>, BaseError> {
    let mut out = Vec::new();
    for family in Family::ALL {
        let mut extent = Extent::default();
        let mut open = 0;
        let mut cursor = rows.cursor(family, &[])?;
        while let Some((k, v)) = cursor.row() {
            extent.rows += 1;
            let size = rows::size(k, v);
            extent.bytes += size as u64;
            // The rule by which a chunk is cut.
            if extent.chunks == 0 || open + size > max {
                extent.chunks += 1;
                open = 0;
            }
            open += size;
            cursor.advance()?;
        }
        out.push(extent);
    }
    Ok(out)
}
