//! Planted mistakes: what a simulation must find, switched on by name. Without the feature `plant` every question is answered `false`
//! at compile time and nothing of it is built.

/// A mistake that can be planted. Each stands where its doc says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Plant {
    /// The log answers a batch when it is written and not yet synced.
    AckBeforeSync = 1,
    /// Some entries are applied twice.
    ApplyTwice = 2,
    /// A leader answers read rounds by itself, without asking whether it still leads.
    StaleReadIndex = 3,
    /// Read rounds are answered before the machine has applied what they cover.
    ReadBeforeApply = 4,
    /// A sweep takes the deletion that lies at the compaction mark itself.
    LostTombstone = 5,
    /// A watcher that resumes is given the revision before its own again.
    WatchBackInTime = 6,
    /// Live watchers skip a revision when a snapshot is installed under them.
    WatchGap = 7,
    /// Progress is told one revision ahead of what was delivered.
    ProgressAhead = 8,
    /// A new leader takes every lease to have run out.
    LeaseExpiresEarly = 9,
    /// The end of a lease leaves its first key.
    LeaseLeavesKey = 10,
    /// A checkpoint claims one entry more than its rows hold.
    CheckpointAhead = 11,
    /// Each chunk of a received snapshot lacks its last row of the newest versions.
    SnapshotShort = 13,
    /// A transaction compares with the store as it was one revision ago.
    StaleCompare = 14,
    /// A member that lost its disk comes back with an empty one under its old id. Planted in the simulation, not here.
    ReusedMemberId = 15,
    /// Reads below the compaction mark are answered from what is left.
    CompactedRead = 16,
    /// A version whose deletion was swept before it shows at a later revision.
    HalfSweptRead = 17,
    /// A deposed leader hands the leases that ran out by its clock to the next leader.
    ForwardedExpiry = 18,
    /// A member stands for election while it takes up a snapshot.
    ElectionDuringInstall = 19,
    /// Raft may put entries into an append message that was made for others.
    BatchedAppend = 20,
    /// A new leader keeps leases alive before it has applied what the leader before it left: it takes the votes it got for the proof
    /// that it leads, which else it has only once it knows what is committed.
    EarlyLeaseClock = 21,
    /// A sweep removes rows before the compaction mark is durable.
    SweepBeforeMark = 22,
    /// What members say of their state is not compared.
    DigestNotCompared = 23,
    /// A new member is given the id of one that was removed.
    MemberIdTwice = 24,
    /// The leader takes a learner's acknowledgement for a voter's.
    LearnerAckCounts = 25,
    /// A removed voter stays in raft's configuration.
    RemovedStillCounts = 26,
    /// Pairs kept for readers do not follow what a checkpoint writes.
    StalePair = 27,
    /// A leader takes the word of the member that asks to read for a quorum's, however many voters there are.
    LoneVouch = 28,
    /// A member answers for leases as long as it takes itself for the leader, however long it was paused.
    UnprovenLeader = 29,
    /// A serializable read is answered from the revision before the one that this member has shown.
    OldRead = 30,
    /// A read round whose answer was lost is not asked again.
    LostRound = 31,
    /// The pages of one walk are each read at the newest revision.
    PageAtHead = 32,
    /// A member votes for whoever asks, twice in a term if need be.
    VoteTwice = 33,
    /// The watches of a stream are told that all have everything as long as one of them has.
    ProgressOfSome = 34,
}

impl Plant {
    /// Every mistake there is.
    pub const ALL: [Plant; 33] = [
        Plant::AckBeforeSync,
        Plant::ApplyTwice,
        Plant::StaleReadIndex,
        Plant::ReadBeforeApply,
        Plant::LostTombstone,
        Plant::WatchBackInTime,
        Plant::WatchGap,
        Plant::ProgressAhead,
        Plant::LeaseExpiresEarly,
        Plant::LeaseLeavesKey,
        Plant::CheckpointAhead,
        Plant::SnapshotShort,
        Plant::StaleCompare,
        Plant::ReusedMemberId,
        Plant::CompactedRead,
        Plant::HalfSweptRead,
        Plant::ForwardedExpiry,
        Plant::ElectionDuringInstall,
        Plant::BatchedAppend,
        Plant::EarlyLeaseClock,
        Plant::SweepBeforeMark,
        Plant::DigestNotCompared,
        Plant::MemberIdTwice,
        Plant::LearnerAckCounts,
        Plant::RemovedStillCounts,
        Plant::StalePair,
        Plant::LoneVouch,
        Plant::UnprovenLeader,
        Plant::OldRead,
        Plant::LostRound,
        Plant::PageAtHead,
        Plant::VoteTwice,
        Plant::ProgressOfSome,
    ];

    /// The name by which it is asked for, as `ack-before-sync`.
    pub fn name(self) -> String {
        let mut name = String::new();
        for c in format!("{self:?}").chars() {
            if c.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(c.to_ascii_lowercase());
        }
        name
    }
}

#[cfg(feature = "plant")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Switches a mistake on for the whole process, or all off.
#[cfg(feature = "plant")]
pub fn set(plant: Option<Plant>) {
    PLANTED.store(plant.map_or(0, |p| p as u8), std::sync::atomic::Ordering::Relaxed);
}

/// True when this mistake is to be made.
#[cfg(feature = "plant")]
pub fn is(plant: Plant) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == plant as u8
}

/// True when this mistake is to be made.
#[cfg(not(feature = "plant"))]
pub const fn is(_: Plant) -> bool {
    false
}
