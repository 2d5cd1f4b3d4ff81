//! What may go wrong, one thing at a time, in an order drawn from a seed.

use sim::rng::Rng;

/// Every fault there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Kill,
    KillLeader,
    KillAll,
    RollingRestart,
    Pause,
    PauseLeader,
    Cut,
    CutLeader,
    CutOneWay,
    Unplug,
    Loss,
    FullDisk,
    SlowDisk,
    StalledDisk,
    MemberReplaced,
    KillInCompaction,
    KillInDefrag,
    Snapshot,
    TwoSnapshots,
    LeaderMoved,
    /// The ones from here on are those of a rolling upgrade, in its order.
    OneUpgraded,
    TwoUpgraded,
    WayBack,
    AllUpgraded,
    TooOld,
}

impl Fault {
    pub const ALL: [Fault; 20] = [
        Fault::Kill,
        Fault::KillLeader,
        Fault::KillAll,
        Fault::RollingRestart,
        Fault::Pause,
        Fault::PauseLeader,
        Fault::Cut,
        Fault::CutLeader,
        Fault::CutOneWay,
        Fault::Unplug,
        Fault::Loss,
        Fault::FullDisk,
        Fault::SlowDisk,
        Fault::StalledDisk,
        Fault::MemberReplaced,
        Fault::KillInCompaction,
        Fault::KillInDefrag,
        Fault::Snapshot,
        Fault::TwoSnapshots,
        Fault::LeaderMoved,
    ];

    /// As the table says it.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill -9 of a follower",
            Fault::KillLeader => "kill -9 of the leader",
            Fault::KillAll => "kill -9 of all members at once",
            Fault::RollingRestart => "rolling restart (SIGTERM, one after another)",
            Fault::Pause => "a follower paused (SIGSTOP)",
            Fault::PauseLeader => "the leader paused (SIGSTOP)",
            Fault::Cut => "a follower cut off from the members, not from clients",
            Fault::CutLeader => "the leader cut off from the members, not from clients",
            Fault::CutOneWay => "a member hears another one no more, but is heard",
            Fault::Unplug => "a member's cable pulled, for clients too",
            Fault::Loss => "packets between members lost (5 to 20 of 100)",
            Fault::FullDisk => "a member's disk full",
            Fault::SlowDisk => "a member's disk slow (stands still again and again)",
            Fault::StalledDisk => "the leader's disk stands still",
            Fault::MemberReplaced => "a member replaced: removed, emptied, added as a learner, promoted",
            Fault::KillInCompaction => "kill -9 while a compaction is swept",
            Fault::KillInDefrag => "kill -9 at a defragmentation",
            Fault::Snapshot => "a member away until it needs a snapshot",
            Fault::TwoSnapshots => "two snapshots for one member shortly after each other",
            Fault::LeaderMoved => "leadership handed over (MoveLeader)",
            Fault::OneUpgraded => "one member restarted with the newer build",
            Fault::TwoUpgraded => "two members run the newer build",
            Fault::WayBack => "all members back on the older build",
            Fault::AllUpgraded => "all members run the newer build, and use what it brings",
            Fault::TooOld => "a member started with the older build, which must refuse",
        }
    }
}

/// A rolling upgrade: up by one and by two members, with a snapshot and a change of leader between builds each way, back down while
/// the level was not raised, and up for good.
pub const UPGRADE: [Fault; 11] = [
    Fault::OneUpgraded,
    Fault::Snapshot,
    Fault::LeaderMoved,
    Fault::TwoUpgraded,
    Fault::KillLeader,
    Fault::Snapshot,
    Fault::WayBack,
    Fault::TwoUpgraded,
    Fault::AllUpgraded,
    Fault::TooOld,
    Fault::KillAll,
];

/// The order of a run's faults: all of them, in an order that the seed draws, again and again.
pub fn schedule(chance: &mut Rng) -> Vec<Fault> {
    let mut all = Fault::ALL.to_vec();
    for at in (1..all.len()).rev() {
        all.swap(at, chance.below(at as u64 + 1) as usize);
    }
    all
}
