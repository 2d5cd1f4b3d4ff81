//! The shell round the cores: shards and their locks, the queue between apply and the streams, two threads.
//!
//! In: batches, marks and installs from apply; opened streams. Out: woken receivers, counters.
//!
//! Apply only appends to the queue. The fan-out thread hands each batch to every shard in order; the catch-up thread reads
//! history for lagging watchers, the farther and the nearer in turn. Locks are held for one batch or chunk in one shard, never
//! across a read of history.
//!
//! Invariants: a shard sees batches in the order of publish; the queue holds at most [`QUEUE_BYTES`] and one batch, beyond which
//! its content is dropped and all watchers read that part from history.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::History;
use super::core::{Batch, Core, Effects, Limits, StreamKey};
use super::message::OVERHEAD;
use super::stream::{StreamHandle, StreamReceiver};
use crate::mvcc::{ReadError, RevisionEvents};

/// Bytes of events that may wait for the fan-out thread: a second or two of writes at full speed.
const QUEUE_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of history read at once for lagging watchers; well below a stream's budget, so that a chunk mostly fits.
const CHUNK_BYTES: usize = 256 * 1024;
/// Bytes in a batch of jobs that the fan-out thread takes as one: what a busy store publishes meanwhile costs one wake a stream.
const MERGE_BYTES: usize = 256 * 1024;
/// Bytes of events that wait for the fan-out thread's next tick while nobody watches: a wake for each batch would serve nobody.
const UNWATCHED_BYTES: usize = 64 * 1024;
/// How often the turns of periodic progress are looked at: the shortest interval that may be asked for.
const TICK: Duration = Duration::from_millis(100);
/// Pause before history is asked again for a revision that it does not show yet.
const RETRY: Duration = Duration::from_millis(1);

/// How a hub is built.
#[derive(Copy, Clone, Debug)]
pub struct HubOptions {
    /// Locks that streams are spread over: about the number of net threads.
    pub shards: usize,
    /// Time between the progress messages of a watch that wants them; up to a tenth is added for each.
    pub progress_interval: Duration,
    /// Feeds the spread of progress messages over time.
    pub seed: u64,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self { shards: 4, progress_interval: Duration::from_secs(600), seed: 1 }
    }
}

/// What is going on, for metrics. Each is a plain number read without a lock.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) streams: AtomicU64,
    pub(super) watchers: AtomicU64,
    pub(super) lagging: AtomicU64,
    pub(super) events: AtomicU64,
    pending: AtomicU64,
}

/// The watch room's door for the rest of the member. Dropping it ends all streams and both threads.
pub struct Hub {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

pub(super) struct Shared {
    pub history: Arc<dyn History>,
    shards: Box<[Mutex<Shard>]>,
    next_shard: AtomicUsize,
    queue: Mutex<Queue>,
    queue_filled: Condvar,
    catch_up: Mutex<CatchUp>,
    catch_up_wanted: Condvar,
    counters: Arc<Counters>,
    epoch: Instant,
    /// The newest tick of a hub without threads, whose time is its driver's.
    manual: Option<AtomicU64>,
}

struct Shard {
    core: Core,
    /// By stream slot: the receiver that waits for a message, and the handle that waits for fewer answers.
    receivers: Vec<Option<Waker>>,
    requesters: Vec<Option<Waker>>,
    closed: bool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
    stop: bool,
}

enum Job {
    Publish(Vec<RevisionEvents>, usize),
    Jump(i64),
    Compacted(i64),
}

#[derive(Default)]
struct CatchUp {
    wanted: bool,
    stop: bool,
}

/// What a round of catching up came to.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Round {
    Idle,
    Done,
    NotYet,
}

fn events(revisions: &[RevisionEvents]) -> u64 {
    revisions.iter().map(|r| r.events.len() as u64).sum()
}

impl Counters {
    pub fn streams(&self) -> u64 {
        self.streams.load(Ordering::Relaxed)
    }

    pub fn watchers(&self) -> u64 {
        self.watchers.load(Ordering::Relaxed)
    }

    /// Watchers that read history instead of getting events as they happen.
    pub fn lagging(&self) -> u64 {
        self.lagging.load(Ordering::Relaxed)
    }

    /// Events put on streams since the start.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Events published and not yet handed to the streams.
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn sub(counter: &AtomicU64, n: u64) {
        counter.fetch_sub(n, Ordering::Relaxed);
    }
}

