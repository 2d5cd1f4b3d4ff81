//! Writer: the thread that writes the log and batches what queues up behind each sync.
//!
//! In: tasks and commands over one bounded channel, in order. Out: one `on_durable` call for each batch, with the tags
//! of its tasks; faults through `on_fault`. No timers: while one sync runs, the next batch forms. After a fatal fault
//! nothing is answered any more, and the hook is expected to abort the process.
//! Who has nothing better to do than to wait for a write may write it himself with [`WalWriter::write_now`], as long as the thread
//! has nothing in hand: that spares two changes of threads. One thread submits, so order cannot be lost between the two ways.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::queue::{Receiver, Sender, bounded, unbounded};
use crossbeam_channel::{TryRecvError, TrySendError};
use parking_lot::Mutex;

use super::record;
use super::{Group, Wal, WalError};
use crate::env::clock::Clock;
use crate::env::plant::{self, Plant};

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
    /// A batch of so many bytes was written; the duration of the write, and that of its sync, if it needed one.
    pub on_written: Box<dyn FnMut(u64, Duration, Option<Duration>) + Send>,
}

enum Command<T> {
    Append(WalTask<T>),
    Purge(u64),
    /// Spares are wanted.
    Prepare,
    Close,
}

/// A handle on the writer thread. Dropping it without `close` ends the thread after what is queued.
pub struct WalWriter<T> {
    queue: Sender<Command<T>>,
    pen: Arc<Mutex<Pen<T>>>,
    /// Tasks and commands handed to the thread that it has not done.
    pending: Arc<AtomicUsize>,
    closing: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), WalError>>,
}

impl<T: Send + 'static> WalWriter<T> {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(wal: Wal, hooks: Hooks<T>) -> io::Result<Self> {
        let (queue, commands) = bounded(QUEUE_LIMIT);
        let body = Body::new(wal, hooks, commands, Clock::system());
        let (pen, pending) = (body.pen.clone(), body.pending.clone());
        let closing = pen.lock().closing.clone();
        let thread = thread::Builder::new().name("wal".to_owned()).spawn(move || body.run())?;
        Ok(WalWriter { queue, pen, pending, closing, thread })
    }

    /// Queues a task; waits while the queue is full.
    ///
    /// # Errors
    /// Gives the task back when the thread has ended.
    pub fn submit(&self, task: WalTask<T>) -> Result<(), WalTask<T>> {
        self.pending.fetch_add(1, Ordering::Relaxed);
        self.queue.send(Command::Append(task)).map_err(|refused| self.give_back(refused.0))
    }

    /// Queues a task unless the queue is full.
    ///
    /// # Errors
    /// Gives the task back when the queue is full or the thread has ended.
    pub fn try_submit(&self, task: WalTask<T>) -> Result<(), WalTask<T>> {
        self.pending.fetch_add(1, Ordering::Relaxed);
        self.queue.try_send(Command::Append(task)).map_err(|refused| match refused {
            TrySendError::Full(command) | TrySendError::Disconnected(command) => self.give_back(command),
        })
    }

    /// Writes a task on the calling thread, and syncs it if it must be; `on_durable` is not called for it.
    ///
    /// # Errors
    /// Gives the task back, unwritten, while the thread has something in hand or the disk is full: it is to be submitted then.
    pub fn write_now(&self, task: WalTask<T>) -> Result<Durable<T>, WalTask<T>> {
        if self.pending.load(Ordering::Acquire) != 0 {
            return Err(task);
        }
        let Some(mut pen) = self.pen.try_lock() else { return Err(task) };
        let durable = pen.write_now(task)?;
        if pen.wants_spare() {
            // The thread makes them; if it cannot be told now, the next write tells it.
            let _ = self.queue.try_send(Command::Prepare);
        }
        Ok(durable)
    }

    /// Tasks and commands that wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Asks to purge up to `index`, after what is queued. False when the queue is full or the thread has ended: a later
    /// purge makes up for it.
    pub fn purge(&self, index: u64) -> bool {
        self.pending.fetch_add(1, Ordering::Relaxed);
        let queued = self.queue.try_send(Command::Purge(index)).is_ok();
        if !queued {
            self.pending.fetch_sub(1, Ordering::Relaxed);
        }
        queued
    }

    /// Writes what is queued, closes the log and ends the thread. What a full disk does not take is given up: it was never answered.
    ///
    /// # Errors
    /// What ended the thread, or what closing met.
    pub fn close(self) -> Result<(), WalError> {
        self.closing.store(true, Ordering::Release);
        // A thread that has ended already tells why through `join`.
        let _ = self.queue.send(Command::Close);
        drop(self.queue);
        self.thread.join().unwrap_or(Err(WalError::Poisoned))
    }

    /// Takes a task out of a command that was refused, and off the count.
    fn give_back(&self, command: Command<T>) -> WalTask<T> {
        self.pending.fetch_sub(1, Ordering::Relaxed);
        match command {
            Command::Append(task) => task,
            Command::Purge(_) | Command::Prepare | Command::Close => unreachable!("only tasks are sent through submit"),
        }
    }
}

