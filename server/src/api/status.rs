//! Every refusal a client can see: one table from error to gRPC code and etcd's exact text.
//!
//! Clients look errors up by text, so the texts are part of the wire contract. In: errors of the rooms ([`ApplyError`], [`ReadError`],
//! [`ProposeError`]) and the door's own [`Refusal`]s. Out: [`tonic::Status`].
//! Two rows leave with code `Unknown` although etcd documents another: etcd's own server sends them so, and its clients mend them by text.
//! Errors etcd has no name for become `Unknown` with their own text, as they do there.

use tonic::{Code, Status};

use crate::{mvcc::ReadError, node::ProposeError, state::ApplyError};

macro_rules! refusals {
    ($($name:ident => $code:ident, $text:literal;)*) => {
        /// A named refusal: code and text are fixed by etcd.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Refusal { $($name,)* }

        impl Refusal {
            /// Every row of the table, in the order written.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$name,)*];

            /// The gRPC code that goes on the wire.
            pub const fn code(self) -> Code {
                match self { $(Refusal::$name => Code::$code,)* }
            }

            /// The text clients compare.
            pub const fn text(self) -> &'static str {
                match self { $(Refusal::$name => $text,)* }
            }
        }
    };
}

refusals! {
    // The request itself.
    EmptyKey => InvalidArgument, "etcdserver: key is not provided";
    KeyNotFound => InvalidArgument, "etcdserver: key not found";
    ValueProvided => InvalidArgument, "etcdserver: value is provided";
    LeaseProvided => InvalidArgument, "etcdserver: lease is provided";
    TooManyOps => InvalidArgument, "etcdserver: too many operations in txn request";
    DuplicateKey => InvalidArgument, "etcdserver: duplicate key given in txn request";
    InvalidClientApiVersion => InvalidArgument, "etcdserver: invalid client api version";
    InvalidSortOption => InvalidArgument, "etcdserver: invalid sort option";
    RequestTooLarge => InvalidArgument, "etcdserver: request is too large";
    StreamSortUnsupported => Unimplemented, "RangeStream does not support custom sort orders";
    StreamFilterUnsupported => Unimplemented, "RangeStream does not support revision filters";
    UnknownMethod => Unknown, "etcdserver: unknown method";
    // Ours: etcd takes values it does not know, but a log entry must mean the same to members of every version.
    UnknownCompare => InvalidArgument, "etcdserver: unknown compare option";
    UnknownAlarm => InvalidArgument, "etcdserver: unknown alarm type";

    // Revisions and space.
    Compacted => OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FutureRevision => OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    NoSpace => ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    Corrupt => DataLoss, "etcdserver: corrupt cluster";

    // Leases.
    LeaseNotFound => NotFound, "etcdserver: requested lease not found";
    LeaseExists => FailedPrecondition, "etcdserver: lease already exists";
    LeaseTtlTooLarge => OutOfRange, "etcdserver: too large lease TTL";
    NotPrimaryLessor => Unknown, "not a primary lessor";

    // Watch.
    WatchCanceled => Cancelled, "etcdserver: watch canceled";

    // Members.
    MemberExists => FailedPrecondition, "etcdserver: member ID already exist";
    PeerUrlExists => FailedPrecondition, "etcdserver: Peer URLs already exists";
    MemberNotEnoughStarted => Unknown, "etcdserver: re-configuration failed due to not enough started members";
    MemberBadUrls => InvalidArgument, "etcdserver: given member URLs are invalid";
    MemberNotFound => NotFound, "etcdserver: member not found";
    MemberNotLearner => FailedPrecondition, "etcdserver: can only promote a learner member";
    LearnerNotReady => FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    TooManyLearners => FailedPrecondition, "etcdserver: too many learner members in cluster";
    ClusterIdMismatch => FailedPrecondition, "etcdserver: cluster ID mismatch";

    // Consensus.
    NoLeader => Unavailable, "etcdserver: no leader";
    NotLeader => FailedPrecondition, "etcdserver: not leader";
    LeaderChanged => Unavailable, "etcdserver: leader changed";
    NotCapable => FailedPrecondition, "etcdserver: not capable";
    Stopped => Unavailable, "etcdserver: server stopped";
    TimedOut => Unavailable, "etcdserver: request timed out";
    TimedOutLeaderFailure => Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    TimedOutConnectionLost => Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    TimedOutAppliedIndex => Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    TimedOutLeaderTransfer => Unknown, "etcdserver: request timed out, leader transfer took too long";
    Unhealthy => Unavailable, "etcdserver: unhealthy cluster";
    TooManyRequests => Unknown, "etcdserver: too many requests";
    NotSupportedForLearner => FailedPrecondition, "etcdserver: rpc not supported for learner";
    BadLeaderTransferee => FailedPrecondition, "etcdserver: bad leader transferee";
    Canceled => Cancelled, "etcdserver: request canceled";
    DeadlineExceeded => DeadlineExceeded, "etcdserver: context deadline exceeded";

    // Downgrade.
    DowngradeVersionFormat => InvalidArgument, "etcdserver: wrong downgrade target version format";
    DowngradeTargetInvalid => InvalidArgument, "etcdserver: invalid downgrade target version";
    ClusterVersionUnavailable => FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    DowngradeInProcess => FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    NoInflightDowngrade => FailedPrecondition, "etcdserver: no inflight downgrade job";

    // Auth.
    RootUserNotExist => FailedPrecondition, "etcdserver: root user does not exist";
    RootRoleNotExist => FailedPrecondition, "etcdserver: root user does not have root role";
    UserExists => FailedPrecondition, "etcdserver: user name already exists";
    UserEmpty => InvalidArgument, "etcdserver: user name is empty";
    UserNotFound => FailedPrecondition, "etcdserver: user name not found";
    RoleExists => FailedPrecondition, "etcdserver: role name already exists";
    RoleNotFound => FailedPrecondition, "etcdserver: role name not found";
    RoleEmpty => InvalidArgument, "etcdserver: role name is empty";
    AuthFailed => InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    PermissionNotGiven => InvalidArgument, "etcdserver: permission not given";
    PermissionDenied => PermissionDenied, "etcdserver: permission denied";
    RoleNotGranted => FailedPrecondition, "etcdserver: role is not granted to the user";
    PermissionNotGranted => FailedPrecondition, "etcdserver: permission is not granted to the role";
    AuthNotEnabled => FailedPrecondition, "etcdserver: authentication is not enabled";
    InvalidAuthToken => Unauthenticated, "etcdserver: invalid auth token";
    InvalidAuthManagement => InvalidArgument, "etcdserver: invalid auth management";
    AuthOldRevision => InvalidArgument, "etcdserver: revision of auth store is old";
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        Status::new(refusal.code(), refusal.text())
    }
}

