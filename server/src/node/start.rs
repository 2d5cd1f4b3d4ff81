//! Opening a member: its folder, its log, its rows, and the threads that keep them.
//!
//! A folder is made whole or not at all: a new member's files are written under `member.new`, which takes its real name last.
//! `member/identity` says whose data this is; `member/wal` is the log, `member/db` the durable rows.

use super::apply::{ApplyThread, EventSink, Reconfigure, ask_loop};
use super::driver::{Driver, DriverSettings};
use super::founding::{Founding, found};
use super::handle::{Gauges, Inner, NodeHandle, RequestLimits};
use super::hasher::Hasher;
use super::identity::read_identity;
use super::integrity::{Checks, Integrity};
use super::keeper::{Keeper, SweepPace};
use super::log_store::{LogStore, from_log};
use super::meter::Meter;
use super::port::Ports;
use super::recover::verify_rows;
use super::run::{Input, Log, Loop, PERSISTED, PeerSink, conf_state};
use super::standing::OwnStanding;
use crate::base::{Base, BaseError, RocksBase, RocksOptions};
use crate::env::clock::Clock;
use crate::env::end;
use crate::env::failpoint::{self, Place};
use crate::env::files::{Files, close_to_others};
use crate::lease::LeaseClock;
use crate::mvcc::{DeltaPolicy, Store};
use crate::queue::{Class, Sender};
use crate::snapshot::folder::{Folders, RocksFolders};
use crate::snapshot::{Reached, Receiver, RestoreOptions, SnapshotError, folder};
use crate::state::Machine;
use crate::wal::{Durable, Hooks, Identity, Replay, Verdict, Wal, WalError, WalWriter, renew, take_lock};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use raft::eraftpb::{HardState, Message};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a member's node is told.
pub struct NodeSettings {
    /// Holds `member/`.
    pub data_dir: PathBuf,
    /// Another place for the log; inside the data folder when `None`.
    pub wal_dir: Option<PathBuf>,
    pub heartbeat: Duration,
    pub election: Duration,
    pub pre_vote: bool,
    pub request_timeout: Duration,
    pub catch_up_entries: u64,
    /// Do not wait for the disk; a crash of the machine may then lose acknowledged writes.
    pub no_sync: bool,
    pub rocks: RocksOptions,
    pub delta: DeltaPolicy,
    /// Bytes of log entries kept in memory for followers.
    pub entry_cache: usize,
    pub sweep: SweepPace,
    /// Told of what goes on.
    pub meter: Arc<dyn Meter>,
    pub checks: Checks,
}

/// Why a member does not start. Nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Wal(#[from] WalError),
    #[error("{0}")]
    Base(#[from] BaseError),
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{path} is not a member's identity: {why}; a foreign folder is never touched")]
    BadIdentity { path: PathBuf, why: String },
    #[error(
        "{path} was written by a newer build than this one, which knows no later format than {known}: start the member with that build"
    )]
    NewerIdentity { path: PathBuf, known: u32 },
    #[error("the data directory {} holds {name}, which is not this program's; it is left untouched: name an empty directory", path.display())]
    Foreign { path: PathBuf, name: String },
    #[error(
        "this member has lost data it had acknowledged: its rows stand at entry {applied}, its log follows entry {mark} and ends at \
         {last}{torn}, and it knew of {committed} as committed. It would break the cluster's promises and does not start: remove it \
         from the cluster and add it again, with an empty data directory"
    )]
    LostData { applied: u64, mark: u64, last: u64, torn: String, committed: u64 },
    #[error(
        "the recovery {id} of {} was cut short: carry it out again (quorate recover --data-dir {} --yes), it goes on where it ended",
        path.display(), path.display()
    )]
    HalfRecovered { id: String, path: PathBuf },
    #[error(
        "the log of this member is expected in {} and is not there: is its disk mounted, and is --wal-dir the one that the member was made \
         with? If it is lost, what this member acknowledged may be lost with it: remove it from the cluster and add it again, with an empty \
         data directory",
        dir.display()
    )]
    NoLog { dir: PathBuf },
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    #[error("{0}")]
    Raft(String),
}

