//! Writer: the thread that owns the log and batches what queues up behind each sync.
//!
//! In: tasks and commands over one bounded channel, in order. Out: one `on_durable` call for each batch, with the tags
//! of its tasks; faults through `on_fault`. No timers: while one sync runs, the next batch forms. After a fatal fault
//! nothing is answered any more, and the hook is expected to abort the process.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::queue::{Receiver, Sender, bounded};
use crossbeam_channel::{TryRecvError, TrySendError};

use super::record;
use super::{Group, Wal, WalError};

/// Tasks and commands that may wait; bytes are bounded by the node, which limits uncommitted entries.
const QUEUE_LIMIT: usize = 1024;
/// A batch stops taking tasks at this many payload bytes: more would delay the first one's answer for no gain.
const BATCH_BYTES: usize = 8 << 20;

/// One group and what its owner wants back.
pub struct WalTask<T> {
    /// What to write.
    pub group: Group,
    /// Returned in `Durable` once the group is durable.
    pub tag: T,
}

/// The answer to a batch.
pub struct Durable<T> {
    /// The highest number: it and all before it are as durable as they asked to be.
    pub number: u64,
    /// Tags of the batch, in order.
    pub tags: Vec<T>,
}

/// What to do about a full disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Try the same batch again after this time.
    Retry(Duration),
    /// End the thread; `close` returns the error.
    Stop,
}

/// Calls out of the writer thread; each blocks it.
pub struct Hooks<T> {
    /// A batch is durable.
    pub on_durable: Box<dyn FnMut(Durable<T>) + Send>,
    /// Something went wrong. The verdict counts only when `WalError::is_no_space`; after any other error the thread ends.
    pub on_fault: Box<dyn FnMut(&WalError) -> Verdict + Send>,
    /// A batch of so many bytes was written; the duration of its sync, if it needed one.
    pub on_written: Box<dyn FnMut(u64, Option<Duration>) + Send>,
}

enum Command<T> {
    Append(WalTask<T>),
    Purge(u64),
    Close,
}

/// A handle on the writer thread. Dropping it without `close` ends the thread after what is queued.
pub struct WalWriter<T> {
    queue: Sender<Command<T>>,
    thread: JoinHandle<Result<(), WalError>>,
}

impl<T: Send + 'static> WalWriter<T> {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(wal: Wal, hooks: Hooks<T>) -> io::Result<Self> {
        let (queue, commands) = bounded(QUEUE_LIMIT);
        let body = Body { wal, hooks, commands, started: Instant::now(), held: None, prepare_after: None };
        let thread = thread::Builder::new().name("wal".to_owned()).spawn(move || body.run())?;
        Ok(WalWriter { queue, thread })
    }

    /// Queues a task; waits while the queue is full.
    ///
    /// # Errors
    /// Gives the task back when the thread has ended.
    pub fn submit(&self, task: WalTask<T>) -> Result<(), WalTask<T>> {
        self.queue.send(Command::Append(task)).map_err(|refused| give_back(refused.0))
    }

    /// Queues a task unless the queue is full.
    ///
    /// # Errors
    /// Gives the task back when the queue is full or the thread has ended.
    pub fn try_submit(&self, task: WalTask<T>) -> Result<(), WalTask<T>> {
        self.queue.try_send(Command::Append(task)).map_err(|refused| match refused {
            TrySendError::Full(command) | TrySendError::Disconnected(command) => give_back(command),
        })
    }

    /// Tasks and commands that wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Asks to purge up to `index`, after what is queued. False when the queue is full or the thread has ended: a later
    /// purge makes up for it.
    pub fn purge(&self, index: u64) -> bool {
        self.queue.try_send(Command::Purge(index)).is_ok()
    }

    /// Writes what is queued, closes the log and ends the thread.
    ///
    /// # Errors
    /// What ended the thread, or what closing met.
    pub fn close(self) -> Result<(), WalError> {
        // A thread that has ended already tells why through `join`.
        let _ = self.queue.send(Command::Close);
        drop(self.queue);
        self.thread.join().unwrap_or(Err(WalError::Poisoned))
    }
}

