//! The runner: one script on one pair of fresh servers, operation by operation, until the first difference.
//!
//! In: a script and two programs. Out: a [`Verdict`]. An operation is sent to both servers at once and the next one only when both
//! have answered, so that what each of them sees is the same sequence. Watches run beside; they are compared at checks, which come
//! by themselves before whatever would make their course depend on timing: a compaction, a cancellation, a restart.
//! Invariant: the reference decides what relative revisions mean, for both servers.

use crate::generate::STREAMS;
use crate::script::{Known, Op, Watch};
use crate::server::Program;
use crate::side::{OPERATION_PATIENCE, Side};
use quorate_proto::etcdserverpb::{WatchCancelRequest, WatchProgressRequest, watch_request::RequestUnion};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Longest wait for events that must come, and for an answer to a progress request.
const WATCH_PATIENCE: Duration = Duration::from_secs(10);

/// How much the remaining seconds of a lease may differ: the reference starts them anew at a restart.
const SECONDS_APART: i64 = 600;

/// The first operation that the servers answered differently.
#[derive(Clone, Debug)]
pub struct Difference {
    pub operation: usize,
    pub line: String,
    /// (path, the reference's text, the other's text).
    pub fields: Vec<(String, String, String)>,
}

#[derive(Debug)]
pub enum Verdict {
    /// Number of operations that were the same.
    Same(usize),
    Different(Difference),
    /// The reference or this machine failed; it says nothing of the other server.
    Broken(String),
}

struct Tracked {
    watch: Watch,
    /// First revision it asked for, 0 for whatever comes.
    start: i64,
    /// First revision whose events have not been counted yet.
    next: i64,
    /// It starts below the compacted revision, so it will be canceled.
    doomed: bool,
    /// For one that starts in the past: what was expected of its id before it. Until it has been told an event there is no telling
    /// whether etcd has brought it up to date yet.
    before: Option<u64>,
}

impl Tracked {
    fn sees(&self, key: &[u8], delete: bool) -> bool {
        let w = &self.watch;
        let (start, end) = (if w.key.0.is_empty() { &b"\0"[..] } else { &w.key.0[..] }, &w.range_end.0[..]);
        let inside = match end {
            b"" => key == start,
            b"\0" => key >= start,
            _ => key >= start && key < end,
        };
        inside && !w.filters.contains(&i32::from(delete))
    }
}

/// A watch: its stream and its id.
type Place = (usize, i64);

struct Pair {
    a: Side,
    b: Side,
    at: Known,
    watches: BTreeMap<Place, Tracked>,
    /// Answers to creates, by stream.
    created: Vec<usize>,
    /// Events that must have been delivered, all lives of an id together.
    expected: BTreeMap<Place, u64>,
    /// Cancellations that must have been told.
    canceled: BTreeMap<Place, u64>,
    /// Progress requests that may still be answered, by stream, for either side.
    owed: Vec<[i64; 2]>,
    /// Watches that ended because their start was compacted. etcd forgets to take such a watch off its stream: a cancellation
    /// of it is answered once more, its id stays taken, and the stream tells no progress any more. Quorate does forget it, so
    /// nothing is asked of either that would show this.
    undead: BTreeSet<Place>,
    /// Revisions compacted at. etcd remembers the hash it took while it compacted and answers with that one, the compaction before
    /// it included, if it had the time to take it; so no hash of just these revisions is asked for.
    floors: BTreeSet<i64>,
}

enum Stop {
    Differs(Vec<(String, String, String)>),
    Broken(String),
}

fn differs(what: &str, a: impl ToString, b: impl ToString) -> Stop {
    Stop::Differs(vec![(what.to_string(), a.to_string(), b.to_string())])
}

/// Runs a script on two fresh clusters of this many members, in a folder of their own.
pub async fn run(script: &[Op], reference: &Program, candidate: &Program, members: usize) -> Verdict {
    let dir = match tempfile::Builder::new().prefix("differential-").tempdir() {
        Ok(dir) => dir,
        Err(e) => return Verdict::Broken(e.to_string()),
    };
    let (a, b) = tokio::join!(
        Side::start(reference, dir.path().join("a"), members, STREAMS),
        Side::start(candidate, dir.path().join("b"), members, STREAMS)
    );
    let (a, b) = match (a, b) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(e), _) | (_, Err(e)) => return Verdict::Broken(e),
    };
    let at = Known { now: 1, floor: 0 };
    let mut pair = Pair {
        a,
        b,
        at,
        watches: BTreeMap::new(),
        created: vec![0; STREAMS],
        expected: BTreeMap::new(),
        canceled: BTreeMap::new(),
        owed: vec![[0; 2]; STREAMS],
        undead: BTreeSet::new(),
        floors: BTreeSet::new(),
    };
    let mut stop = None;
    for (n, op) in script.iter().enumerate() {
        if let Err(s) = pair.step(op).await {
            stop = Some((n, op.line(), s));
            break;
        }
    }
    if stop.is_none()
        && let Err(s) = pair.finish().await
    {
        stop = Some((script.len(), "(the check at the end)".into(), s));
    }
    let verdict = match stop {
        None => Verdict::Same(script.len()),
        Some((_, line, Stop::Broken(e))) => Verdict::Broken(format!("{line}: {e}")),
        Some((operation, line, Stop::Differs(mut fields))) => {
            for (label, side) in [("reference", &mut pair.a), ("candidate", &mut pair.b)] {
                if let Some(status) = side.seat().exited() {
                    fields.push((format!("{label} ended"), status, side.seat().log_tail()));
                }
            }
            Verdict::Different(Difference { operation, line, fields })
        }
    };
    tokio::join!(pair.a.stop(), pair.b.stop());
    verdict
}