impl StartError {
    /// The process's exit code: 3 for a folder that is in use, 4 for damaged or foreign data, 5 for anything else of the disk.
    pub fn exit_code(&self) -> i32 {
        match self {
            StartError::Wal(WalError::Locked { .. }) | StartError::Base(BaseError::Locked(_)) => 3,
            StartError::Wal(WalError::Corrupt { .. } | WalError::Foreign { .. } | WalError::Version { .. }) => 4,
            StartError::Base(BaseError::Corrupt(_) | BaseError::Newer(_))
            | StartError::BadIdentity { .. }
            | StartError::Foreign { .. }
            | StartError::HalfRecovered { .. }
            | StartError::NewerIdentity { .. }
            | StartError::LostData { .. }
            | StartError::NoLog { .. }
            | StartError::Snapshot(SnapshotError::Damaged(_)) => 4,
            _ => 5,
        }
    }

    /// Whether the member's data are of no more use, so that it is to be removed from its cluster and added again empty.
    pub fn wants_rebuild(&self) -> bool {
        let sound = matches!(
            self,
            StartError::Foreign { .. }
                | StartError::HalfRecovered { .. }
                | StartError::NewerIdentity { .. }
                | StartError::Snapshot(_)
                | StartError::Base(BaseError::Newer(_))
                | StartError::Wal(WalError::Version { .. })
        );
        self.exit_code() == 4 && !sound
    }
}

/// A running member's node. Drop does nothing; call [`Node::stop`].
pub struct Node {
    handle: NodeHandle,
    inbox: Sender<Input>,
    threads: Vec<JoinHandle<()>>,
}

pub(super) struct Paths {
    pub dir: PathBuf,
    pub wal: PathBuf,
}

impl Paths {
    pub fn of(settings: &NodeSettings, name: &str) -> Self {
        let dir = settings.data_dir.join(name);
        let wal = settings.wal_dir.clone().unwrap_or_else(|| dir.join("wal"));
        Self { dir, wal }
    }

    pub fn db(&self) -> PathBuf {
        self.dir.join("db")
    }
}

pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> StartError {
    let path = path.to_path_buf();
    move |error| StartError::Io { path, error }
}

pub(super) fn open_rows(path: &Path, settings: &NodeSettings) -> Result<Arc<Store>, StartError> {
    let base: Arc<dyn Base> = Arc::new(RocksBase::open(path, settings.rocks)?);
    Ok(Arc::new(Store::open(base, settings.delta)?))
}

/// Names that a data folder may hold before a member lives there: what a file system or a volume puts there, certificates that we
/// made ourselves, what a start left that was cut short, and the log of this very process.
fn may_precede(name: &str) -> bool {
    ["lost+found", "fixtures", "member.new"].contains(&name) || name.starts_with('.') || name.ends_with(".log")
}

/// Refuses to make a member among another program's files.
///
/// # Errors
/// When the data folder holds something of another program, or cannot be read.
pub fn refuse_foreign(settings: &NodeSettings) -> Result<(), StartError> {
    let dir = &settings.data_dir;
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(io(dir))?,
    };
    for entry in entries {
        let entry = entry.map_err(io(dir))?;
        let is_log = settings.wal_dir.as_ref().is_some_and(|wal| wal.starts_with(entry.path()));
        let name = entry.file_name().to_string_lossy().into_owned();
        if !may_precede(&name) && !is_log {
            return Err(StartError::Foreign { path: dir.clone(), name });
        }
    }
    Ok(())
}

/// Makes a member of a new cluster whose store is that of a snapshot file. Each founding member does this from the same file.
///
/// # Errors
/// When a member lives in the data folder already, the file is damaged, or the disk fails; no member is made then.
pub fn restore(
    file: &Path,
    settings: &NodeSettings,
    founding: &Founding,
    options: &RestoreOptions,
    files: &Arc<dyn Files>,
) -> Result<Reached, StartError> {
    if settings.data_dir.join("member").exists() {
        let path = settings.data_dir.join("member");
        return Err(StartError::BadIdentity {
            path,
            why: "a member lives there already; restore into an empty data directory".into(),
        });
    }
    let mut reached = Reached::default();
    let made = found(settings, founding, files, |db| {
        reached = crate::snapshot::restore::write_rows(file, db, settings.rocks, options)?;
        Ok(())
    });
    if made.is_err() {
        // What was begun is of no use to anybody.
        let _ = std::fs::remove_dir_all(Paths::of(settings, "member.new").dir);
    }
    made.map(|()| reached)
}

struct LogDrain;

impl slog::Drain for LogDrain {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &slog::Record, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
        match record.level() {
            slog::Level::Critical | slog::Level::Error => tracing::error!(target: "raft", "{}", record.msg()),
            slog::Level::Warning => tracing::warn!(target: "raft", "{}", record.msg()),
            slog::Level::Info => tracing::debug!(target: "raft", "{}", record.msg()),
            _ => tracing::trace!(target: "raft", "{}", record.msg()),
        }
        Ok(())
    }
}