impl Hub {
    /// Builds the hub over a store whose batches from its current revision on will be published here, and starts its threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(history: Arc<dyn History>, options: HubOptions) -> std::io::Result<Self> {
        let mut hub = Self::build(history, options, None);
        let shared = hub.shared.clone();
        hub.threads.push(std::thread::Builder::new().name("watch-fan-out".into()).spawn(move || shared.run_fan_out())?);
        let shared = hub.shared.clone();
        hub.threads.push(std::thread::Builder::new().name("watch-catch-up".into()).spawn(move || shared.run_catch_up())?);
        Ok(hub)
    }

    /// A hub that works only inside [`Hub::drive`] and [`Hub::tick`], for simulation.
    pub fn without_threads(history: Arc<dyn History>, options: HubOptions) -> Self {
        Self::build(history, options, Some(AtomicU64::new(0)))
    }

    fn build(history: Arc<dyn History>, options: HubOptions, manual: Option<AtomicU64>) -> Self {
        let counters = Arc::new(Counters::default());
        let interval = u64::try_from(options.progress_interval.as_millis()).unwrap_or(u64::MAX / 4);
        let published = history.revision();
        let shard = |n: u64| {
            let core =
                Core::new(published, interval, options.seed.wrapping_add(n).wrapping_mul(0x9e37_79b9_7f4a_7c15), counters.clone());
            Mutex::new(Shard { core, receivers: Vec::new(), requesters: Vec::new(), closed: false })
        };
        let shared = Shared {
            history,
            shards: (0..options.shards.max(1) as u64).map(shard).collect(),
            next_shard: AtomicUsize::new(0),
            queue: Mutex::default(),
            queue_filled: Condvar::new(),
            catch_up: Mutex::default(),
            catch_up_wanted: Condvar::new(),
            counters,
            epoch: Instant::now(),
            manual,
        };
        Self { shared: Arc::new(shared), threads: Vec::new() }
    }

    /// Queues applied revisions, in order, after the store made them readable. Never blocks on a stream.
    pub fn publish(&self, revisions: Vec<RevisionEvents>) {
        Counters::add(&self.shared.counters.pending, events(&revisions));
        let bytes = revisions.iter().flat_map(|r| &r.events).map(|e| OVERHEAD + e.kv.0.len()).sum();
        if let Some(last) = revisions.last().map(|r| r.revision) {
            self.shared.enqueue(Job::Publish(revisions, bytes), bytes, last);
        }
    }

    /// Ends the watches that need revisions below the new compaction mark.
    pub fn compacted(&self, mark: i64) {
        self.shared.enqueue(Job::Compacted(mark), 0, mark);
    }

    /// The store was replaced by a snapshot at `revision`: each watcher resumes from its own next revision.
    pub fn reset(&self, revision: i64) {
        self.shared.enqueue(Job::Jump(revision), 0, revision);
    }

    /// Opens a stream. It ends when the receiver is dropped, when the handle closes it, or with the hub.
    pub fn open(&self, limits: Limits) -> (StreamHandle, StreamReceiver) {
        let shards = self.shared.shards.len();
        let shard = self.shared.next_shard.fetch_add(1, Ordering::Relaxed) % shards;
        let key = self.shared.with(shard, |core| core.open(limits));
        let handle = StreamHandle::new(self.shared.clone(), shard, key);
        (handle.clone(), StreamReceiver::new(handle, limits.fragment_bytes))
    }

    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    /// Does all that waits: hands out batches and reads history until no watcher can go on.
    pub fn drive(&self) {
        loop {
            let job = self.shared.dequeue(&mut self.shared.queue.lock());
            let Some(job) = job else { break };
            self.shared.run(job);
        }
        let mut cursor = 0;
        while self.shared.catch_up_round(&mut cursor) == Round::Done {}
    }

    /// Gives periodic progress as of `now`, milliseconds since the hub was built.
    pub fn tick(&self, now: u64) {
        if let Some(ticked) = &self.shared.manual {
            ticked.store(now, Ordering::Relaxed);
        }
        self.shared.tick(now);
    }

    /// Ends every stream; receivers get no more messages. Streams opened later end at once.
    pub fn close(&self) {
        for (at, _) in self.shared.shards.iter().enumerate() {
            self.shared.close_shard(at);
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.queue.lock().stop = true;
        self.shared.queue_filled.notify_all();
        self.shared.catch_up.lock().stop = true;
        self.shared.catch_up_wanted.notify_all();
        self.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a watch thread panicked");
            }
        }
    }
}