impl Pair {
    async fn step(&mut self, op: &Op) -> Result<(), Stop> {
        match op {
            Op::Check => self.check().await,
            Op::Watch(w) => self.create(w).await,
            Op::Cancel { stream, id } => self.cancel(*stream, *id).await,
            Op::Progress { stream } => self.progress(*stream).await,
            Op::Restart { kill } => self.restart(*kill).await,
            Op::Compact { .. } => {
                self.check().await?;
                self.end_silent().await;
                self.check().await?;
                self.ask(op).await
            }
            Op::HashKv { revision } => {
                let revision = revision.resolve(self.at);
                // A compaction at 0 is accepted, and its hash remembered as that of revision 0, which otherwise means the newest.
                let revision = if revision == 0 && !self.floors.contains(&0) { self.at.now } else { revision };
                if self.floors.contains(&revision) { Ok(()) } else { self.ask(op).await }
            }
            _ => self.ask(op).await,
        }
    }

    async fn ask(&mut self, op: &Op) -> Result<(), Stop> {
        let at = self.at;
        let (a, b) = tokio::join!(self.a.ask(op, at), self.b.ask(op, at));
        if a.lost && (self.a.seat().exited().is_some() || !b.lost) {
            return Err(Stop::Broken(format!("the reference is lost: {:?}\n{}", a.fields.0, self.a.seat().log_tail())));
        }
        let mut fields = a.fields.differences(&b.fields);
        match (a.seconds, b.seconds) {
            (Some(x), Some(y)) if (x - y).abs() <= SECONDS_APART => {}
            (x, y) if x != y => fields.push(("seconds left".into(), format!("{x:?}"), format!("{y:?}"))),
            _ => {}
        }
        if !fields.is_empty() {
            return Err(Stop::Differs(fields));
        }
        self.at.now = self.at.now.max(a.revision.unwrap_or(0));
        if let Op::Compact { revision, .. } = op
            && a.ok
        {
            self.at.floor = revision.resolve(at);
            self.floors.insert(self.at.floor);
        }
        Ok(())
    }

    async fn create(&mut self, watch: &Watch) -> Result<(), Stop> {
        let request = watch.request(self.at);
        let start = request.start_revision;
        let stream = watch.stream;
        let doomed = start > 0 && start < self.at.floor;
        if doomed && watch.id != 0 || self.undead.contains(&(stream, watch.id)) {
            return Ok(());
        }
        let send = RequestUnion::CreateRequest(request);
        tokio::join!(self.a.streams[stream].send(send.clone()), self.b.streams[stream].send(send));
        self.created[stream] += 1;
        let (n, deadline) = (self.created[stream], Instant::now() + OPERATION_PATIENCE);
        let (a, b) = tokio::join!(
            self.a.streams[stream].wait(deadline, |log| log.created.len() >= n),
            self.b.streams[stream].wait(deadline, |log| log.created.len() >= n)
        );
        if !a {
            return Err(Stop::Broken("the reference did not answer a watch's creation".into()));
        }
        let answer = |side: &Side| side.streams[stream].log().created.get(n - 1).copied();
        let (of_a, of_b) = (answer(&self.a), answer(&self.b));
        if !b || of_a != of_b {
            let ended = self.b.streams[stream].log().ended.clone();
            return Err(differs("created (id, refused)", format!("{of_a:?}"), format!("{of_b:?}, ended: {ended:?}")));
        }
        if let Some((id, false)) = of_a {
            let next = if start > 0 { start } else { self.at.now + 1 };
            let before = (start > 0 && start <= self.at.now).then(|| self.expected.get(&(stream, id)).copied().unwrap_or(0));
            self.watches.insert((stream, id), Tracked { watch: watch.clone(), start, next, doomed, before });
            if doomed {
                self.undead.insert((stream, id));
                *self.canceled.entry((stream, id)).or_default() += 1;
            }
        }
        Ok(())
    }