/// Opens the rows that go with a log, and the machine over them; refuses rows and a log that together have lost something.
pub(super) fn open_state(paths: &Paths, settings: &NodeSettings, replay: &Replay) -> Result<(Arc<Store>, Machine), StartError> {
    let mark = replay.snapshot.as_ref().map_or(0, |s| s.index);
    let mut store = open_rows(&folder::current(&paths.dir)?, settings)?;
    let mut machine = Machine::open(store.clone())?;
    if machine.position().index < mark
        && let Some(name) = folder::staged(&paths.dir, mark)?
    {
        // The log had taken a snapshot over and the process ended before its rows were put to use.
        drop((machine, store));
        folder::switch(&paths.dir, &name)?;
        store = open_rows(&paths.dir.join(name), settings)?;
        machine = Machine::open(store.clone())?;
    }
    folder::clean(&paths.dir)?;
    refuse_lost(&machine, replay)?;
    Ok((store, machine))
}

/// Refuses rows and a log that together have lost something.
pub(super) fn refuse_lost(machine: &Machine, replay: &Replay) -> Result<(), StartError> {
    let mark = replay.snapshot.as_ref().map_or(0, |s| s.index);
    let applied = machine.position().index;
    let last = replay.entries.last().map_or(mark, |e| e.index);
    let committed = replay.hard_state.commit;
    let torn =
        replay.torn.as_ref().map(|t| format!(", torn at {} of {}: {}", t.offset, t.file.display(), t.reason)).unwrap_or_default();
    // Rows that stand before the mark lack entries that the log no longer has to give.
    if applied > last || committed > last || applied < mark {
        return Err(StartError::LostData { applied, mark, last, torn, committed });
    }
    Ok(())
}

/// A log that should be there and is not.
fn no_log(e: WalError, dir: &Path) -> StartError {
    match e {
        WalError::Missing { .. } => StartError::NoLog { dir: dir.to_path_buf() },
        WalError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            StartError::NoLog { dir: dir.to_path_buf() }
        }
        e => e.into(),
    }
}

/// Closes what an older build, or whoever prepared the volume, left open to other users.
fn keep_private(data_dir: &Path, paths: &Paths) {
    for dir in [&paths.dir, &paths.wal] {
        match close_to_others(dir) {
            Ok(false) => {}
            Ok(true) => tracing::warn!(dir = %dir.display(), "other users could read this folder; now they cannot"),
            Err(e) => {
                tracing::warn!(dir = %dir.display(), error = %e, "other users can read this folder, and that cannot be changed")
            }
        }
    }
    let mode = std::fs::metadata(data_dir).map_or(0, |m| m.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        tracing::warn!(
            dir = %data_dir.display(),
            permission = format!("{mode:o}"),
            recommended = "700",
            "check file permission: the data directory is open to other users"
        );
    }
}

/// Rows that name a recovery of the cluster which the identity still speaks for must not serve it.
pub(super) fn refuse_half_recovered(machine: &Machine, identity: Identity, settings: &NodeSettings) -> Result<(), StartError> {
    match machine.shared().recoveries().iter().find(|r| r.former == identity.cluster) {
        Some(cut) => Err(StartError::HalfRecovered { id: cut.id.clone(), path: settings.data_dir.clone() }),
        None => Ok(()),
    }
}

/// A member whose files are open and whose threads do not run yet.
pub struct Opened {
    settings: NodeSettings,
    identity: Identity,
    machine: Machine,
    store: Arc<Store>,
    wal: Wal,
    driver: Driver,
}