/// What the thread does with what comes.
struct Body<T> {
    pen: Arc<Mutex<Pen<T>>>,
    pending: Arc<AtomicUsize>,
    commands: Receiver<Command<T>>,
    /// A command met while a batch was drained.
    held: Option<Command<T>>,
}

/// The log and what to do with it; whoever holds it writes.
struct Pen<T> {
    wal: Wal,
    hooks: Hooks<T>,
    time: Clock,
    /// No spare is attempted before this, after an attempt failed.
    prepare_after: Option<Duration>,
    /// The log is to end: a full disk is tried once more and waited for no longer.
    closing: Arc<AtomicBool>,
}

/// Groups that are written, synced and answered together.
struct Batch<T> {
    groups: Vec<Group>,
    tags: Vec<T>,
}

impl<T> Batch<T> {
    fn of(task: WalTask<T>) -> Self {
        Self { groups: vec![task.group], tags: vec![task.tag] }
    }

    /// The one task of a batch of one.
    fn into_task(mut self) -> WalTask<T> {
        let task = self.groups.pop().zip(self.tags.pop());
        let (group, tag) = task.expect("a batch of one");
        WalTask { group, tag }
    }

    fn must_sync(&self) -> bool {
        self.groups.iter().any(|group| group.must_sync)
    }

    fn durable(self) -> Durable<T> {
        // A snapshot mark has no number of its own and may come last; it must not hide the groups it was written with.
        let number = self.groups.iter().map(|group| group.number).max().unwrap_or(0);
        Durable { number, tags: self.tags }
    }
}

/// The writer without its thread: the same steps, taken one at a time by whoever holds it.
pub struct SteppedWriter<T> {
    body: Body<T>,
    drained: Option<Batch<T>>,
    written: Option<Batch<T>>,
    /// A batch was answered before its sync; only a planted mistake does that.
    late_sync: bool,
}

/// The sending end of a [`SteppedWriter`]'s queue.
pub struct SteppedQueue<T>(Sender<Command<T>>);

impl<T: Send + 'static> SteppedWriter<T> {
    /// A writer whose queue has no bound: who submits is who steps, and must never wait.
    pub fn new(wal: Wal, hooks: Hooks<T>, time: Clock) -> (Self, SteppedQueue<T>) {
        let (queue, commands) = unbounded();
        let body = Body::new(wal, hooks, commands, time);
        (Self { body, drained: None, written: None, late_sync: false }, SteppedQueue(queue))
    }

    /// True when [`SteppedWriter::step`] has work.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.written.is_some()
            || self.late_sync
            || self.drained.is_some()
            || self.body.held.is_some()
            || !self.body.commands.is_empty()
    }

    /// Writes the next batch, or syncs and answers the one that was written, or does the next command. True when a sync is next.
    ///
    /// # Errors
    /// What the disk said. After `WalError::is_no_space` the same batch is tried again by the next call.
    pub fn step(&mut self) -> Result<bool, WalError> {
        let body = &mut self.body;
        if std::mem::take(&mut self.late_sync) {
            body.pen.lock().wal.sync()?;
            return Ok(false);
        }
        if let Some(batch) = self.written.take() {
            let mut pen = body.pen.lock();
            if batch.must_sync() {
                pen.wal.sync()?;
            }
            (pen.hooks.on_durable)(batch.durable());
            if pen.wants_spare() {
                pen.prepare();
            }
            return Ok(false);
        }
        if self.drained.is_none() {
            match body.held.take().or_else(|| body.commands.try_recv().ok()) {
                Some(Command::Append(task)) => self.drained = Some(body.drain(task)),
                Some(Command::Purge(index)) => drop(body.pen.lock().wal.purge(index)?),
                Some(Command::Prepare | Command::Close) | None => {}
            }
        }
        let Some(batch) = self.drained.take() else { return Ok(false) };
        let mut pen = body.pen.lock();
        pen.time_passes();
        match pen.wal.write(&batch.groups) {
            Ok(_) if plant::is(Plant::AckBeforeSync) => {
                (pen.hooks.on_durable)(batch.durable());
                self.late_sync = true;
            }
            Ok(_) => self.written = Some(batch),
            Err(error) => {
                self.drained = Some(batch);
                return Err(error);
            }
        }
        Ok(true)
    }
}

impl<T> SteppedQueue<T> {
    /// Queues a task; false when the writer is gone.
    pub fn submit(&self, task: WalTask<T>) -> bool {
        self.0.send(Command::Append(task)).is_ok()
    }

    /// Asks to purge up to `index`, after what is queued.
    pub fn purge(&self, index: u64) {
        let _ = self.0.send(Command::Purge(index));
    }
}

