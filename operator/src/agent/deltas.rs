//! The long-lived agent of a schedule: it reads the history from a member as it grows and keeps it in the store as files of deltas.
//!
//! In: a member's stream of deltas. Out: files that follow one another, and a page that tells how far they reach. It goes on where the
//! newest file in the store ends; when the cluster does not have what follows any more, it begins anew at the newest revision, which
//! the page shows, and the operator then has a full backup made.
//!
//! Invariants: a file is written before the member is told that it may forget; what was read is kept until it is written, and while it
//! is being written nothing more is read, so memory is bounded by one file; a file ends between two revisions.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::routing::get;
use axum::{Json, Router};
use quorate_client::proto::backup as bp;
use quorate_client::proto::etcdserverpb as pb;
use quorate_client::proto::segment;
use quorate_client::{Client, Code, Streaming};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::store::{Store, StoreFlags};
use super::{Error, Report, chain, client, io};

/// Bytes of keys and values after which a file is written before its time.
const LARGE: usize = 8 << 20;
/// A member that says nothing for so long is given up; it promised to speak each second.
const SILENCE: Duration = Duration::from_secs(15);
/// The first and the last pause after something failed.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// How often a member hears that the agent is there, though nothing new was stored.
const GREETING: Duration = Duration::from_secs(60);

/// Flags of the long-lived agent.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// The store
    #[command(flatten)]
    pub store: StoreFlags,
    /// The cluster's folder in the store, with a slash at the end
    #[arg(long = "in", value_name = "NAME")]
    pub object_folder: String,
    /// The name under which members hold history back for these files; another place needs another name
    #[arg(long, value_name = "NAME")]
    pub holder: String,
    /// A member's client URL; may be given several times
    #[arg(long = "endpoint", required = true, value_name = "URL")]
    pub endpoints: Vec<String>,
    /// A folder with tls.crt, tls.key and ca.crt
    #[arg(long, value_name = "DIR")]
    pub tls: Option<PathBuf>,
    /// Seconds between files while there is something new
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub interval: u64,
    /// Where to show the page /status
    #[arg(long, default_value = "0.0.0.0:8081", value_name = "ADDRESS")]
    pub listen: SocketAddr,
}

type Page = Arc<Mutex<Report>>;

/// Runs until told to stop by SIGTERM or SIGINT; then what was read is written.
///
/// # Errors
/// Settings that cannot work; trouble with members or the store is waited out and shown.
pub async fn run(settings: &Settings) -> Result<(), Error> {
    let store = Store::open(&settings.store)?;
    let page = Page::default();
    let listener = tokio::net::TcpListener::bind(settings.listen).await.map_err(io(settings.listen.to_string()))?;
    let shown = page.clone();
    let status = move || {
        let report = shown.lock().expect("no one panics in there").clone();
        async move { Json(report) }
    };
    let router = Router::new().route("/status", get(status)).route("/healthz", get(|| async { "ok" }));
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate()).map_err(io("SIGTERM"))?, signal(SignalKind::interrupt()).map_err(io("SIGINT"))?);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
        let _ = stop.send(true);
    });
    let kept = keep(&store, settings, &page, stopped).await;
    serving.abort();
    kept
}

