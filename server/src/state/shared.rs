//! What other threads may read of the machine at any time: small snapshots, swapped whole.

use super::{AlarmEntry, Fences, fences};
use crate::lease::{Lease, LeaseTable};
use crate::types::{LeaseId, MemberId};
use arc_swap::ArcSwap;
use parking_lot::RwLock;
use quorate_proto::entry::AlarmKind;
use quorate_proto::state::{Member, Recovery};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

/// The machine as others see it.
#[derive(Default)]
pub struct Shared {
    pub(super) members: ArcSwap<Vec<Member>>,
    pub(super) removed: ArcSwap<BTreeSet<MemberId>>,
    pub(super) recoveries: ArcSwap<Vec<Recovery>>,
    pub(super) alarms: ArcSwap<Vec<AlarmEntry>>,
    pub(super) leases: RwLock<LeaseTable>,
    pub(super) cluster_version: ArcSwap<String>,
    pub(super) feature_level: AtomicU32,
    pub(super) downgrade: ArcSwap<Option<String>>,
    pub(super) applied: AtomicU64,
    pub(super) time_ms: AtomicI64,
    pub(super) no_space: AtomicBool,
    /// Raised without a fence: it concerns the whole cluster.
    pub(super) corrupt: AtomicBool,
    pub(super) fences: ArcSwap<Fences>,
}

impl Shared {
    pub fn members(&self) -> Arc<Vec<Member>> {
        self.members.load_full()
    }

    /// True for a member that once belonged to the cluster and was removed.
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.load().contains(&id)
    }

    /// The lowest id among those that were removed.
    pub fn any_removed(&self) -> Option<MemberId> {
        self.removed.load().first().copied()
    }

    /// The recoveries that this cluster has behind it.
    pub fn recoveries(&self) -> Arc<Vec<Recovery>> {
        self.recoveries.load_full()
    }

    /// Every alarm that is on; a fenced member shows as its CORRUPT alarm.
    pub fn alarms(&self) -> Arc<Vec<AlarmEntry>> {
        self.alarms.load_full()
    }

    /// Members that are set aside, and those that were.
    pub fn fences(&self) -> Arc<Fences> {
        self.fences.load_full()
    }

    /// The entry that set a member aside; `None` when none did, or it was taken back.
    pub fn fenced_at(&self, id: MemberId) -> Option<u64> {
        fences::up(&self.fences.load(), id).map(|f| f.index)
    }

    /// An alarm that concerns the whole cluster: a member that is set aside raises none here.
    pub fn has_alarm(&self, kind: AlarmKind) -> bool {
        match kind {
            AlarmKind::Nospace => self.no_space.load(Ordering::Acquire),
            AlarmKind::Corrupt => self.corrupt.load(Ordering::Acquire),
            AlarmKind::None => false,
        }
    }

    pub fn lease(&self, id: LeaseId) -> Option<Lease> {
        self.leases.read().get(id)
    }

    /// Every lease, by id.
    pub fn leases(&self) -> Vec<Lease> {
        self.leases.read().all().collect()
    }

    /// The agreed version of the cluster, `major.minor.patch`; empty before there is one.
    pub fn cluster_version(&self) -> Arc<String> {
        self.cluster_version.load_full()
    }

    /// The feature level that the cluster is at: what may be written.
    pub fn feature_level(&self) -> u32 {
        self.feature_level.load(Ordering::Acquire)
    }

    /// The version that a downgrade is under way to.
    pub fn downgrade(&self) -> Arc<Option<String>> {
        self.downgrade.load_full()
    }

    /// The entry clock, milliseconds since 1970: no change that can be read happened later than what is read here after it.
    pub fn time_ms(&self) -> i64 {
        self.time_ms.load(Ordering::Acquire)
    }

    /// Index of the newest applied entry.
    pub fn applied_index(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }
}
