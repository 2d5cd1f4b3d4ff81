//! The long-lived agent of a schedule: it reads the history from a member as it grows and keeps it in the store as files of deltas.
//!
//! In: a member's stream of deltas. Out: files that follow one another, and a page that tells how far they reach. It goes on where the
//! newest file in the store ends; when the cluster does not have what follows any more, it begins anew at the newest revision, which
//! the page shows, and the operator then has a full backup made.
//!
//! Invariants: a file is written before the member is told that it may forget; what was read is kept until it is written, also when the
//! member is gone, and while it is being written nothing more is read, so memory is bounded by one file; a file ends between two
//! revisions; none follows a file that cannot be read, or that tells of another history than the member does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::routing::get;
use axum::{Json, Router};
use futures::FutureExt;
use prost::Message;
use quorate_client::proto::backup as bp;
use quorate_client::proto::etcdserverpb as pb;
use quorate_client::proto::mvccpb::KeyValue;
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
/// How often the files in the store are looked at: somebody may have deleted some.
const INVENTORY: Duration = Duration::from_secs(3600);
/// The longest that opening a stream may take.
const OPENING: Duration = Duration::from_secs(15);
/// What the first file of a run names as the hash of the one before, when it must not be read as going on from any that there is.
const FOLLOWS_NONE: [u8; 32] = [0xff; 32];

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
    /// Where to show the page /status; without a host at every address
    #[arg(long, default_value = ":8081", value_parser = crate::args::address, value_name = "[HOST]:PORT")]
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
        distrusts: false,
    };
    let mut pause = BACKOFF.0;
    for member in members.iter().cycle() {
        let began = Instant::now();
        let outcome = keeper.follow(member).await;
        if keeper.stopping() {
            return Ok(());
        }
        if let Err(error) = outcome {
            // What was read before the others found this member to be wrong may be wrong as well.
            keeper.distrusts |= is_set_aside(&error);
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
    /// The newest change in them, where it is known.
    newest: Option<bp::Row>,
}

/// Whether a member has all that follows a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// It does, and keeps it for a while.
    All,
    /// It is not that far.
    Behind,
    /// Not any more, or it keeps nothing for so many.
    NotAll,
}