impl Shared {
    /// Milliseconds since the hub was built.
    pub fn now(&self) -> u64 {
        match &self.manual {
            Some(ticked) => ticked.load(Ordering::Relaxed),
            None => u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX / 2),
        }
    }

    /// Runs a call on a shard's core, then does what it asks for, outside of the lock.
    pub fn with<T>(&self, shard: usize, call: impl FnOnce(&mut Core) -> T) -> T {
        let mut guard = self.shards[shard].lock();
        let result = call(&mut guard.core);
        let (wakers, catch_up) = guard.wakers();
        drop(guard);
        wakers.into_iter().for_each(Waker::wake);
        if catch_up {
            self.ask_for_catch_up();
        }
        result
    }

    /// Takes what waits on a stream, or registers to be woken. False when the stream is over.
    pub fn take(&self, shard: usize, key: StreamKey, into: &mut VecDeque<super::WatchMessage>, waker: &Waker) -> bool {
        let mut guard = self.shards[shard].lock();
        let open = !guard.closed && guard.core.take(key, into);
        let slot = key.slot as usize;
        if open && into.is_empty() {
            place(&mut guard.receivers, slot, waker);
        }
        let requester = guard.requesters.get_mut(slot).and_then(Option::take);
        let (wakers, catch_up) = guard.wakers();
        drop(guard);
        wakers.into_iter().chain(requester).for_each(Waker::wake);
        if catch_up {
            self.ask_for_catch_up();
        }
        open
    }

    /// Whether the stream's next request may be handled; if not, registers to be woken.
    pub fn accepts_requests(&self, shard: usize, key: StreamKey, waker: &Waker) -> bool {
        let mut guard = self.shards[shard].lock();
        let accepts = guard.closed || guard.core.accepts_requests(key);
        if !accepts {
            place(&mut guard.requesters, key.slot as usize, waker);
        }
        accepts
    }

    /// Frees a stream and wakes both its sides, so that they see that it is over.
    pub fn close_stream(&self, shard: usize, key: StreamKey) {
        let mut guard = self.shards[shard].lock();
        if !guard.core.close(key) {
            return;
        }
        let slot = key.slot as usize;
        let receiver = guard.receivers.get_mut(slot).and_then(Option::take);
        let requester = guard.requesters.get_mut(slot).and_then(Option::take);
        drop(guard);
        receiver.into_iter().chain(requester).for_each(Waker::wake);
    }

    fn close_shard(&self, shard: usize) {
        let mut guard = self.shards[shard].lock();
        guard.closed = true;
        guard.core.close_all();
        let mut wakers: Vec<_> = std::mem::take(&mut guard.receivers);
        wakers.append(&mut guard.requesters);
        drop(guard);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn enqueue(&self, job: Job, bytes: usize, revision: i64) {
        let mut queue = self.queue.lock();
        let overflows = matches!(job, Job::Publish(..)) && queue.bytes > 0 && queue.bytes + bytes > QUEUE_BYTES;
        if overflows {
            tracing::warn!(queued_bytes = queue.bytes, revision, "watch fan-out is behind, watchers will read history");
        }
        if overflows || matches!(job, Job::Jump(_)) {
            // History holds what is dropped here; only marks are still of use.
            queue.jobs.retain(|job| matches!(job, Job::Compacted(_)));
            self.counters.pending.store(0, Ordering::Relaxed);
            queue.bytes = 0;
            queue.jobs.push_back(Job::Jump(revision));
        } else {
            queue.bytes += bytes;
            queue.jobs.push_back(job);
        }
        let wake = queue.bytes >= UNWATCHED_BYTES || self.counters.watchers() > 0;
        drop(queue);
        if wake {
            self.queue_filled.notify_one();
        }
    }

    /// Somebody came who wants to be told: what waits for a tick is handed out now. A batch published at the same moment finds the
    /// watcher, or was found here.
    pub fn hand_out(&self) {
        let waits = !self.queue.lock().jobs.is_empty();
        if waits {
            self.queue_filled.notify_one();
        }
    }

    /// The next job; batches that wait behind each other come as one.
    fn dequeue(&self, queue: &mut Queue) -> Option<Job> {
        let mut job = queue.jobs.pop_front()?;
        if let Job::Publish(revisions, bytes) = &mut job {
            while *bytes < MERGE_BYTES
                && let Some(Job::Publish(..)) = queue.jobs.front()
                && let Some(Job::Publish(mut more, more_bytes)) = queue.jobs.pop_front()
            {
                revisions.append(&mut more);
                *bytes += more_bytes;
            }
            queue.bytes -= *bytes;
        }
        Some(job)
    }

    fn run(&self, job: Job) {
        match job {
            Job::Publish(revisions, _) => {
                let count = events(&revisions);
                let batch = Batch::new(revisions);
                self.each_shard(|core| core.publish(&batch));
                // A batch that was dropped meanwhile is counted off already.
                let _ = self.counters.pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(count)));
            }
            Job::Jump(revision) => self.each_shard(|core| core.jump(revision)),
            Job::Compacted(mark) => self.each_shard(|core| core.compacted(mark)),
        }
    }

    fn tick(&self, now: u64) {
        self.each_shard(|core| core.tick(now));
    }

    fn each_shard(&self, mut call: impl FnMut(&mut Core)) {
        for shard in 0..self.shards.len() {
            self.with(shard, &mut call);
        }
    }

    fn run_fan_out(&self) {
        let mut next_tick = Instant::now() + TICK;
        loop {
            let mut queue = self.queue.lock();
            if queue.jobs.is_empty() && !queue.stop {
                self.queue_filled.wait_until(&mut queue, next_tick);
            }
            if queue.stop {
                return;
            }
            let job = self.dequeue(&mut queue);
            drop(queue);
            if let Some(job) = job {
                self.run(job);
            }
            if Instant::now() >= next_tick {
                self.tick(self.now());
                next_tick = Instant::now() + TICK;
            }
        }
    }

    fn ask_for_catch_up(&self) {
        let asked = std::mem::replace(&mut self.catch_up.lock().wanted, true);
        if !asked {
            self.catch_up_wanted.notify_one();
        }
    }

    fn run_catch_up(&self) {
        let mut cursor = 0;
        loop {
            let mut state = self.catch_up.lock();
            while !state.wanted && !state.stop {
                self.catch_up_wanted.wait(&mut state);
            }
            if state.stop {
                return;
            }
            state.wanted = false;
            drop(state);
            match self.catch_up_round(&mut cursor) {
                Round::Idle => {}
                Round::Done => self.catch_up.lock().wanted = true,
                Round::NotYet => {
                    std::thread::sleep(RETRY);
                    self.catch_up.lock().wanted = true;
                }
            }
        }
    }

    /// Reads one chunk of history for those who resume inside it. `cursor` makes the rounds go past every waiting watcher: a
    /// watcher far behind does not keep the nearer ones from their chunk.
    fn catch_up_round(&self, cursor: &mut i64) -> Round {
        let wanted = |after| self.shards.iter().filter_map(|shard| shard.lock().core.wanted(after)).min();
        let Some(from) = wanted(*cursor).or_else(|| wanted(0)) else { return Round::Idle };
        let head = self.history.revision();
        if head < from {
            return Round::NotYet;
        }
        match self.history.events(from, head, CHUNK_BYTES) {
            Ok(revisions) => {
                let chunk = Batch::new(revisions);
                // A chunk that ends early was cut for its size, or has no events after: the next read tells.
                let to = chunk.last_revision().unwrap_or(head);
                self.each_shard(|core| core.catch_up(&chunk, from, to));
                // Those just served wait one past the chunk; the round goes on behind them.
                *cursor = to + 2;
            }
            Err(ReadError::FutureRevision) => return Round::NotYet,
            Err(ReadError::Compacted) if self.history.compact_revision() > from => {
                let mark = self.history.compact_revision();
                self.each_shard(|core| core.compacted(mark));
            }
            Err(error) => {
                tracing::error!(?error, revision = from, "history not readable, its watches are canceled");
                self.each_shard(|core| core.fail(from, "etcdserver: watch history not readable"));
            }
        }
        Round::Done
    }
}

impl Shard {
    fn wakers(&mut self) -> (Vec<Waker>, bool) {
        let Effects { wake, catch_up } = self.core.effects();
        let take = |slot: u32| self.receivers.get_mut(slot as usize).and_then(Option::take);
        (wake.into_iter().filter_map(take).collect(), catch_up)
    }
}

fn place(wakers: &mut Vec<Option<Waker>>, slot: usize, waker: &Waker) {
    if wakers.len() <= slot {
        wakers.resize(slot + 1, None);
    }
    match &mut wakers[slot] {
        Some(old) => old.clone_from(waker),
        empty => *empty = Some(waker.clone()),
    }
}