/// Pause after a spare could not be made.
const PREPARE_PAUSE: Duration = Duration::from_secs(5);

impl<T> Body<T> {
    fn new(wal: Wal, hooks: Hooks<T>, commands: Receiver<Command<T>>, time: Clock) -> Self {
        let pen = Pen { wal, hooks, time, prepare_after: None, closing: Arc::default() };
        Self { pen: Arc::new(Mutex::new(pen)), pending: Arc::default(), commands, held: None }
    }

    fn run(mut self) -> Result<(), WalError> {
        loop {
            let done = match self.next() {
                Some(Command::Append(task)) => {
                    let batch = self.drain(task);
                    let tasks = batch.tags.len();
                    let mut pen = self.pen.lock();
                    pen.append(batch)?;
                    if pen.wants_spare() {
                        pen.prepare();
                    }
                    tasks
                }
                Some(Command::Purge(index)) => {
                    self.pen.lock().retry(|wal| wal.purge(index).map(|_| ()))?;
                    1
                }
                Some(Command::Prepare) => 0,
                Some(Command::Close) | None => return self.pen.lock().close(),
            };
            // After the lock was let go, so that who sees the count at zero finds the pen free.
            self.pending.fetch_sub(done, Ordering::Release);
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
                Err(TryRecvError::Empty) => {
                    let mut pen = self.pen.lock();
                    if !pen.wants_spare() {
                        drop(pen);
                        return self.commands.recv().ok();
                    }
                    pen.prepare();
                }
            }
        }
    }

    /// Takes what queues up behind `first`, up to a batch.
    fn drain(&mut self, first: WalTask<T>) -> Batch<T> {
        let mut bytes = record::body_size(&first.group);
        let mut batch = Batch::of(first);
        while bytes < BATCH_BYTES {
            match self.commands.try_recv() {
                Ok(Command::Append(task)) => {
                    bytes += record::body_size(&task.group);
                    batch.groups.push(task.group);
                    batch.tags.push(task.tag);
                }
                Ok(other) => {
                    self.held = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        batch
    }
}

impl<T> Pen<T> {
    /// Writes and syncs a batch, and answers it.
    fn append(&mut self, batch: Batch<T>) -> Result<(), WalError> {
        self.time_passes();
        let began = Instant::now();
        let written = self.retry(|wal| wal.write(&batch.groups).map(|appended| appended.bytes))?;
        self.finish(&batch, began, written)?;
        (self.hooks.on_durable)(batch.durable());
        Ok(())
    }

    /// Writes and syncs a task for the caller; gives it back when the disk refuses it.
    fn write_now(&mut self, task: WalTask<T>) -> Result<Durable<T>, WalTask<T>> {
        self.time_passes();
        let began = Instant::now();
        let batch = Batch::of(task);
        // A full disk is waited for on the thread, which then says so; so is any other end.
        match self.wal.write(&batch.groups) {
            Ok(appended) if self.finish(&batch, began, appended.bytes).is_ok() => Ok(batch.durable()),
            Ok(_) | Err(_) => Err(batch.into_task()),
        }
    }

    /// Syncs what was written, if it asked for that, and measures both.
    fn finish(&mut self, batch: &Batch<T>, began: Instant, written: u64) -> Result<(), WalError> {
        let must_sync = batch.must_sync();
        let wrote = began.elapsed();
        if must_sync {
            self.retry(Wal::sync)?;
        }
        (self.hooks.on_written)(written, wrote, must_sync.then(|| began.elapsed().saturating_sub(wrote)));
        Ok(())
    }

    fn time_passes(&mut self) {
        self.wal.clock(self.time.now());
    }

    /// Calls until it succeeds, the hook or the end gives up on a full disk, or something worse happens.
    fn retry<R>(&mut self, mut call: impl FnMut(&mut Wal) -> Result<R, WalError>) -> Result<R, WalError> {
        let mut is_last = false;
        loop {
            let error = match call(&mut self.wal) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            match (self.hooks.on_fault)(&error) {
                Verdict::Retry(pause) if error.is_no_space() && !is_last => {
                    is_last = self.closing.load(Ordering::Acquire);
                    thread::sleep(pause);
                }
                _ => return Err(error),
            }
        }
    }

    fn wants_spare(&self) -> bool {
        self.wal.wants_spare() && self.prepare_after.is_none_or(|after| self.time.now() >= after)
    }

    fn prepare(&mut self) {
        self.prepare_after = None;
        if let Err(error) = self.wal.prepare() {
            // Not fatal: the log has room left. The hook may raise an alarm before it has none.
            (self.hooks.on_fault)(&error);
            self.prepare_after = Some(self.time.now() + PREPARE_PAUSE);
        }
    }

    fn close(&mut self) -> Result<(), WalError> {
        let closed = self.wal.finish();
        if let Err(error) = &closed {
            (self.hooks.on_fault)(error);
        }
        closed
    }
}
