//! What a QuorateTask or a QuorateRestore asks of a cluster, as plain values: the request, the journal of one under way, its end.
//!
//! An errand is an operation that goes against the rules of the others: it stops every member, and it replaces volumes of members.
//! Its journal therefore says more: which volumes hold the old data, which of them are kept, and how far it is. Stages only go
//! forward; each is on record before its first step is taken.
//!
//! ```text
//!   RecoverQuorum   Stopping → Starting → Retiring
//!   Restore         Stopping → Filling → Starting → Retiring
//!                                 └─────────┴→ GoingBack          when it is withdrawn before the restored data served
//! ```

use super::world::{Seconds, Slot};

/// What for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// One member's data becomes the whole cluster.
    RecoverQuorum,
    /// A backup takes the place of all data.
    Restore,
}

impl Purpose {
    /// The name that the status shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RecoverQuorum => "RecoverQuorum",
            Self::Restore => "Restore",
        }
    }

    /// The purpose of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::RecoverQuorum, Self::Restore].into_iter().find(|purpose| purpose.as_str() == name)
    }
}

/// How far an errand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Every process of the old cluster ends.
    Stopping,
    /// The first volume gets the backup's data.
    Filling,
    /// The one member starts, alone.
    Starting,
    /// It serves; the others' old volumes make room for new ones.
    Retiring,
    /// The old data takes its place again.
    GoingBack,
}

impl Stage {
    /// The name that the status shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopping => "Stopping",
            Self::Filling => "Filling",
            Self::Starting => "Starting",
            Self::Retiring => "Retiring",
            Self::GoingBack => "GoingBack",
        }
    }

    /// The stage of that name.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Stopping, Self::Filling, Self::Starting, Self::Retiring, Self::GoingBack];
        all.into_iter().find(|stage| stage.as_str() == name)
    }
}

/// A volume that holds the data of before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Old {
    /// The pod's number.
    pub slot: Slot,
    /// UID of its claim.
    pub claim: String,
    /// The PersistentVolume; empty when there is none.
    pub volume: String,
}

/// One that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errand {
    /// What for.
    pub purpose: Purpose,
    /// The resource that asks.
    pub name: String,
    /// Its UID, which is also the recovery's id in the boot ticket and the restored store's token.
    pub uid: String,
    /// The slot whose data the cluster goes on with.
    pub slot: Slot,
    /// How far it is.
    pub stage: Stage,
    /// Old volumes are kept in the end.
    pub keep: bool,
    /// The volumes that hold the old data.
    pub old: Vec<Old>,
    /// A revision that the store had reached.
    pub revision: i64,
    /// What may be lost by it, for people.
    pub note: String,
    /// When it began.
    pub started: Seconds,
}

impl Errand {
    /// The claim holds old data.
    pub fn is_old(&self, claim: &str) -> bool {
        self.old.iter().any(|old| old.claim == claim)
    }

    /// The boot ticket has to name the recovery, from before the first pod starts. Once it is done the ticket names it for ever, by
    /// the status.
    pub fn in_ticket(&self) -> bool {
        self.purpose == Purpose::RecoverQuorum && matches!(self.stage, Stage::Starting | Stage::Retiring)
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The resource that asks.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The store's cluster id that it was meant for. None: any.
    pub confirm: Option<String>,
    /// What.
    pub ask: Ask,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Recover the quorum from this slot, or from the furthest.
    Recover {
        /// The slot, if one is named.
        slot: Option<Slot>,
        /// Old volumes are kept.
        keep: bool,
    },
    /// Put a backup in place.
    Restore {
        /// Old volumes are kept.
        keep: bool,
    },
    /// Forget superseded revisions but the newest so many.
    Compact {
        /// How many stay.
        keep: i64,
    },
    /// Ask each member to give space back.
    Defragment,
    /// Let this slot's member lead.
    MoveLeader {
        /// The slot.
        slot: Slot,
    },
}

/// How one ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The resource that asked.
    pub uid: String,
    /// It was done.
    pub done: bool,
    /// What came of it.
    pub message: String,
    /// Old volumes that were kept.
    pub kept: Vec<Old>,
}

/// How far the outside part of a stage is: filling a volume, or going back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outside {
    /// What is done or waited for.
    Busy(String),
    /// It is done.
    Done,
    /// Only a person can help; why.
    Failed(String),
}