impl Opened {
    /// Opens the member in the data folder, or founds it there.
    pub fn open(settings: NodeSettings, founding: Option<&Founding>, files: Arc<dyn Files>) -> Result<Self, StartError> {
        if read_identity(&settings.data_dir)?.is_none() {
            let Some(founding) = founding else {
                return Err(StartError::Raft("the data directory is empty and no cluster was named to found".into()));
            };
            refuse_foreign(&settings)?;
            found(&settings, founding, &files, |_| Ok(()))?;
        }
        let identity = read_identity(&settings.data_dir)?.expect("found or made above");
        let paths = Paths::of(&settings, "member");
        // Whatever is damaged is found before anything is changed, the log's torn tail included. The log takes its lock for good below;
        // here it only tells a folder in use from a damaged one.
        drop(take_lock(&paths.wal, files.as_ref()).map_err(|e| no_log(e, &paths.wal))?);
        verify_rows(&paths, &settings, identity, &files)?;
        renew::settle(&paths.wal, identity, &files)?;
        let (wal, replay) = Wal::open(&paths.wal, identity, files).map_err(|e| no_log(e, &paths.wal))?;
        keep_private(&settings.data_dir, &paths);
        if let Some(torn) = &replay.torn {
            tracing::warn!(file = %torn.file.display(), offset = torn.offset, reason = %torn.reason, "cut an unfinished write off the log");
        }
        failpoint::visit(Place::OpenedLog);
        let (store, machine) = open_state(&paths, &settings, &replay)?;
        refuse_half_recovered(&machine, identity, &settings)?;
        let opened = Self::assemble(settings, identity, (wal, replay), store, machine, None)?;
        failpoint::visit(Place::Opened);
        Ok(opened)
    }

    /// Puts a member together from its log and its rows, both open. `seed` draws the election timeouts; raft's own chances when
    /// `None`.
    pub(super) fn assemble(
        settings: NodeSettings,
        identity: Identity,
        (wal, replay): (Wal, Replay),
        store: Arc<Store>,
        machine: Machine,
        seed: Option<u64>,
    ) -> Result<Self, StartError> {
        refuse_lost(&machine, &replay)?;
        let mark = replay.snapshot.clone().unwrap_or_default();
        let position = machine.position();
        let conf = conf_state(machine.configuration()?.unwrap_or_default());
        let hs = replay.hard_state;
        let hard_state = HardState {
            term: hs.term,
            vote: hs.vote,
            // What was applied was committed, even if the log had not been told so.
            commit: hs.commit.max(position.index),
        };
        let entries = replay.entries.into_iter().map(from_log).collect();
        let mut log = LogStore::new(hard_state, conf, (mark.index, mark.term), entries, settings.entry_cache);
        log.set_reader(wal.reader());
        let ticks = (settings.election.as_millis() / settings.heartbeat.as_millis().max(1)).max(3) as usize;
        let driver_settings = DriverSettings {
            id: identity.member,
            election_ticks: ticks,
            heartbeat_ticks: 1,
            pre_vote: settings.pre_vote,
            applied: position.index,
            seed,
        };
        let logger = slog::Logger::root(LogDrain, slog::o!());
        let driver = Driver::new(&driver_settings, log, &logger).map_err(|e| StartError::Raft(e.to_string()))?;
        Ok(Self { settings, identity, machine, store, wal, driver })
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Starts the threads.
    pub fn run(self, peers: Arc<dyn PeerSink>, sink: Box<dyn EventSink>) -> Result<Node, StartError> {
        let member = Paths::of(&self.settings, "member").dir;
        let folders = Arc::new(RocksFolders { member: member.clone(), rocks: self.settings.rocks });
        let time = Clock::system();
        let hasher = Hasher::Threads(Arc::default());
        let surroundings =
            Surroundings { first_sequence: time.wall().as_micros() as u64, life: rand::random(), time, folders, member, hasher };
        let desk = self.desk(surroundings, peers, sink, ask_loop, |wal, hooks| {
            let writer = WalWriter::spawn(wal, hooks).map_err(io(Path::new("log thread")))?;
            Ok(Box::new(writer) as Box<dyn Log>)
        })?;
        let Desk { inner, main, apply, keeper } = desk;
        let spawn = |name: &'static str, f: Box<dyn FnOnce() + Send>| {
            let run = move || {
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err() {
                    // A member that lost one of these would look alive and never answer again.
                    tracing::error!(
                        thread = name,
                        "a thread of the node panicked; this member stops, what it acknowledged is safe on disk"
                    );
                    std::process::abort();
                }
            };
            std::thread::Builder::new().name(name.into()).spawn(run).map_err(io(Path::new(name)))
        };
        let inbox = inner.inbox.clone();
        let threads = vec![
            spawn("node", Box::new(move || main.run()))?,
            spawn("apply", Box::new(move || apply.run()))?,
            spawn("keeper", Box::new(move || keeper.run()))?,
        ];
        Ok(Node { handle: NodeHandle(inner), inbox, threads })
    }