/// What apply refused, as the client sees it.
pub fn apply_status(error: ApplyError) -> Status {
    use ApplyError as E;
    let refusal = match error {
        E::Compacted => Refusal::Compacted,
        E::FutureRevision => Refusal::FutureRevision,
        E::KeyNotFound => Refusal::KeyNotFound,
        E::LeaseNotFound => Refusal::LeaseNotFound,
        E::LeaseExists => Refusal::LeaseExists,
        E::LeaseTtlTooLarge => Refusal::LeaseTtlTooLarge,
        E::NoSpace => Refusal::NoSpace,
        E::Corrupt => Refusal::Corrupt,
        E::MemberNotFound => Refusal::MemberNotFound,
        E::MemberExists => Refusal::MemberExists,
        E::PeerUrlExists => Refusal::PeerUrlExists,
        E::NotLearner => Refusal::MemberNotLearner,
        E::LearnerNotReady => Refusal::LearnerNotReady,
        E::TooManyLearners => Refusal::TooManyLearners,
        E::Unhealthy => Refusal::Unhealthy,
        E::PermissionDenied => Refusal::PermissionDenied,
        E::AuthOldRevision => Refusal::AuthOldRevision,
        E::AuthNotEnabled => Refusal::AuthNotEnabled,
        E::RootUserNotExist => Refusal::RootUserNotExist,
        E::RootRoleNotExist => Refusal::RootRoleNotExist,
        E::UserExists => Refusal::UserExists,
        E::UserNotFound => Refusal::UserNotFound,
        E::UserEmpty => Refusal::UserEmpty,
        E::RoleExists => Refusal::RoleExists,
        E::RoleNotFound => Refusal::RoleNotFound,
        E::RoleEmpty => Refusal::RoleEmpty,
        E::RoleNotGranted => Refusal::RoleNotGranted,
        E::PermissionNotGranted => Refusal::PermissionNotGranted,
        E::PermissionNotGiven => Refusal::PermissionNotGiven,
        E::AuthFailed => Refusal::AuthFailed,
        E::InvalidAuthManagement => Refusal::InvalidAuthManagement,
        E::Internal(text) => return Status::unknown(text),
    };
    refusal.into()
}

