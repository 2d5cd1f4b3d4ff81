//! Rounds: start, write, die, start again, check; all from one seed, over one data directory.
//!
//! Each round's server is checked against all rounds before it while it serves, and then loaded until it dies. The last one is
//! checked, compared by hash with itself after a clean restart, and with an empty server that does the whole history again.

use crate::check::{self, Ledger};
use crate::image::{Disk, Losses, Mercy};
use crate::load::{self, Load, Record};
use crate::server::{self, Server, Start};
use crate::tree;
use rand::Rng;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a run of rounds amounted to.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum {
    pub rounds: u64,
    /// Rounds that ended at the fail point, in its own time.
    pub reached: u64,
    pub requests: u64,
    pub answered: u64,
    pub revisions: u64,
    pub losses: Losses,
}

/// Begins a place that is the beginning of a sync; the power must be cut, too.
pub const SYNC: &str = "sync of ";

/// What one run is.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub rounds: u64,
    /// The fail point's name, or [`SYNC`] and a part of the name of a file; without one the process is killed at a chance moment.
    pub place: Option<&'static str>,
    /// The visit of the place at which the process dies is chosen up to this one.
    pub visits: u64,
    /// Cut the power, not the process alone.
    pub power: bool,
    pub load: Load,
}

impl Plan {
    /// A run of a few rounds with many small writes.
    #[must_use]
    pub fn new(seed: u64, rounds: u64) -> Self {
        let load = Load { clients: 6, requests: 60, keys: 40, value: 1500, life: 0, compact_to: 0 };
        Self { seed, rounds, place: None, visits: 1, power: false, load }
    }

    #[must_use]
    pub fn at(mut self, place: &'static str, visits: u64) -> Self {
        (self.place, self.visits) = (Some(place), visits);
        self
    }

    #[must_use]
    pub fn power(mut self) -> Self {
        self.power = true;
        self
    }
}

/// One run in progress.
struct Run {
    plan: Plan,
    scratch: tempfile::TempDir,
    /// The folder above the data directory: making that one is part of the story.
    disk: PathBuf,
    ledger: Ledger,
    sum: Sum,
    life: u64,
    last: Record,
    /// The tree as the running process found it.
    before: tree::Tree,
}

/// Runs a plan.
///
/// # Panics
/// When a promise is broken; the text has the seed.
#[must_use]
pub fn run(plan: &Plan) -> Sum {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let disk = scratch.path().join("disk-0");
    std::fs::create_dir(&disk).expect("a folder");
    let mut run = Run {
        plan: plan.clone(),
        scratch,
        disk,
        ledger: Ledger::default(),
        sum: Sum::default(),
        life: 0,
        last: Record::default(),
        before: tree::Tree::new(),
    };
    let outcome = (0..plan.rounds).try_for_each(|_| run.round(&runtime)).and_then(|()| run.finish(&runtime));
    if let Err(why) = outcome {
        let kept = run.scratch.keep();
        panic!("{why}\n  plan: {:?}\n  life {} of it; its files are left in {}", run.plan, run.life, kept.display());
    }
    run.sum
}

impl Run {
    fn start(&mut self, failpoint: Option<String>) -> Server {
        self.before = tree::read(&self.disk).expect("the disk can be read");
        let mut start = Start::at(&self.disk.join("data")).small();
        match failpoint.as_deref().and_then(|place| place.strip_prefix(SYNC)) {
            Some(sync) => start.fatal_sync = Some(sync.replace("=kill:", "=")),
            None => start.failpoint = failpoint,
        }
        if self.plan.power {
            let _ = std::fs::remove_file(self.journal());
            start.power = Some((shim(), self.disk.clone(), self.journal()));
        }
        Server::spawn(&start)
    }

    fn journal(&self) -> PathBuf {
        self.scratch.path().join("journal")
    }