/// The agent's work proper: follows one member after the other until `stop` says so.
///
/// # Errors
/// Endpoints or certificates that cannot be used.
pub async fn keep(store: &Store, settings: &Settings, page: &Page, stop: watch::Receiver<bool>) -> Result<(), Error> {
    let members = settings
        .endpoints
        .iter()
        .map(|endpoint| client(std::slice::from_ref(endpoint), settings.tls.as_deref()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut keeper = Keeper {
        store,
        folder: &settings.object_folder,
        holder: settings.holder.clone(),
        interval: Duration::from_secs(settings.interval.max(1)),
        page,
        stop,
        last: None,
    };
    let mut pause = BACKOFF.0;
    for member in members.iter().cycle() {
        let began = Instant::now();
        let outcome = keeper.follow(member).await;
        if keeper.stopping() {
            return Ok(());
        }
        if let Err(error) = outcome {
            tracing::warn!(endpoint = member.endpoints().next(), %error, "the deltas pause");
            keeper.tell(|report| report.error = Some(error.to_string()));
        }
        if began.elapsed() > BACKOFF.1 {
            pause = BACKOFF.0;
        }
        let mut stop = keeper.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        pause = (pause * 2).min(BACKOFF.1);
    }
    Ok(())
}

/// Where the files in the store end.
#[derive(Clone)]
struct Last {
    cluster: u64,
    /// They follow one another from here on.
    since: i64,
    revision: i64,
    hash: Vec<u8>,
}

struct Keeper<'a> {
    store: &'a Store,
    folder: &'a str,
    holder: String,
    interval: Duration,
    page: &'a Page,
    stop: watch::Receiver<bool>,
    last: Option<Last>,
}

/// Deltas that are not in the store yet.
#[derive(Default)]
struct Pending {
    deltas: Vec<bp::Delta>,
    bytes: usize,
    /// Since when something waits.
    since: Option<Instant>,
    /// The main revision of the newest row.
    row: i64,
    /// Up to when nothing that was acknowledged is missing here, milliseconds since 1970.
    heard_ms: i64,
}

impl Pending {
    fn take(&mut self, delta: bp::Delta) {
        // A member that catches up tells news late: by their own time. That there are none is true of the moment it is said.
        let news = !delta.rows.is_empty() || !delta.side.is_empty() || delta.side_whole;
        self.heard_ms = self.heard_ms.max(if news { delta.time_ms } else { now_ms() });
        if !news {
            // It tells how far the others reach, and of a compaction; alone it is not worth a file.
            match self.deltas.last_mut() {
                Some(last) if last.revision == delta.revision => last.compacted = delta.compacted,
                _ => {}
            }
            return;
        }
        self.row = delta.rows.last().map_or(self.row, |row| row.main);
        self.bytes += delta.rows.iter().map(|row| row.kv.len() + 16).sum::<usize>();
        self.bytes += delta.side.iter().map(|row| row.key.len() + row.value.len()).sum::<usize>();
        self.since.get_or_insert_with(Instant::now);
        self.deltas.push(delta);
    }

    /// True when no revision is cut in two at the end.
    fn is_complete(&self) -> bool {
        self.deltas.last().is_some_and(|last| last.revision >= self.row)
    }

    /// When it should be written: at its time, or at once when it is large or a compaction waits for it.
    fn due(&self, interval: Duration, stored: i64) -> Option<Instant> {
        let since = self.since.filter(|_| self.is_complete())?;
        let hurried = self.bytes >= LARGE || self.deltas.last().is_some_and(|last| last.compacted > stored);
        Some(if hurried { since } else { since + interval })
    }
}

impl Keeper<'_> {
    fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    fn tell(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.page.lock().expect("no one panics in there"));
    }

    /// Reads from one member until it fails or the agent is stopped.
    async fn follow(&mut self, member: &Client) -> Result<(), Error> {
        let header = member.status(pb::StatusRequest {}).await?.header.unwrap_or_default();
        let cluster = header.cluster_id;
        let (mut stream, last) = self.open(member, cluster).await?;
        self.tell(|report| {
            report.cluster_id = format!("{cluster:016x}");
            (report.since, report.revision, report.error) = (last.since, last.revision, None);
        });
        self.last = Some(last);
        let mut pending = Pending::default();
        let mut greeted = Instant::now();
        let mut stop = self.stop.clone();
        loop {
            let stored = self.last.as_ref().map_or(0, |last| last.revision);
            let due = pending.due(self.interval, stored);
            tokio::select! {
                message = tokio::time::timeout(SILENCE, stream.message()) => {
                    let message = message.map_err(|_| Error::Refused("the member fell silent".into()))?;
                    let delta = message.map_err(quorate_client::Error::from)?;
                    let delta = delta.ok_or_else(|| Error::Refused("the member ended the stream".into()))?;
                    pending.take(delta);
                }
                () = sleep_until(due) => {}
                _ = stop.wait_for(|stop| *stop) => {
                    if pending.is_complete() {
                        self.write(member, &mut pending).await?;
                    }
                    return Ok(());
                }
            }
            if pending.due(self.interval, stored).is_some_and(|due| due <= Instant::now()) {
                self.write(member, &mut pending).await?;
                greeted = Instant::now();
            }
            if pending.deltas.is_empty() {
                self.tell(|report| report.covered_ms = report.covered_ms.max(pending.heard_ms));
                if greeted.elapsed() >= GREETING {
                    greeted = Instant::now();
                    self.stored(member).await?;
                }
            }
        }
    }

    /// Opens the stream where the files end, or where a new run of files begins.
    async fn open(&self, member: &Client, cluster: u64) -> Result<(Streaming<bp::Delta>, Last), Error> {
        let known = match &self.last {
            Some(last) if last.cluster == cluster => Some(last.clone()),
            _ => self.find(cluster).await?,
        };
        let ask = |after: i64| bp::DeltasRequest { holder: self.holder.clone(), from_revision: after + 1, cluster };
        if let Some(last) = known {
            match first(member, ask(last.revision)).await {
                Ok(stream) => return Ok((stream, last)),
                Err(quorate_client::Error::Server { code: Code::OutOfRange, message }) => {
                    let newest = member.status(pb::StatusRequest {}).await?.header.unwrap_or_default().revision;
                    if newest < last.revision {
                        return Err(Error::Refused(format!(
                            "the member is at revision {newest}, the store at {}: it lags",
                            last.revision
                        )));
                    }
                    tracing::warn!(message, "what follows the newest deltas is gone: a new run begins, and needs a full backup");
                }
                Err(error) => return Err(error.into()),
            }
        }
        // A compaction may overtake the question, which is then asked again by the caller.
        let newest = member.status(pb::StatusRequest {}).await?.header.unwrap_or_default().revision;
        let stream = first(member, ask(newest)).await?;
        Ok((stream, Last { cluster, since: newest, revision: newest, hash: Vec::new() }))
    }

    /// Where the files of a cluster end in the store.
    async fn find(&self, cluster: u64) -> Result<Option<Last>, Error> {
        let name = format!("{cluster:016x}");
        let Some((since, newest)) = chain::run(&self.store.segments(self.folder, &name).await?, &name) else { return Ok(None) };
        let content = self.store.get(&newest.name).await?;
        let (_, hash) = segment::decode(&content).map_err(|error| Error::Refused(format!("{} {error}", newest.name)))?;
        Ok(Some(Last { cluster, since, revision: newest.revision, hash: hash.to_vec() }))
    }

    /// Writes what waits, however long the store takes to accept it.
    async fn write(&mut self, member: &Client, pending: &mut Pending) -> Result<(), Error> {
        let Pending { deltas, bytes: _, heard_ms, .. } = std::mem::take(pending);
        let Some((name, content, last)) = self.last.as_ref().and_then(|last| file(self.folder, last, deltas)) else {
            return Ok(());
        };
        let (size, revision) = (content.len() as u64, last.revision);
        let mut pause = BACKOFF.0;
        while let Err(error) = self.store.put(&name, content.clone()).await {
            tracing::warn!(object = name, %error, "cannot write deltas");
            self.tell(|report| report.error = Some(error.to_string()));
            if self.stopping() {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
        self.last = Some(last);
        self.tell(|report| {
            report.revision = revision;
            report.covered_ms = report.covered_ms.max(heard_ms);
            report.segments += 1;
            report.bytes += size;
            report.error = None;
        });
        self.stored(member).await
    }

    /// Lets the member forget what is in the store.
    async fn stored(&self, member: &Client) -> Result<(), Error> {
        let revision = self.last.as_ref().map_or(0, |last| last.revision);
        let request = bp::StoredRequest { holder: self.holder.clone(), revision };
        if !member.backup_stored(request).await?.held {
            tracing::warn!(revision, "the member keeps nothing for this agent any more");
        }
        Ok(())
    }
}

/// The file of these deltas: its name, its content, and where the files then end. A file of that name, should there be one, has this
/// very content. None without deltas.
fn file(folder: &str, last: &Last, deltas: Vec<bp::Delta>) -> Option<(String, Vec<u8>, Last)> {
    let (revision, time_ms) = deltas.last().map(|newest| (newest.revision, newest.time_ms))?;
    let previous = last.hash.clone().into();
    let file = bp::Segment { cluster: last.cluster, after: last.revision, revision, time_ms, previous, deltas };
    let (content, hash) = segment::encode(&file);
    let cluster = format!("{:016x}", last.cluster);
    let name = chain::segment_name(folder, &cluster, (last.revision, revision, time_ms), &last.hash, &hash);
    Some((name, content, Last { revision, hash: hash.to_vec(), ..last.clone() }))
}

/// Opens a stream and waits for its first word, so that a refusal is told here. The word is the whole of the rows beside the key space,
/// or rows; it must not be lost, so it is not taken.
async fn first(member: &Client, request: bp::DeltasRequest) -> quorate_client::Result<Streaming<bp::Delta>> {
    // The member refuses by the stream's headers or by its trailers; a call to Stored asks the same question without a stream.
    let asked = bp::StoredRequest { holder: request.holder.clone(), revision: request.from_revision - 1 };
    if !member.backup_stored(asked).await?.held {
        let message = format!("the history from revision {} on is not whole any more", request.from_revision);
        return Err(quorate_client::Error::Server { code: Code::OutOfRange, message });
    }
    member.backup_deltas(request).await
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(revision: i64, rows: &[i64], compacted: i64) -> bp::Delta {
        let rows = rows.iter().map(|main| bp::Row { main: *main, kv: vec![0; 10].into(), ..bp::Row::default() }).collect();
        bp::Delta { revision, rows, compacted, ..bp::Delta::default() }
    }

    /// Agents that begin anew on a quiet history each write a file of the same range. All of them stay, each names the one before it as
    /// the replay wants it, and the plan leads through all of them.
    #[tokio::test]
    async fn restarts_on_a_quiet_history() {
        const FOLDER: &str = "lab/ns/kv/u/";
        let store = Store::over(Arc::new(object_store::memory::InMemory::new()), None);
        let (page, (_stop, stopped)) = (Page::default(), watch::channel(false));
        let keeper = Keeper {
            store: &store,
            folder: FOLDER,
            holder: String::new(),
            interval: Duration::from_secs(5),
            page: &page,
            stop: stopped,
            last: None,
        };
        let told =
            |revision: i64, rows: &[i64]| bp::Delta { cluster: 5, side_whole: true, time_ms: 1000, ..delta(revision, rows, 0) };
        let mut last = Last { cluster: 5, since: 3, revision: 3, hash: Vec::new() };
        for (deltas, restarts) in [(told(9, &[4, 9]), true), (told(9, &[]), true), (told(9, &[]), true), (told(10, &[10]), false)] {
            let (name, content, next) = file(FOLDER, &last, vec![deltas]).unwrap();
            store.put(&name, content).await.unwrap();
            last = next;
            if restarts {
                let found = keeper.find(5).await.unwrap().unwrap();
                assert_eq!((found.since, found.revision, &found.hash), (3, last.revision, &last.hash));
                last = found;
            }
        }
        let files = store.segments(FOLDER, "0000000000000005").await.unwrap();
        assert_eq!(files.len(), 4);
        let manifest = chain::Manifest { revision: 4, cluster_id: "0000000000000005".into(), ..chain::Manifest::default() };
        let full = chain::Full { name: "full".into(), manifest };
        let plan = chain::plan(vec![full], &files, chain::Target::Newest, None).unwrap();
        assert_eq!(plan.segments.len(), 4);
        let mut before = Vec::new();
        for file in plan.segments {
            let (segment, hash) = segment::decode(&store.get(&file.name).await.unwrap()).unwrap();
            assert_eq!(segment.previous, before);
            before = hash.to_vec();
        }
    }

    /// News cover the time that they are of; that there are none covers the present.
    #[test]
    fn what_is_covered() {
        let mut pending = Pending::default();
        pending.take(bp::Delta { time_ms: 5000, ..delta(9, &[9], 0) });
        assert_eq!(pending.heard_ms, 5000);
        let before = now_ms();
        pending.take(bp::Delta { time_ms: 5000, ..delta(9, &[], 0) });
        let heard = pending.heard_ms;
        assert!(heard >= before);
        pending.take(bp::Delta { time_ms: 6000, ..delta(10, &[10], 0) });
        assert_eq!(pending.heard_ms, heard, "what was covered stays so");
    }

    /// A file is due after its interval, at once for a compaction that waits or when it is large, and never in the middle of a revision.
    #[test]
    fn when_a_file_is_due() {
        let (interval, mut pending) = (Duration::from_secs(5), Pending::default());
        pending.take(delta(9, &[], 0));
        assert_eq!(pending.due(interval, 9), None);
        pending.take(delta(9, &[10], 0));
        assert_eq!(pending.due(interval, 9), None);
        pending.take(delta(10, &[10], 0));
        assert_eq!(pending.due(interval, 9), pending.since.map(|since| since + interval));
        pending.take(delta(10, &[], 10));
        assert_eq!(pending.due(interval, 9), pending.since);
        let mut pending = Pending::default();
        let mut large = delta(11, &[11], 0);
        large.rows[0].kv = vec![0; LARGE].into();
        pending.take(large);
        assert_eq!(pending.due(interval, 9), pending.since);
    }
}
