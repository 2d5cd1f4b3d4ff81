//! Whole clusters in one thread: the real loop, log, machine, store, watch room and leases of every member, over virtual time, with
//! faults of network, disk, clock and process, all drawn from one seed.
//!
//! [`run`] is the whole of it: a seed in, a [`Report`] out. [`world`] has the queue of events; [`turns`] the members' steps;
//! [`member`] a member's disk, clock and process; [`net`] the channels between members and [`wire`] what passes over them; [`transfer`] snapshots on their way; [`faults`] what goes
//! wrong and [`damage`] what no checksum sees; [`operator`] who takes members in and out, [`joining`] how they come and go and [`ledger`] whose word counts; [`clients`], [`leases`] and [`watchers`] who uses the cluster; [`agreed`] what the members agreed on; [`check`] and [`following`] whether what
//! the clients and the watchers saw follows from it, which the tests on real processes ask too; [`ends`] how it all ended.
//!
//! What is left out: gRPC and TLS, RocksDB (its in-memory twin crashes as it does: to a prefix of the batches written), the watch
//! room's and the log's own threads (their steps are taken here), and full disks under the rows.

pub mod agreed;
pub mod check;
pub mod clients;
pub mod damage;
pub mod ends;
pub mod faults;
pub mod following;
pub mod joining;
pub mod leases;
pub mod ledger;
pub mod member;
pub mod net;
pub mod operator;
pub mod ops;
pub mod probes;
pub mod rng;
pub mod sharers;
pub mod told;
pub mod transfer;
pub mod turns;
pub mod walks;
pub mod watchers;
pub mod wire;
pub mod world;

use world::{SECOND, World};

/// Virtual microseconds since the world began.
pub type Time = u64;

/// What a run is made of. Equal settings give equal runs.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub seed: u64,
    pub members: usize,
    /// Virtual seconds in which clients ask and faults happen; a calm time follows.
    pub seconds: u64,
    /// Prints every event that the trace's hash takes in as text.
    pub trace: bool,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Report {
    pub settings: Settings,
    pub violations: Vec<String>,
    /// Equal for two runs of the same settings.
    pub hash: u64,
    pub operations: usize,
    /// Operations that were answered.
    pub answered: usize,
    pub faults: usize,
    pub leader_changes: usize,
    pub revisions: i64,
    pub watched: u64,
    pub bookmarks: u64,
    pub renewals: u64,
    pub snapshots: u32,
    /// Members that were set aside and got other rows.
    pub rebuilt: u32,
    /// Changes of members that were proposed.
    pub changes: usize,
    /// Machines that joined.
    pub joined: u32,
    /// Virtual time.
    pub time: Time,
}

/// Longest that a calm cluster may take until all members agree and all watchers have everything.
const SETTLES: Time = 30 * SECOND;

/// Runs a seed.
pub fn run(settings: Settings) -> Report {
    quorate::env::end::unwind_here();
    let mut world = World::new(settings);
    for at in 0..settings.members {
        world.start(at);
    }
    world.add_clients(8);
    world.add_watchers(6);
    world.add_sharers(2);
    world.begin_faults();
    world.begin_operator();
    let end = settings.seconds * SECOND;
    world.run_until(end);
    let mut now = end;
    while now < end + SETTLES && world.violations.is_empty() && !(now >= end + 4 * SECOND && world.unsettled().is_none()) {
        now += SECOND / 2;
        world.run_until(now);
    }
    if world.violations.is_empty() {
        if let Some(why) = world.unsettled() {
            world.violation(format!("not settled {} s after the last fault: {why}", SETTLES / SECOND));
        } else {
            rest(&mut world);
        }
    }
    world.report()
}

/// Asks the members at rest, and looks at how it all ended once they rest again.
fn rest(world: &mut World) {
    world.begin_probes();
    let until = world.now + probes::ANSWERS;
    while world.violations.is_empty() && !(world.probes_are_answered() && world.unsettled().is_none()) && world.now < until {
        let now = world.now + SECOND / 10;
        world.run_until(now);
    }
    world.check_probes();
    if let Some(why) = world.unsettled() {
        world.violation(format!("not settled {} s after the members were asked: {why}", probes::ANSWERS / SECOND));
    }
    if world.violations.is_empty() {
        ends::check(world);
    }
}

impl World {
    fn report(&self) -> Report {
        use ops::Told;
        let answered = self.operations.iter().filter(|o| matches!(o.told, Told::Answer(_) | Told::Read(_))).count();
        Report {
            settings: self.settings,
            violations: self.violations.clone(),
            hash: self.hash(),
            operations: self.operations.len(),
            answered,
            faults: self.faults.len(),
            leader_changes: self.leaders.len().saturating_sub(1),
            revisions: self.history.head(),
            watched: self.watchers.iter().map(|w| w.follow.delivered).sum::<u64>()
                + self.sharers.iter().map(|s| s.delivered()).sum::<u64>(),
            bookmarks: self.watchers.iter().map(|w| w.bookmarks).sum(),
            renewals: self.leases.renewed,
            snapshots: self.snapshots,
            rebuilt: self.rebuilt,
            changes: self.ledger.changes(),
            joined: self.joined,
            time: self.now,
        }
    }
}