fn give_back<T>(command: Command<T>) -> WalTask<T> {
    match command {
        Command::Append(task) => task,
        Command::Purge(_) | Command::Close => unreachable!("only tasks are sent through submit"),
    }
}

struct Body<T> {
    wal: Wal,
    hooks: Hooks<T>,
    commands: Receiver<Command<T>>,
    started: Instant,
    /// A command met while a batch was drained.
    held: Option<Command<T>>,
    /// No spare is attempted before this, after an attempt failed.
    prepare_after: Option<Duration>,
}

/// Pause after a spare could not be made.
const PREPARE_PAUSE: Duration = Duration::from_secs(5);

impl<T> Body<T> {
    fn run(mut self) -> Result<(), WalError> {
        loop {
            let outcome = match self.next() {
                Some(Command::Append(task)) => self.append(task).map(|()| {
                    if self.wants_spare() {
                        self.prepare()
                    }
                }),
                Some(Command::Purge(index)) => self.retry(|wal| wal.purge(index).map(|_| ())),
                Some(Command::Close) | None => {
                    let closed = self.wal.close();
                    if let Err(error) = &closed {
                        (self.hooks.on_fault)(error);
                    }
                    return closed;
                }
            };
            outcome?;
        }
    }

    /// The next command; while none waits, spares are prepared.
    fn next(&mut self) -> Option<Command<T>> {
        if let Some(command) = self.held.take() {
            return Some(command);
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => return Some(command),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) if self.wants_spare() => self.prepare(),
                Err(TryRecvError::Empty) => return self.commands.recv().ok(),
            }
        }
    }

    /// Drains a batch behind `first`, writes and syncs it, answers it.
    fn append(&mut self, first: WalTask<T>) -> Result<(), WalError> {
        let mut bytes = record::body_size(&first.group);
        let mut groups = vec![first.group];
        let mut tags = vec![first.tag];
        while bytes < BATCH_BYTES {
            match self.commands.try_recv() {
                Ok(Command::Append(task)) => {
                    bytes += record::body_size(&task.group);
                    groups.push(task.group);
                    tags.push(task.tag);
                }
                Ok(other) => {
                    self.held = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        self.wal.clock(self.started.elapsed());
        let mut written = 0;
        self.retry(|wal| wal.write(&groups).map(|appended| written = appended.bytes))?;
        let mut sync_time = None;
        if groups.iter().any(|group| group.must_sync) {
            let begun = Instant::now();
            self.retry(Wal::sync)?;
            sync_time = Some(begun.elapsed());
        }
        (self.hooks.on_written)(written, sync_time);
        // A snapshot mark has no number of its own and may come last; it must not hide the groups it was written with.
        let number = groups.iter().map(|group| group.number).max().unwrap_or(0);
        (self.hooks.on_durable)(Durable { number, tags });
        Ok(())
    }

    /// Calls until it succeeds, the hook gives up on a full disk, or something worse happens.
    fn retry(&mut self, mut call: impl FnMut(&mut Wal) -> Result<(), WalError>) -> Result<(), WalError> {
        loop {
            let Err(error) = call(&mut self.wal) else {
                return Ok(());
            };
            match (self.hooks.on_fault)(&error) {
                Verdict::Retry(pause) if error.is_no_space() => thread::sleep(pause),
                _ => return Err(error),
            }
        }
    }

    fn wants_spare(&self) -> bool {
        self.wal.wants_spare() && self.prepare_after.is_none_or(|after| self.started.elapsed() >= after)
    }

    fn prepare(&mut self) {
        self.prepare_after = None;
        if let Err(error) = self.wal.prepare() {
            // Not fatal: the log has room left. The hook may raise an alarm before it has none.
            (self.hooks.on_fault)(&error);
            self.prepare_after = Some(self.started.elapsed() + PREPARE_PAUSE);
        }
    }
}