/// What a read refused, as the client sees it.
pub fn read_status(error: ReadError) -> Status {
    match error {
        ReadError::Compacted => Refusal::Compacted.into(),
        ReadError::FutureRevision => Refusal::FutureRevision.into(),
        ReadError::Corrupt(_) => Refusal::Corrupt.into(),
        ReadError::Io(text) => Status::unknown(text),
    }
}

/// Why a proposal or a read round did not come back, as the client sees it.
pub fn propose_status(error: ProposeError) -> Status {
    let refusal = match error {
        ProposeError::NoLeader => Refusal::NoLeader,
        ProposeError::LeaderChanged => Refusal::LeaderChanged,
        ProposeError::TimedOut => Refusal::TimedOut,
        ProposeError::TimedOutLeaderFailure => Refusal::TimedOutLeaderFailure,
        ProposeError::TooManyRequests => Refusal::TooManyRequests,
        ProposeError::Stopped => Refusal::Stopped,
        ProposeError::NotLeader => Refusal::NotLeader,
        ProposeError::BadTransferee => Refusal::BadLeaderTransferee,
        ProposeError::TooLarge => Refusal::RequestTooLarge,
        ProposeError::Unhealthy => Refusal::Unhealthy,
    };
    refusal.into()
}

/// As [`propose_status`], for a request that may have had nobody to take it: where no leader was known when it came and none when its
/// time was up, it was never proposed, and etcd says that the time is up and nothing else.
pub fn proposal_status(error: ProposeError, led: bool) -> Status {
    match error {
        ProposeError::TimedOut | ProposeError::TimedOutLeaderFailure if !led => {
            Status::deadline_exceeded("context deadline exceeded")
        }
        error => propose_status(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// A write that no leader could take runs out of time; one that a leader had is said to have timed out.
    #[test]
    fn nobody_to_take_it() {
        let shown = |error, led| {
            let status = proposal_status(error, led);
            (status.code(), status.message().to_owned())
        };
        let late = (Code::DeadlineExceeded, "context deadline exceeded".to_owned());
        assert_eq!(shown(ProposeError::TimedOut, false), late);
        assert_eq!(shown(ProposeError::TimedOutLeaderFailure, false), late);
        assert_eq!(shown(ProposeError::TimedOut, true), (Code::Unavailable, "etcdserver: request timed out".to_owned()));
        assert_eq!(shown(ProposeError::TooManyRequests, false).1, "etcdserver: too many requests");
    }

    /// The texts clients know, by code: what etcd 3.7 documents, except that `too many requests` and the reconfiguration refusal go out as
    /// `Unknown`, as its server really sends them.
    const KNOWN: &[(Code, &[&str])] = &[
        (
            Code::InvalidArgument,
            &[
                "key is not provided",
                "key not found",
                "value is provided",
                "lease is provided",
                "too many operations in txn request",
                "duplicate key given in txn request",
                "invalid sort option",
                "invalid client api version",
                "given member URLs are invalid",
                "request is too large",
                "user name is empty",
                "role name is empty",
                "authentication failed, invalid user ID or password",
                "permission not given",
                "invalid auth management",
                "revision of auth store is old",
                "wrong downgrade target version format",
                "invalid downgrade target version",
            ],
        ),
        (
            Code::OutOfRange,
            &["mvcc: required revision has been compacted", "mvcc: required revision is a future revision", "too large lease TTL"],
        ),
        (Code::NotFound, &["requested lease not found", "member not found"]),
        (Code::ResourceExhausted, &["mvcc: database space exceeded"]),
        (Code::DataLoss, &["corrupt cluster"]),
        (Code::PermissionDenied, &["permission denied"]),
        (Code::Unauthenticated, &["invalid auth token"]),
        (
            Code::FailedPrecondition,
            &[
                "lease already exists",
                "member ID already exist",
                "Peer URLs already exists",
                "can only promote a learner member",
                "can only promote a learner member which is in sync with leader",
                "too many learner members in cluster",
                "cluster ID mismatch",
                "root user does not exist",
                "root user does not have root role",
                "user name already exists",
                "user name not found",
                "role name already exists",
                "role name not found",
                "role is not granted to the user",
                "permission is not granted to the role",
                "authentication is not enabled",
                "not leader",
                "not capable",
                "rpc not supported for learner",
                "bad leader transferee",
                "cluster has a downgrade job in progress",
                "no inflight downgrade job",
                "cluster version not found during downgrade",
            ],
        ),
        (
            Code::Unavailable,
            &[
                "no leader",
                "leader changed",
                "server stopped",
                "request timed out",
                "request timed out, possibly due to previous leader failure",
                "request timed out, possibly due to connection lost",
                "request timed out, waiting for the applied index took too long",
                "unhealthy cluster",
            ],
        ),
        (Code::Cancelled, &["watch canceled", "request canceled"]),
        (Code::DeadlineExceeded, &["context deadline exceeded"]),
        (
            Code::Unknown,
            &[
                "too many requests",
                "re-configuration failed due to not enough started members",
                "request timed out, leader transfer took too long",
                "unknown method",
            ],
        ),
    ];

    /// Every text clients know is in the table under its code, and no text stands there twice.
    #[test]
    fn table_holds_every_known_text() {
        for (code, texts) in KNOWN {
            for text in *texts {
                let text = format!("etcdserver: {text}");
                let row = Refusal::ALL.iter().find(|row| row.text() == text);
                assert_eq!(row.map(|row| row.code()), Some(*code), "{text}");
            }
        }
        let texts: HashSet<&str> = Refusal::ALL.iter().map(|row| row.text()).collect();
        assert_eq!(texts.len(), Refusal::ALL.len());
    }

    /// Errors of the rooms reach the client under etcd's names; what etcd has no name for is `Unknown` with its own text.
    #[test]
    fn room_errors() {
        let status = apply_status(ApplyError::LeaseNotFound);
        assert_eq!((status.code(), status.message()), (Code::NotFound, "etcdserver: requested lease not found"));
        let status = read_status(ReadError::FutureRevision);
        assert_eq!(
            (status.code(), status.message()),
            (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision")
        );
        let status = propose_status(ProposeError::TooManyRequests);
        assert_eq!((status.code(), status.message()), (Code::Unknown, "etcdserver: too many requests"));
        let status = apply_status(ApplyError::Internal("odd".into()));
        assert_eq!((status.code(), status.message()), (Code::Unknown, "odd"));
    }
}