    async fn cancel(&mut self, stream: usize, id: i64) -> Result<(), Stop> {
        if self.undead.contains(&(stream, id)) {
            return Ok(());
        }
        self.check().await?;
        let send = RequestUnion::CancelRequest(WatchCancelRequest { watch_id: id });
        tokio::join!(self.a.streams[stream].send(send.clone()), self.b.streams[stream].send(send));
        if self.watches.remove(&(stream, id)).is_some() {
            *self.canceled.entry((stream, id)).or_default() += 1;
            return self.check().await;
        }
        Ok(())
    }

    /// Cancels watches that started in the past and have seen nothing: a compaction would cancel them or not, by when etcd last
    /// looked for watches that are behind.
    async fn end_silent(&mut self) {
        let told = |place: &Place, t: &Tracked| t.before.is_none_or(|n| self.expected.get(place).copied().unwrap_or(0) > n);
        let silent: Vec<Place> = self.watches.iter().filter(|(place, t)| !told(place, t)).map(|(place, _)| *place).collect();
        for (stream, id) in silent {
            let send = RequestUnion::CancelRequest(WatchCancelRequest { watch_id: id });
            tokio::join!(self.a.streams[stream].send(send.clone()), self.b.streams[stream].send(send));
            self.watches.remove(&(stream, id));
            *self.canceled.entry((stream, id)).or_default() += 1;
        }
    }

    /// A stream tells its progress if it has watches and all of them have caught up; one that starts in the future has not.
    async fn progress(&mut self, stream: usize) -> Result<(), Stop> {
        if self.undead.iter().any(|(s, _)| *s == stream) {
            return Ok(());
        }
        self.check().await?;
        let speaks = self.watches.keys().any(|(s, _)| *s == stream);
        let at = self.at;
        let future = self.watches.iter().any(|((s, _), t)| *s == stream && t.start > at.now);
        if !speaks || future {
            self.ask_progress(stream).await;
            if future {
                // Quorate answers when the watch's first revision is there; etcd does not.
                self.owed[stream][1] += 1;
            }
            return Ok(());
        }
        let deadline = Instant::now() + WATCH_PATIENCE;
        let (a, b) = tokio::join!(told_progress(&self.a, stream, deadline), told_progress(&self.b, stream, deadline));
        self.owed[stream][0] += a.1;
        self.owed[stream][1] += b.1;
        match (a.0, b.0) {
            (None, _) => Err(Stop::Broken("the reference did not tell its progress".into())),
            (Some(a), Some(b)) if a == b && a == at.now => Ok(()),
            (a, b) => Err(differs("progress", format!("{a:?}"), format!("{b:?}"))),
        }
    }

    async fn ask_progress(&mut self, stream: usize) {
        let send = RequestUnion::ProgressRequest(WatchProgressRequest {});
        tokio::join!(self.a.streams[stream].send(send.clone()), self.b.streams[stream].send(send));
    }

    async fn restart(&mut self, kill: bool) -> Result<(), Stop> {
        self.check().await?;
        self.watches.clear();
        self.expected.clear();
        self.undead.clear();
        self.canceled.clear();
        self.created = vec![0; STREAMS];
        self.owed = vec![[0; 2]; STREAMS];
        let (a, b) = tokio::join!(self.a.restart(kill), self.b.restart(kill));
        a.map_err(Stop::Broken)?;
        b.map_err(|e| differs("restart", "ready", e))
    }

    /// Waits for everything that must have come, and compares what came.
    async fn check(&mut self) -> Result<(), Stop> {
        let deadline = Instant::now() + WATCH_PATIENCE;
        let now = self.at.now;
        let seen = |log: &crate::watch::Log| log.history.last().map_or(1, |e| e.0) >= now;
        let (a, b) = tokio::join!(self.a.everything.wait(deadline, seen), self.b.everything.wait(deadline, seen));
        if !a {
            return Err(Stop::Broken(format!("the reference's watch of everything did not reach revision {now}")));
        }
        if !b {
            let last = self.b.everything.log().history.last().map(|e| e.0);
            let ended = self.b.everything.log().ended.clone();
            return Err(differs("newest revision on a watch of everything", now, format!("{last:?}, stream ended: {ended:?}")));
        }
        self.count();
        for stream in 0..STREAMS {
            let of = |map: &BTreeMap<Place, u64>| -> Vec<(i64, u64)> {
                map.range((stream, i64::MIN)..=(stream, i64::MAX)).map(|((_, id), n)| (*id, *n)).collect()
            };
            let (events, cancels) = (of(&self.expected), of(&self.canceled));
            let done = |log: &crate::watch::Log| {
                let has = |map: &BTreeMap<i64, u64>, want: &[(i64, u64)]| {
                    want.iter().all(|(id, n)| map.get(id).copied().unwrap_or(0) >= *n)
                };
                has(&log.events, &events) && has(&log.canceled, &cancels)
            };
            let (a, b) = tokio::join!(self.a.streams[stream].wait(deadline, done), self.b.streams[stream].wait(deadline, done));
            self.compare(stream)?;
            if !a || !b {
                // Both have told the same, and less than the history of all events asks for.
                return Err(Stop::Broken(format!(
                    "stream {stream} lacks events on both sides: expected {events:?}, cancels {cancels:?}"
                )));
            }
        }
        self.watches.retain(|_, t| !t.doomed);
        let (a, b) = (take(&self.a.everything), take(&self.b.everything));
        same_lists("watch of everything", a, b)
    }

