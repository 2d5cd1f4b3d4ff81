//! What apply answers.

use crate::mvcc::{RangeResult, ReadError};
use quorate_proto::RawKv;
use quorate_proto::entry::{AlarmKind, command::Op};
use quorate_proto::state::Member;

/// The answer to one proposal.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The store's revision after the proposal.
    pub revision: i64,
    pub term: u64,
    pub result: Result<Outcome, ApplyError>,
}

/// An alarm that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlarmEntry {
    pub member: u64,
    pub kind: AlarmKind,
}

/// What a proposal did.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Put {
        prev: Option<RawKv>,
    },
    DeleteRange {
        deleted: i64,
        prev: Vec<RawKv>,
    },
    Range(RangeResult),
    Txn(TxnOutcome),
    Compact,
    LeaseGrant {
        id: i64,
        ttl: i64,
    },
    LeaseRevoke,
    LeaseCheckpoint,
    /// The alarms that were raised, cleared or found.
    Alarm(Vec<AlarmEntry>),
    Members(Vec<Member>),
    Done,
}

/// A transaction's course.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TxnOutcome {
    pub succeeded: bool,
    pub ops: Vec<TxnOpOutcome>,
}

/// One operation of a transaction; revisions are those of the inner headers.
#[derive(Clone, Debug, PartialEq)]
pub enum TxnOpOutcome {
    Range(RangeResult),
    Put { prev: Option<RawKv>, revision: i64 },
    DeleteRange { deleted: i64, prev: Vec<RawKv>, revision: i64 },
    Txn(TxnOutcome, i64),
}

/// What metrics call a command: etcd's names for its requests.
pub fn op_name(op: &Op) -> &'static str {
    match op {
        Op::Put(_) => "Put",
        Op::DeleteRange(_) => "DeleteRange",
        Op::Txn(_) => "Txn",
        Op::Range(_) => "Range",
        Op::Compact(_) => "Compaction",
        Op::LeaseGrant(_) => "LeaseGrant",
        Op::LeaseRevoke(_) => "LeaseRevoke",
        Op::LeaseCheckpoint(_) => "LeaseCheckpoint",
        Op::Alarm(_) => "Alarm",
        Op::MemberAttributes(_) => "ClusterMemberAttrSet",
        Op::ClusterVersion(_) => "ClusterVersionSet",
        Op::Downgrade(_) => "DowngradeInfoSet",
        Op::Auth(_) => "Auth",
        Op::Fence(_) => "Fence",
        Op::HashCheck(_) => "HashCheck",
        Op::DigestBegin(_) => "DigestBegin",
    }
}

/// Why a proposal was refused. Every member refuses alike; the store is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error("required revision has been compacted")]
    Compacted,
    #[error("required revision is a future revision")]
    FutureRevision,
    #[error("key not found")]
    KeyNotFound,
    #[error("requested lease not found")]
    LeaseNotFound,
    #[error("lease already exists")]
    LeaseExists,
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    #[error("database space exceeded")]
    NoSpace,
    #[error("corrupt cluster")]
    Corrupt,
    #[error("member not found")]
    MemberNotFound,
    #[error("member ID already exist")]
    MemberExists,
    #[error("Peer URLs already exists")]
    PeerUrlExists,
    #[error("can only promote a learner member")]
    NotLearner,
    #[error("can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    #[error("too many learner members in cluster")]
    TooManyLearners,
    #[error("unhealthy cluster")]
    Unhealthy,
    #[error("permission denied")]
    PermissionDenied,
    #[error("revision of auth store is old")]
    AuthOldRevision,
    #[error("authentication is not enabled")]
    AuthNotEnabled,
    #[error("root user does not exist")]
    RootUserNotExist,
    #[error("root user does not have root role")]
    RootRoleNotExist,
    #[error("user name already exists")]
    UserExists,
    #[error("user name not found")]
    UserNotFound,
    #[error("user name is empty")]
    UserEmpty,
    #[error("role name already exists")]
    RoleExists,
    #[error("role name not found")]
    RoleNotFound,
    #[error("role name is empty")]
    RoleEmpty,
    #[error("role is not granted to the user")]
    RoleNotGranted,
    #[error("permission is not granted to the role")]
    PermissionNotGranted,
    #[error("permission not given")]
    PermissionNotGiven,
    #[error("authentication failed, invalid user ID or password")]
    AuthFailed,
    #[error("invalid auth management")]
    InvalidAuthManagement,
    #[error("{0}")]
    Internal(String),
}

impl From<ReadError> for ApplyError {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::Compacted => ApplyError::Compacted,
            ReadError::FutureRevision => ApplyError::FutureRevision,
            ReadError::Corrupt(text) | ReadError::Io(text) => ApplyError::Internal(text),
        }
    }
}