    /// Puts the loop, apply and the keeper together, with the queues between them; nothing runs yet.
    pub(super) fn desk(
        self,
        surroundings: Surroundings,
        peers: Arc<dyn PeerSink>,
        sink: Box<dyn EventSink>,
        reconfigure: impl FnOnce(Sender<Input>) -> Reconfigure,
        log: impl FnOnce(Wal, Hooks<Vec<Message>>) -> Result<Box<dyn Log>, StartError>,
    ) -> Result<Desk, StartError> {
        let settings = self.settings;
        let Surroundings { time, folders, member, first_sequence, life, hasher } = surroundings;
        let (inbox, inputs) = crate::queue::bounded(INBOX);
        let min_lease_ttl = (settings.election.as_millis() as i64 * 3 / 2 + 999) / 1000;
        let limits = RequestLimits { timeout: settings.request_timeout, election: settings.election, min_lease_ttl };
        let standing = OwnStanding::default();
        standing.moved(self.machine.position());
        let is_fenced = self.machine.shared().fenced_at(self.identity.member).is_some();
        let inner = Arc::new(Inner {
            member_id: self.identity.member,
            cluster_id: self.identity.cluster,
            inbox: inbox.clone(),
            ports: Ports::new(first_sequence),
            gauges: Gauges::default(),
            store: self.store.clone(),
            shared: self.machine.shared(),
            applied_wanted: AtomicBool::new(true),
            clock: Mutex::new(LeaseClock::default()),
            time,
            leader_changes: tokio::sync::watch::Sender::new(0),
            leader_lost: ArcSwap::default(),
            view: Mutex::default(),
            receiver: Receiver::new(folders.clone()),
            limits,
            meter: settings.meter.clone(),
            standing,
            fenced: tokio::sync::watch::Sender::new(is_fenced),
            rows_wanted: AtomicU64::new(0),
        });
        let wal = log(self.wal, wal_hooks(inner.clone(), peers.clone()))?;
        let (apply, apply_tasks) = crate::queue::unbounded();
        let (keeper, keeper_tasks) = crate::queue::unbounded();
        let keeper_thread = Keeper::new(
            self.store,
            keeper_tasks,
            apply.clone(),
            inbox.clone(),
            settings.sweep,
            settings.meter.clone(),
            member,
            folders,
        );
        let last_time_ms = self.machine.position().time_ms;
        let apply_thread = ApplyThread {
            machine: self.machine,
            inner: inner.clone(),
            tasks: apply_tasks,
            keeper,
            sink,
            reconfigure: reconfigure(inbox),
            ended: false,
            hasher,
        };
        let integrity = Integrity::new(settings.checks, settings.election, settings.heartbeat, inner.time.now());
        let main = Loop::new(
            self.driver,
            inner.clone(),
            inputs,
            wal,
            apply,
            peers,
            settings.heartbeat,
            settings.catch_up_entries,
            settings.no_sync,
            last_time_ms,
            life,
            integrity,
        );
        Ok(Desk { inner, main, apply: apply_thread, keeper: keeper_thread })
    }
}

/// What a node takes from the world round it, beside its files.
pub(super) struct Surroundings {
    pub time: Clock,
    pub folders: Arc<dyn Folders>,
    /// The member's folder.
    pub member: PathBuf,
    /// Seeds the sequences of requests; rises from life to life.
    pub first_sequence: u64,
    /// Differs from life to life.
    pub life: u32,
    pub hasher: Hasher,
}

/// The parts of a node, before they run.
pub(super) struct Desk {
    pub inner: Arc<Inner>,
    pub main: Loop,
    pub apply: ApplyThread,
    pub keeper: Keeper,
}

/// Inputs that may wait for the loop; clients beyond it are told that there are too many requests.
const INBOX: usize = 16_384;

fn wal_hooks(inner: Arc<Inner>, peers: Arc<dyn PeerSink>) -> Hooks<Vec<Message>> {
    let (inbox, faulty) = (inner.inbox.clone(), inner.clone());
    Hooks {
        on_durable: Box::new(move |durable: Durable<Vec<Message>>| {
            let after: Vec<Message> = durable.tags.into_iter().flatten().collect();
            if !after.is_empty() {
                peers.send(after);
            }
            // The log never waits for the loop, which may be waiting for the log: there is one such word for each batch it was given.
            let _ = inbox.send_over(Input::Persisted(durable.number), PERSISTED);
        }),
        on_fault: Box::new(move |e: &WalError| {
            if e.is_no_space() {
                faulty.gauges.log_full.store(true, Ordering::Release);
                tracing::error!(error = %e, "the disk is full; writes wait until there is space");
                return Verdict::Retry(Duration::from_secs(1));
            }
            tracing::error!(error = %e, "the log cannot be written; this member stops, what it acknowledged is safe on disk");
            end::process();
        }),
        on_written: Box::new(move |bytes, wrote, synced| {
            inner.gauges.log_full.store(false, Ordering::Release);
            inner.meter.log_written(bytes, wrote, synced);
        }),
    }
}