struct Keeper<'a> {
    store: &'a Store,
    folder: &'a str,
    holder: String,
    interval: Duration,
    page: &'a Page,
    stop: watch::Receiver<bool>,
    last: Option<Last>,
    /// The files in the store are not gone on from: a new run begins, and follows none of them.
    distrusts: bool,
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
    /// Takes what a member said. `waited_ms`: since when it was waited for; none when it lay there already.
    fn take(&mut self, delta: bp::Delta, waited_ms: Option<i64>) {
        // A member that catches up tells news late: by their own time. That there are none was true when it was said, which is after
        // the wait for it began; what lay there may be from long ago, with news behind it.
        let news = !delta.rows.is_empty() || !delta.side.is_empty() || delta.side_whole;
        self.heard_ms = self.heard_ms.max(if news { delta.time_ms } else { waited_ms.unwrap_or(0) });
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
        let (mut greeted, mut looked) = (Instant::now(), Instant::now());
        let mut stop = self.stop.clone();
        loop {
            let stored = self.last.as_ref().map_or(0, |last| last.revision);
            let due = pending.due(self.interval, stored);
            let waiting = now_ms();
            let mut waited = None;
            // A member that tells of much must not keep the agent from hearing that it is to stop.
            let there = if self.stopping() { None } else { stream.message().now_or_never() };
            let mut message = there.map(|told| told.map_err(quorate_client::Error::from));
            if message.is_none() {
                waited = Some(waiting);
                tokio::select! {
                    told = tokio::time::timeout(SILENCE, stream.message()) => {
                        let told = told.map(|told| told.map_err(quorate_client::Error::from));
                        message = Some(told.unwrap_or(Err(quorate_client::Error::Timeout)));
                    }
                    () = sleep_until(due) => {}
                    _ = stop.wait_for(|stop| *stop) => {
                        if pending.is_complete() {
                            self.write(Some(member), &mut pending).await?;
                        }
                        return Ok(());
                    }
                }
            }
            match message {
                None => {}
                Some(Ok(Some(delta))) => pending.take(delta, waited),
                Some(ended) => {
                    let why = match ended {
                        Err(quorate_client::Error::Timeout) => Error::Refused("the member fell silent".into()),
                        Err(error) => error.into(),
                        Ok(_) => Error::Refused("the member ended the stream".into()),
                    };
                    // It may have been the last member, and nobody else has what it said last.
                    if pending.is_complete() && !is_set_aside(&why) {
                        self.write(None, &mut pending).await?;
                    }
                    return Err(why);
                }
            }
            if pending.due(self.interval, stored).is_some_and(|due| due <= Instant::now()) {
                self.write(Some(member), &mut pending).await?;
                greeted = Instant::now();
            }
            if pending.deltas.is_empty() {
                self.tell(|report| report.covered_ms = report.covered_ms.max(pending.heard_ms));
                if greeted.elapsed() >= GREETING {
                    greeted = Instant::now();
                    self.stored(member).await?;
                }
                if looked.elapsed() >= INVENTORY {
                    looked = Instant::now();
                    self.look().await?;
                }
            }
        }
    }

    /// Opens the stream where the files end, or where a new run of files begins.
    async fn open(&mut self, member: &Client, cluster: u64) -> Result<(Streaming<bp::Delta>, Last), Error> {
        if !self.distrusts {
            let known = match &self.last {
                Some(last) if last.cluster == cluster => Some(last.clone()),
                _ => self.find(cluster).await?,
            };
            if let Some(last) = known {
                match self.holds(member, last.revision).await? {
                    Holds::All if self.is_same_history(member, &last).await? => {
                        return Ok((self.stream(member, cluster, last.revision).await?, last));
                    }
                    Holds::All => {
                        tracing::warn!(revision = last.revision, "the store tells of another history than the cluster");
                        self.distrusts = true;
                    }
                    Holds::Behind => {
                        let revision = last.revision;
                        // A quorum knows whether it is this member that lags.
                        let read = pb::RangeRequest { key: vec![0].into(), limit: 1, ..Default::default() };
                        let newest = member.range(read).await?.header.unwrap_or_default().revision;
                        if newest >= revision {
                            return Err(Error::Refused(format!("the member was not yet at revision {revision}, as the store is")));
                        }
                        tracing::warn!(
                            revision,
                            newest,
                            "the store is further than the cluster: that was put back to an earlier state"
                        );
                        self.distrusts = true;
                    }
                    Holds::NotAll => {
                        let after = last.revision;
                        tracing::warn!(after, "what follows the newest deltas is gone: a new run begins, and needs a full backup");
                    }
                }
            }
        }
        let newest = member.status(pb::StatusRequest {}).await?.header.unwrap_or_default().revision;
        if self.holds(member, newest).await? != Holds::All {
            // A compaction has overtaken the question, which is then asked again by the caller; or too many others ask.
            return Err(Error::Refused(format!("the member keeps nothing back from revision {newest} on")));
        }
        let hash = if self.distrusts { FOLLOWS_NONE.to_vec() } else { Vec::new() };
        let stream = self.stream(member, cluster, newest).await?;
        self.distrusts = false;
        Ok((stream, Last { cluster, since: newest, revision: newest, hash, newest: None }))
    }

    /// Whether the member has all that follows this revision. The stream itself would tell only by ending.
    async fn holds(&self, member: &Client, revision: i64) -> Result<Holds, Error> {
        let request = bp::StoredRequest { holder: self.holder.clone(), revision };
        match member.backup_stored(request).await {
            Ok(answer) => Ok(if answer.held { Holds::All } else { Holds::NotAll }),
            Err(quorate_client::Error::Server { code: Code::OutOfRange, .. }) => Ok(Holds::Behind),
            Err(error) => Err(error.into()),
        }
    }

    async fn stream(&self, member: &Client, cluster: u64, after: i64) -> Result<Streaming<bp::Delta>, Error> {
        let request = bp::DeltasRequest { holder: self.holder.clone(), from_revision: after + 1, cluster };
        // A member that went meanwhile would be dialled for ever.
        let opened = tokio::time::timeout(OPENING, member.backup_deltas(request)).await;
        Ok(opened.map_err(|_| quorate_client::Error::Timeout)??)
    }

    /// Whether the newest change in the store is one that the member knows: a cluster that was put back to an earlier state, from copies
    /// of its disks or by force, keeps its id and gives the same revisions to other changes. True when it cannot be told any more.
    async fn is_same_history(&self, member: &Client, last: &Last) -> Result<bool, Error> {
        let Some(row) = &last.newest else { return Ok(true) };
        let Ok(ours) = pb_kv(row) else { return Ok(true) };
        let read = pb::RangeRequest { key: ours.key, revision: row.main, serializable: true, ..Default::default() };
        match member.range(read).await {
            Ok(found) => Ok(match found.kvs.first() {
                None => row.deletion,
                Some(theirs) => {
                    !row.deletion
                        && theirs.decode().is_ok_and(|theirs| theirs.mod_revision == row.main && theirs.value == ours.value)
                }
            }),
            Err(quorate_client::Error::Server { message, .. }) if message.contains("compacted") => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Where the files of a cluster end in the store.
    async fn find(&mut self, cluster: u64) -> Result<Option<Last>, Error> {
        let name = format!("{cluster:016x}");
        let Some((since, newest)) = chain::run(&self.store.segments(self.folder, &name).await?, &name) else { return Ok(None) };
        let read = self
            .store
            .get(&newest.name)
            .await
            .and_then(|content| segment::decode(&content).map_err(|error| Error::Refuted(format!("{} {error}", newest.name))));
        match read {
            Ok((file, hash)) => {
                let row = file.deltas.iter().rev().find_map(|delta| delta.rows.last()).cloned();
                Ok(Some(Last { cluster, since, revision: newest.revision, hash: hash.to_vec(), newest: row }))
            }
            // Nobody could go on from it in a restore either.
            Err(error) if error.refutes() => {
                tracing::warn!(%error, "the newest deltas cannot be read: a new run begins, and needs a full backup");
                self.distrusts = true;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Looks whether the files are still there. A hole among them is shown, so that a full backup is made; when the newest is gone, the
    /// caller goes on from what there is, or begins anew.
    async fn look(&mut self) -> Result<(), Error> {
        let Some(last) = self.last.as_mut().filter(|last| !last.hash.is_empty() && last.hash != FOLLOWS_NONE) else {
            return Ok(());
        };
        let name = format!("{:016x}", last.cluster);
        let files = match self.store.segments(self.folder, &name).await {
            Ok(files) => files,
            Err(error) => {
                tracing::warn!(%error, "cannot look at the files in the store");
                return Ok(());
            }
        };
        match chain::since(&files, &name, &last.hash) {
            // A run that began where another had ended may be read as going on from it.
            Some(since) if since <= last.since => {}
            Some(since) => {
                tracing::warn!(since, before = last.since, "files of deltas are gone from the store");
                last.since = since;
                self.page.lock().expect("no one panics in there").since = since;
            }
            None => {
                self.last = None;
                return Err(Error::Refused("the newest file of deltas is gone from the store".into()));
            }
        }
        Ok(())
    }

    /// Writes what waits, however long the store takes to accept it.
    async fn write(&mut self, member: Option<&Client>, pending: &mut Pending) -> Result<(), Error> {
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
        match member {
            Some(member) => self.stored(member).await,
            None => Ok(()),
        }
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
    let newest = deltas.iter().rev().find_map(|delta| delta.rows.last()).cloned().or_else(|| last.newest.clone());
    let previous = last.hash.clone().into();
    let file = bp::Segment { cluster: last.cluster, after: last.revision, revision, time_ms, previous, deltas };
    let (content, hash) = segment::encode(&file);
    let cluster = format!("{:016x}", last.cluster);
    let name = chain::segment_name(folder, &cluster, (last.revision, revision, time_ms), &last.hash, &hash);
    Some((name, content, Last { revision, hash: hash.to_vec(), newest, ..last.clone() }))
}

/// The member was found to hold other data than the majority, and serves nobody until it is rebuilt.
fn is_set_aside(error: &Error) -> bool {
    matches!(error, Error::Member(quorate_client::Error::Server { message, .. }) if message.contains("corrupt cluster"))
}

fn pb_kv(row: &bp::Row) -> Result<KeyValue, prost::DecodeError> {
    KeyValue::decode(row.kv.clone())
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

    /// A keeper that knows of no file yet.
    fn keeper<'a>(store: &'a Store, folder: &'a str, page: &'a Page, stop: watch::Receiver<bool>) -> Keeper<'a> {
        let interval = Duration::from_secs(5);
        Keeper { store, folder, holder: String::new(), interval, page, stop, last: None, distrusts: false }
    }

    /// Agents that begin anew on a quiet history each write a file of the same range. All of them stay, each names the one before it as
    /// the replay wants it, and the plan leads through all of them.
    #[tokio::test]
    async fn restarts_on_a_quiet_history() {
        const FOLDER: &str = "lab/ns/kv/u/";
        let store = Store::over(Arc::new(object_store::memory::InMemory::new()), None);
        let (page, (_stop, stopped)) = (Page::default(), watch::channel(false));
        let mut keeper = keeper(&store, FOLDER, &page, stopped);
        let told =
            |revision: i64, rows: &[i64]| bp::Delta { cluster: 5, side_whole: true, time_ms: 1000, ..delta(revision, rows, 0) };
        let mut last = Last { cluster: 5, since: 3, revision: 3, hash: Vec::new(), newest: None };
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
        let plan = chain::plan(vec![full], &files, chain::Target::Newest).unwrap();
        assert_eq!(plan.segments.len(), 4);
        let mut before = Vec::new();
        for file in plan.segments {
            let (segment, hash) = segment::decode(&store.get(&file.name).await.unwrap()).unwrap();
            assert_eq!(segment.previous, before);
            before = hash.to_vec();
        }

        // A file that cannot be read is not gone on from, though it ends where the next one begins.
        let newest = files.iter().max().unwrap();
        store.put(&newest.name, b"cut".to_vec()).await.unwrap();
        assert!(keeper.find(5).await.unwrap().is_none() && keeper.distrusts);
        let anew = Last { since: 10, revision: 10, hash: FOLLOWS_NONE.to_vec(), ..last };
        let (name, content, _) = file(FOLDER, &anew, vec![told(12, &[12])]).unwrap();
        store.put(&name, content).await.unwrap();
        let files = store.segments(FOLDER, "0000000000000005").await.unwrap();
        let manifest = chain::Manifest { revision: 10, cluster_id: "0000000000000005".into(), ..chain::Manifest::default() };
        let plan = chain::plan(vec![chain::Full { name: "full".into(), manifest }], &files, chain::Target::Newest).unwrap();
        assert_eq!(plan.segments.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), [name.as_str()]);
    }

    /// Files that somebody deletes are missed: a hole is shown, and without the newest file the agent goes on from what is there.
    #[tokio::test]
    async fn deleted_files() {
        let store = Store::over(Arc::new(object_store::memory::InMemory::new()), None);
        let (page, (_stop, stopped)) = (Page::default(), watch::channel(false));
        let mut keeper = keeper(&store, "f/", &page, stopped);
        let mut last = Last { cluster: 5, since: 3, revision: 3, hash: Vec::new(), newest: None };
        let mut names = Vec::new();
        for revision in 4..8 {
            let told = bp::Delta { cluster: 5, time_ms: revision * 10, ..delta(revision, &[revision], 0) };
            let (name, content, next) = file("f/", &last, vec![told]).unwrap();
            store.put(&name, content).await.unwrap();
            names.push(name);
            last = next;
        }
        keeper.last = Some(last);
        keeper.look().await.unwrap();
        assert_eq!((keeper.last.as_ref().unwrap().since, page.lock().unwrap().since), (3, 0), "all is there");
        store.delete(&names[1]).await.unwrap();
        keeper.look().await.unwrap();
        assert_eq!((keeper.last.as_ref().unwrap().since, page.lock().unwrap().since), (5, 5));
        store.delete(&names[3]).await.unwrap();
        assert!(keeper.look().await.is_err() && keeper.last.is_none());
        assert_eq!(keeper.find(5).await.unwrap().unwrap().revision, 6);
        keeper.look().await.unwrap();
    }

    /// News cover the time that they are of; that there are none covers the time since when that was waited for, and nothing at all
    /// when it had lain there: news may lie behind it.
    #[test]
    fn what_is_covered() {
        let mut pending = Pending::default();
        pending.take(bp::Delta { time_ms: 5000, ..delta(9, &[9], 0) }, Some(70_000));
        assert_eq!(pending.heard_ms, 5000);
        pending.take(bp::Delta { time_ms: 5000, ..delta(9, &[], 0) }, None);
        assert_eq!(pending.heard_ms, 5000, "who was held up by the store reads what is old");
        pending.take(bp::Delta { time_ms: 5000, ..delta(9, &[], 0) }, Some(60_000));
        assert_eq!(pending.heard_ms, 60_000);
        pending.take(bp::Delta { time_ms: 6000, ..delta(10, &[10], 0) }, None);
        assert_eq!(pending.heard_ms, 60_000, "what was covered stays so");
    }

    /// A file is due after its interval, at once for a compaction that waits or when it is large, and never in the middle of a revision.
    #[test]
    fn when_a_file_is_due() {
        let (interval, mut pending) = (Duration::from_secs(5), Pending::default());
        pending.take(delta(9, &[], 0), None);
        assert_eq!(pending.due(interval, 9), None);
        pending.take(delta(9, &[10], 0), None);
        assert_eq!(pending.due(interval, 9), None);
        pending.take(delta(10, &[10], 0), None);
        assert_eq!(pending.due(interval, 9), pending.since.map(|since| since + interval));
        pending.take(delta(10, &[], 10), None);
        assert_eq!(pending.due(interval, 9), pending.since);
        let mut pending = Pending::default();
        let mut large = delta(11, &[11], 0);
        large.rows[0].kv = vec![0; LARGE].into();
        pending.take(large, None);
        assert_eq!(pending.due(interval, 9), pending.since);
    }
}