    /// Adds the events of revisions not yet counted to what each watch must have seen.
    fn count(&mut self) {
        let log = self.a.everything.log();
        for (place, tracked) in &mut self.watches {
            if tracked.doomed || tracked.next > self.at.now {
                continue;
            }
            let from = log.history.partition_point(|e| e.0 < tracked.next);
            let fresh = log.history[from..].iter().filter(|e| e.0 <= self.at.now && tracked.sees(&e.1, e.2)).count();
            *self.expected.entry(*place).or_default() += fresh as u64;
            tracked.next = self.at.now + 1;
        }
    }

    fn compare(&mut self, stream: usize) -> Result<(), Stop> {
        for (i, side) in [&self.a, &self.b].into_iter().enumerate() {
            let mut log = side.streams[stream].log();
            let late = log.progress.len() as i64;
            log.progress.clear();
            if late > self.owed[stream][i] {
                let who = ["reference", "candidate"][i];
                drop(log);
                return Err(differs(&format!("progress told by the {who}"), "nothing to tell", late));
            }
            self.owed[stream][i] -= late;
        }
        let (a, b) = (&self.a.streams[stream], &self.b.streams[stream]);
        let (ended_a, ended_b) = (a.log().ended.clone(), b.log().ended.clone());
        if ended_a != ended_b {
            return Err(differs("stream ended", format!("{ended_a:?}"), format!("{ended_b:?}")));
        }
        same_lists(&format!("stream {stream}"), take(a), take(b))
    }

    async fn finish(&mut self) -> Result<(), Stop> {
        self.check().await?;
        // What is told too much may come late; the next check sees it, and after the last one there is none.
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.check().await?;
        self.same_hashes().await
    }

    /// Every member of either cluster holds the same history. The newest revision may be one that was compacted at, whose hash
    /// etcd remembers instead of taking it.
    async fn same_hashes(&mut self) -> Result<(), Stop> {
        let now = self.at.now;
        if self.floors.contains(&now) {
            return Ok(());
        }
        let (a, b) = tokio::join!(self.a.hashes(now), self.b.hashes(now));
        let a = a.map_err(Stop::Broken)?;
        match b {
            Ok(b) if a == b && a.iter().all(|hash| *hash == a[0]) => Ok(()),
            b => Err(differs("hash of each member", format!("{a:?}"), format!("{b:?}"))),
        }
    }
}

fn take(stream: &crate::watch::Stream) -> BTreeMap<i64, Vec<String>> {
    std::mem::take(&mut stream.log().told)
}

fn same_lists(what: &str, a: BTreeMap<i64, Vec<String>>, b: BTreeMap<i64, Vec<String>>) -> Result<(), Stop> {
    let mut fields = Vec::new();
    let ids: BTreeSet<i64> = a.keys().chain(b.keys()).copied().collect();
    for id in ids {
        let empty = Vec::new();
        let (x, y) = (a.get(&id).unwrap_or(&empty), b.get(&id).unwrap_or(&empty));
        let n = x.iter().zip(y).take_while(|(x, y)| x == y).count();
        if n < x.len().max(y.len()) {
            let text = |l: &[String]| l.get(n).cloned().unwrap_or_else(|| format!("(nothing; {} items)", l.len()));
            fields.push((format!("{what}, watch {id}, item {n}"), text(x), text(y)));
        }
    }
    if fields.is_empty() { Ok(()) } else { Err(Stop::Differs(fields)) }
}

/// Asks until it is told: a watch that has just caught up may not count as such yet. Returns the revision, and how many requests
/// may still be answered.
async fn told_progress(side: &Side, stream: usize, deadline: Instant) -> (Option<i64>, i64) {
    let mut sent = 0;
    loop {
        side.streams[stream].send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
        sent += 1;
        let pause = (Instant::now() + Duration::from_millis(200)).min(deadline);
        if side.streams[stream].wait(pause, |log| !log.progress.is_empty()).await {
            let told = std::mem::take(&mut side.streams[stream].log().progress);
            return (told.first().copied(), sent - told.len() as i64);
        }
        if Instant::now() >= deadline {
            return (None, sent);
        }
    }
}