impl Node {
    pub fn handle(&self) -> &NodeHandle {
        &self.handle
    }

    /// Stops the threads, leaving a checkpoint behind.
    pub fn stop(self) {
        let _ = self.inbox.send_over(Input::Stop, Class::URGENT);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the node had panicked");
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::apply::configuration;
    use super::*;
    use crate::env::files::RealFiles;
    use crate::wal::{Group, HardState as LogHardState, SnapshotMark};
    use prost::Message as _;
    use quorate_proto::state::Member;
    use raft::eraftpb::ConfState;

    /// Small and quick.
    pub(in crate::node) fn settings(dir: &Path) -> NodeSettings {
        NodeSettings {
            data_dir: dir.to_path_buf(),
            wal_dir: None,
            heartbeat: Duration::from_millis(100),
            election: Duration::from_secs(1),
            pre_vote: true,
            request_timeout: Duration::from_secs(5),
            catch_up_entries: 100,
            no_sync: false,
            rocks: RocksOptions { block_cache: 1 << 20, write_buffer: 1 << 20, background_jobs: 1 },
            delta: DeltaPolicy { freeze_bytes: 1 << 20, inline: false },
            entry_cache: 1 << 20,
            sweep: SweepPace { rows: 100, pause: Duration::ZERO },
            meter: Arc::new(()),
            checks: Checks::default(),
        }
    }

    fn founding() -> Founding {
        Founding { cluster_id: 1, member_id: 7, members: vec![Member { id: 7, ..Default::default() }], ..Default::default() }
    }

    /// A complete folder with the rows of a snapshot at entry 50.
    fn stage(member: &Path, settings: &NodeSettings) {
        let name = folder::fresh(50);
        let store = open_rows(&member.join(&name), settings).unwrap();
        let mut machine = Machine::open(store.clone()).unwrap();
        machine.put_configuration(&configuration(&ConfState { voters: vec![7], ..Default::default() }));
        machine.found(founding().members, 50, 3);
        machine.settle(true);
        store.checkpoint(true).unwrap();
        drop((machine, store));
        folder::mark_ready(member, &name, 50).unwrap();
    }

    fn mark(member: &Path) {
        let conf = ConfState { voters: vec![7], ..Default::default() };
        let (mut wal, _) = Wal::open(&member.join("wal"), Identity { cluster: 1, member: 7 }, RealFiles::shared()).unwrap();
        let group = Group {
            hard_state: Some(LogHardState { term: 3, vote: 0, commit: 50 }),
            snapshot: Some(SnapshotMark { index: 50, term: 3, conf: conf.encode_to_vec().into() }),
            must_sync: true,
            ..Default::default()
        };
        wal.append(&[group]).unwrap();
        wal.close().unwrap();
    }

    /// A crash while a snapshot is installed: before the log's mark the old rows count and the new ones go; after it the new ones
    /// are taken up; a mark whose rows are nowhere is lost data.
    #[test]
    fn a_crash_during_an_install_is_resolved_by_the_mark() {
        let dir = tempfile::tempdir().unwrap();
        let member = dir.path().join("member");
        let open = || Opened::open(settings(dir.path()), Some(&founding()), RealFiles::shared());
        drop(open().unwrap());
        stage(&member, &settings(dir.path()));
        assert_eq!(open().unwrap().machine().position().index, 1);
        assert_eq!(folder::staged(&member, 50).unwrap(), None, "rows without a mark are removed");
        stage(&member, &settings(dir.path()));
        mark(&member);
        let opened = open().unwrap();
        assert_eq!(opened.machine().position().index, 50);
        assert!(!member.join("db").exists());
        drop(opened);
        assert_eq!(open().unwrap().machine().position().index, 50, "the switch is durable");

        let lost = tempfile::tempdir().unwrap();
        drop(Opened::open(settings(lost.path()), Some(&founding()), RealFiles::shared()).unwrap());
        mark(&lost.path().join("member"));
        let error = Opened::open(settings(lost.path()), None, RealFiles::shared()).err().unwrap();
        assert!(matches!(error, StartError::LostData { .. }), "{error}");
    }
}
