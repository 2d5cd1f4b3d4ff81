//! Request counters, one row a method: what `grpc_server_started_total`, `_handled_total`, `_msg_received_total` and `_msg_sent_total` read,
//! and, when asked for, how long calls took.
//!
//! In: a [`Call`] opened by the door for each request. Out: plain numbers for the metrics page.
//! Invariant: every started call is handled exactly once; a call dropped before it answered (the client went away) counts as `Canceled`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tonic::{Code, Status};

use crate::telemetry::Histogram;

/// How many gRPC codes there are (0 `OK` to 16 `UNAUTHENTICATED`).
pub const CODES: usize = 17;

/// The code names as Go's gRPC metrics spell them, by number.
pub const CODE_NAMES: [&str; CODES] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

macro_rules! methods {
    ($($name:ident => $service:literal, $method:literal, $kind:literal;)*) => {
        /// Every method the door serves.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Method { $($name,)* }

        impl Method {
            /// All methods, in table order.
            pub const ALL: &'static [Method] = &[$(Method::$name,)*];

            /// `(service, method, kind)` as the metric labels `grpc_service`, `grpc_method`, `grpc_type` carry them.
            pub const fn labels(self) -> (&'static str, &'static str, &'static str) {
                match self { $(Method::$name => ($service, $method, $kind),)* }
            }
        }
    };
}

methods! {
    Range => "etcdserverpb.KV", "Range", "unary";
    RangeStream => "etcdserverpb.KV", "RangeStream", "server_stream";
    Put => "etcdserverpb.KV", "Put", "unary";
    DeleteRange => "etcdserverpb.KV", "DeleteRange", "unary";
    Txn => "etcdserverpb.KV", "Txn", "unary";
    Compact => "etcdserverpb.KV", "Compact", "unary";
    Watch => "etcdserverpb.Watch", "Watch", "bidi_stream";
    LeaseGrant => "etcdserverpb.Lease", "LeaseGrant", "unary";
    LeaseRevoke => "etcdserverpb.Lease", "LeaseRevoke", "unary";
    LeaseKeepAlive => "etcdserverpb.Lease", "LeaseKeepAlive", "bidi_stream";
    LeaseTimeToLive => "etcdserverpb.Lease", "LeaseTimeToLive", "unary";
    LeaseLeases => "etcdserverpb.Lease", "LeaseLeases", "unary";
    MemberAdd => "etcdserverpb.Cluster", "MemberAdd", "unary";
    MemberRemove => "etcdserverpb.Cluster", "MemberRemove", "unary";
    MemberUpdate => "etcdserverpb.Cluster", "MemberUpdate", "unary";
    MemberList => "etcdserverpb.Cluster", "MemberList", "unary";
    MemberPromote => "etcdserverpb.Cluster", "MemberPromote", "unary";
    Alarm => "etcdserverpb.Maintenance", "Alarm", "unary";
    MaintenanceStatus => "etcdserverpb.Maintenance", "Status", "unary";
    Defragment => "etcdserverpb.Maintenance", "Defragment", "unary";
    Hash => "etcdserverpb.Maintenance", "Hash", "unary";
    HashKv => "etcdserverpb.Maintenance", "HashKV", "unary";
    Snapshot => "etcdserverpb.Maintenance", "Snapshot", "server_stream";
    MoveLeader => "etcdserverpb.Maintenance", "MoveLeader", "unary";
    Downgrade => "etcdserverpb.Maintenance", "Downgrade", "unary";
    AuthEnable => "etcdserverpb.Auth", "AuthEnable", "unary";
    AuthDisable => "etcdserverpb.Auth", "AuthDisable", "unary";
    AuthStatus => "etcdserverpb.Auth", "AuthStatus", "unary";
    Authenticate => "etcdserverpb.Auth", "Authenticate", "unary";
    UserAdd => "etcdserverpb.Auth", "UserAdd", "unary";
    UserGet => "etcdserverpb.Auth", "UserGet", "unary";
    UserList => "etcdserverpb.Auth", "UserList", "unary";
    UserDelete => "etcdserverpb.Auth", "UserDelete", "unary";
    UserChangePassword => "etcdserverpb.Auth", "UserChangePassword", "unary";
    UserGrantRole => "etcdserverpb.Auth", "UserGrantRole", "unary";
    UserRevokeRole => "etcdserverpb.Auth", "UserRevokeRole", "unary";
    RoleAdd => "etcdserverpb.Auth", "RoleAdd", "unary";
    RoleGet => "etcdserverpb.Auth", "RoleGet", "unary";
    RoleList => "etcdserverpb.Auth", "RoleList", "unary";
    RoleDelete => "etcdserverpb.Auth", "RoleDelete", "unary";
    RoleGrantPermission => "etcdserverpb.Auth", "RoleGrantPermission", "unary";
    RoleRevokePermission => "etcdserverpb.Auth", "RoleRevokePermission", "unary";
    Lock => "v3lockpb.Lock", "Lock", "unary";
    Unlock => "v3lockpb.Lock", "Unlock", "unary";
    Campaign => "v3electionpb.Election", "Campaign", "unary";
    Proclaim => "v3electionpb.Election", "Proclaim", "unary";
    Leader => "v3electionpb.Election", "Leader", "unary";
    Observe => "v3electionpb.Election", "Observe", "server_stream";
    Resign => "v3electionpb.Election", "Resign", "unary";
    HealthCheck => "grpc.health.v1.Health", "Check", "unary";
    HealthList => "grpc.health.v1.Health", "List", "unary";
    HealthWatch => "grpc.health.v1.Health", "Watch", "server_stream";
    Deltas => "quorate.backup.v1.Backup", "Deltas", "server_stream";
    Stored => "quorate.backup.v1.Backup", "Stored", "unary";
}