    /// One life: start, check what the lives before left, write until death.
    fn round(&mut self, runtime: &tokio::runtime::Runtime) -> Result<(), String> {
        let mut chance = crate::chance(self.plan.seed, &format!("round {}", self.sum.rounds));
        self.sum.rounds += 1;
        let point = self.plan.place.map(|place| format!("{place}=kill:{}", chance.random_range(1..=self.plan.visits)));
        let mut server = self.start(point.clone());
        if let Err(status) = server.wait_ready() {
            // It may die on its way up; then nobody was told anything, and what was there before must still be.
            if point.is_none() || !server::was_killed(status) {
                return Err(format!("the server does not start again: {status}; its log:\n{}", server.log()));
            }
            self.sum.reached += 1;
            self.power_cut(&mut chance)?;
            return Ok(());
        }
        let last = std::mem::take(&mut self.last);
        if let Err(why) = runtime.block_on(self.ledger.check(&server.endpoint, &last)) {
            let Some(status) = died(&mut server) else { return Err(why) };
            if point.is_none() || !server::was_killed(status) {
                return Err(format!("{why}; the server ended with {status}; its log:\n{}", server.log()));
            }
            // The place was reached while the check was under way; the next life is checked instead.
            self.sum.reached += 1;
            self.last = last;
            return self.power_cut(&mut chance);
        }
        self.life += 1;
        let load = Load { life: self.life, compact_to: self.ledger.revision() - 1, ..self.plan.load };
        let fuse = Duration::from_millis(chance.random_range(30..1500));
        let seed = self.plan.seed;
        let record = runtime.block_on(async {
            let endpoint = server.endpoint.clone();
            let work = load::run(&endpoint, load, seed);
            tokio::pin!(work);
            if point.is_none() {
                tokio::select! {
                    record = &mut work => return record,
                    () = tokio::time::sleep(fuse) => drop(server.kill()),
                }
            }
            work.await
        });
        // A checkpoint or a purge may still be under way behind the last answer.
        let by_itself = point.is_some() && died(&mut server).is_some();
        let status = server.kill();
        if !server::was_killed(status) {
            return Err(format!("the server ended with {status} by itself; its log:\n{}", server.log()));
        }
        self.sum.reached += u64::from(by_itself);
        self.sum.requests += record.requests.len() as u64;
        self.sum.answered += record.answered() as u64;
        self.last = record;
        self.power_cut(&mut chance)
    }

    /// Replaces the disk by one that the cut may have left.
    fn power_cut(&mut self, chance: &mut crate::Chance) -> Result<(), String> {
        if !self.plan.power {
            return Ok(());
        }
        let journal = std::fs::read(self.journal()).map_err(|e| format!("the journal: {e}"))?;
        let mut disk = Disk::of(&self.disk, &self.before);
        disk.follow(&journal).map_err(|why| format!("the journal: {why}"))?;
        let mercy = [Mercy::None, Mercy::Some, Mercy::Some, Mercy::Some, Mercy::All][chance.random_range(0..5)];
        let (left, losses) = disk.cut(mercy, chance);
        let sum = &mut self.sum.losses;
        sum.sectors_kept += losses.sectors_kept;
        sum.sectors_dropped += losses.sectors_dropped;
        sum.names_kept += losses.names_kept;
        sum.names_dropped += losses.names_dropped;
        self.disk = self.scratch.path().join(format!("disk-{}", self.sum.rounds));
        tree::write(&self.disk, &left).map_err(|e| format!("writing the image: {e}"))?;
        Ok(())
    }

    /// The last life: everything is there, a clean restart changes nothing, and the history gives the same hash again.
    fn finish(&mut self, runtime: &tokio::runtime::Runtime) -> Result<(), String> {
        let mut server = self.start(None);
        server.wait_ready().map_err(|status| format!("the last start ended with {status}; its log:\n{}", server.log()))?;
        let last = std::mem::take(&mut self.last);
        runtime.block_on(self.ledger.check(&server.endpoint, &last))?;
        self.sum.revisions = self.ledger.revision() as u64 - 1;
        let before = runtime.block_on(check::hash(&server.endpoint, self.ledger.revision()))?;
        let status = server.stop();
        if !status.success() {
            return Err(format!("a clean stop ended with {status}; its log:\n{}", server.log()));
        }
        let mut server = self.start(None);
        server.wait_ready().map_err(|status| format!("after a clean stop: {status}; its log:\n{}", server.log()))?;
        runtime.block_on(self.ledger.check(&server.endpoint, &Record::default()))?;
        let after = runtime.block_on(check::hash(&server.endpoint, self.ledger.revision()))?;
        if before != after {
            return Err(format!("the hash was {before:?} and is {after:?} after a clean restart"));
        }
        let second = tempfile::tempdir().map_err(|e| e.to_string())?;
        let twin = Server::start(&Start::at(&second.path().join("data")).with(&["--unsafe-no-fsync"]));
        let again = runtime.block_on(self.ledger.write_again(&twin.endpoint))?;
        if again != after {
            return Err(format!("the hash is {after:?}; the same history on an empty server gives {again:?}"));
        }
        Ok(())
    }
}

/// How the process ended, when it does within a moment.
fn died(server: &mut Server) -> Option<std::process::ExitStatus> {
    for _ in 0..100 {
        if let Some(status) = server.ended() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// The preloaded library, compiled once a process.
///
/// # Panics
/// When there is no C compiler.
#[must_use]
pub fn shim() -> PathBuf {
    static SHIM: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    SHIM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/shim.c");
        let library = std::env::temp_dir().join(format!("quorate-power-shim-{}.so", std::process::id()));
        let status = std::process::Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
            .args(["-O1", "-Wall", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(&source)
            .args(["-ldl", "-lpthread"])
            .status()
            .expect("a C compiler runs");
        assert!(status.success(), "{} does not compile", source.display());
        library
    })
    .clone()
}