impl Method {
    /// Whether the answers show what the store holds: a member whose data differ from the others' does not give them.
    pub fn shows_data(self) -> bool {
        let (service, ..) = self.labels();
        let services = ["etcdserverpb.KV", "etcdserverpb.Watch", "etcdserverpb.Lease", "v3lockpb.Lock", "v3electionpb.Election"];
        self == Method::Snapshot || services.contains(&service)
    }
}

/// One method's numbers. A row has its own cache lines, so two busy methods on two net threads do not slow each other.
#[derive(Default)]
#[repr(align(64))]
struct Row {
    started: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    handled: [AtomicU64; CODES],
    /// Where the time of each call goes; `None` when nobody asked for it.
    seconds: Option<Arc<Histogram>>,
}

/// The numbers of one method at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodCounts {
    /// The method counted.
    pub method: Method,
    /// Calls begun.
    pub started: u64,
    /// Messages received from clients.
    pub received: u64,
    /// Messages sent to clients.
    pub sent: u64,
    /// Calls ended, by gRPC code number.
    pub handled: [u64; CODES],
}

/// All rows; shared by the door (which counts) and the metrics page (which reads).
pub struct Counters {
    rows: Box<[Row]>,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters { rows: Method::ALL.iter().map(|_| Row::default()).collect() }
    }
}

impl Counters {
    /// Rows that also put the time of each call into the histogram `of` gives for its method.
    pub fn timed(of: impl Fn(Method) -> Arc<Histogram>) -> Counters {
        let row = |&method: &Method| Row { seconds: Some(of(method)), ..Row::default() };
        Counters { rows: Method::ALL.iter().map(row).collect() }
    }

    /// The numbers of every method, zero rows included, as etcd initialises them.
    pub fn read(&self) -> impl Iterator<Item = MethodCounts> + '_ {
        Method::ALL.iter().map(|&method| {
            let row = &self.rows[method as usize];
            MethodCounts {
                method,
                started: row.started.load(Relaxed),
                received: row.received.load(Relaxed),
                sent: row.sent.load(Relaxed),
                handled: std::array::from_fn(|code| row.handled[code].load(Relaxed)),
            }
        })
    }

    /// Opens a call: counts it as started and returns the guard that counts its end.
    pub fn start(self: &Arc<Counters>, method: Method) -> Call {
        self.rows[method as usize].started.fetch_add(1, Relaxed);
        Call { counters: self.clone(), method, began: Instant::now(), open: true }
    }
}

/// One request under way.
pub struct Call {
    counters: Arc<Counters>,
    method: Method,
    began: Instant,
    open: bool,
}

impl Call {
    fn row(&self) -> &Row {
        &self.counters.rows[self.method as usize]
    }

    /// How long it has been under way.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Counts one message from the client.
    pub fn received(&self) {
        self.row().received.fetch_add(1, Relaxed);
    }

    /// Counts one message to the client.
    pub fn sent(&self) {
        self.row().sent.fetch_add(1, Relaxed);
    }

    /// Ends the call with the code of its result.
    pub fn end<T>(mut self, result: &Result<T, Status>) {
        self.close(result.as_ref().err().map_or(Code::Ok, Status::code));
    }

    fn close(&mut self, code: Code) {
        if std::mem::take(&mut self.open) {
            let row = self.row();
            row.handled[code as usize].fetch_add(1, Relaxed);
            if let Some(seconds) = &row.seconds {
                seconds.observe_seconds(self.began.elapsed());
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.close(Code::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Started equals handled once all calls are over, whichever way each ended.
    #[test]
    fn each_call_is_handled_once() {
        let counters = Arc::new(Counters::default());
        counters.start(Method::Put).end(&Ok(()));
        counters.start(Method::Put).end::<()>(&Err(Status::not_found("x")));
        drop(counters.start(Method::Put));
        let put = counters.read().find(|row| row.method == Method::Put).unwrap();
        assert_eq!(put.started, 3);
        assert_eq!(put.handled.iter().sum::<u64>(), 3);
        for (code, count) in [(Code::Ok, 1), (Code::NotFound, 1), (Code::Cancelled, 1)] {
            assert_eq!(put.handled[code as usize], count, "{code:?}");
        }
    }

    /// Timed rows give each call's time to its method's histogram, and to no other.
    #[test]
    fn calls_are_timed() {
        let histograms: Vec<_> = Method::ALL.iter().map(|_| Arc::new(Histogram::with_bounds(vec![60.0]))).collect();
        let counters = Arc::new(Counters::timed(|method| histograms[method as usize].clone()));
        counters.start(Method::Txn).end(&Ok(()));
        for (method, histogram) in Method::ALL.iter().zip(&histograms) {
            assert_eq!(histogram.count(), u64::from(*method == Method::Txn));
        }
    }

    /// The enum's order is the table's order, which the rows are indexed by.
    #[test]
    fn methods_index_their_rows() {
        for (index, method) in Method::ALL.iter().enumerate() {
            assert_eq!(*method as usize, index);
        }
    }
}
