//! The machine: applies committed entries one after the other.

use super::digest;
use super::fences::{self, Fence};
use super::members::Members;
use super::outcome::{AlarmEntry, Answer, ApplyError, Outcome, op_name};
use super::shared::Shared;
use super::{level, txn};
use crate::base::BaseError;
use crate::base::kind::sys;
use crate::env::plant::{self, Plant};
use crate::lease::{Lease, LeaseTable};
use crate::mvcc::{ReadError, RevisionEvents, Store, WriteTxn};
use crate::types::{KeyRange, LeaseId};
use bytes::Bytes;
use prost::Message;
use quorate_proto::entry::{self, AlarmAction, AlarmKind, command::Op};
use quorate_proto::state::{self as rows, Member, MemberChange, MemberChangeKind, Recovery};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The largest time to live a lease may have, in seconds; etcd's bound.
const MAX_LEASE_TTL: i64 = 9_000_000_000;

/// Where the machine stands in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    pub index: u64,
    pub term: u64,
    /// The newest entry time, in milliseconds since the Unix epoch, monotone.
    pub time_ms: i64,
    /// Running checksum of every change since it began; equal on members that applied the same entries. 0: none yet.
    pub digest: u128,
}

/// The answer to a proposal, addressed.
#[derive(Clone, Debug)]
pub struct EntryResult {
    pub origin: u64,
    pub sequence: u64,
    pub answer: Answer,
}

/// A change of the lease table that the leader's clock must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseChange {
    Granted { id: LeaseId, ttl: i64 },
    Revoked { id: LeaseId },
}

/// What an entry did.
#[derive(Default, Debug)]
pub struct Applied {
    pub results: Vec<EntryResult>,
    pub events: Vec<RevisionEvents>,
    pub leases: Vec<LeaseChange>,
    /// The compaction mark moved here.
    pub compacted: Option<i64>,
    /// A hash of the history as it is after the entry.
    pub hash: Option<HashWanted>,
    /// The digest began anew.
    pub digest_begun: bool,
}

/// What a hash is to cover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashWanted {
    pub revision: i64,
    /// The compaction mark at that time.
    pub compacted: i64,
}

/// A refusal is an outcome; a failing disk or corrupt rows end the member.
pub(super) enum Refusal {
    Refused(ApplyError),
    Fatal(BaseError),
}

impl From<ApplyError> for Refusal {
    fn from(e: ApplyError) -> Self {
        Refusal::Refused(e)
    }
}

impl From<BaseError> for Refusal {
    fn from(e: BaseError) -> Self {
        Refusal::Fatal(e)
    }
}

impl From<ReadError> for Refusal {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::Compacted => Refusal::Refused(ApplyError::Compacted),
            ReadError::FutureRevision => Refusal::Refused(ApplyError::FutureRevision),
            ReadError::Corrupt(text) => Refusal::Fatal(BaseError::Corrupt(text)),
            ReadError::Io(text) => Refusal::Fatal(BaseError::Io(text)),
        }
    }
}

/// The replicated machine of one member.
pub struct Machine {
    store: Arc<Store>,
    shared: Arc<Shared>,
    members: Members,
    position: Position,
}

impl Machine {
    /// Takes up the machine where the durable rows left it.
    pub fn open(store: Arc<Store>) -> Result<Self, BaseError> {
        let shared = Arc::new(Shared::default());
        let mut machine = Self { store, shared, members: Members::default(), position: Position::default() };
        machine.reload()?;
        Ok(machine)
    }

    /// Takes everything from the store again: a snapshot has put other rows there.
    pub fn reload(&mut self) -> Result<(), BaseError> {
        let store = self.store.clone();
        self.position = match store.sys_get(&sys::single(sys::APPLIED))? {
            Some(row) => {
                let row = rows::Applied::decode(row).map_err(|e| BaseError::Corrupt(format!("applied position: {e}")))?;
                level::check_format(row.format)?;
                let digest = row.digest.as_ref().try_into().map(u128::from_be_bytes).unwrap_or_default();
                let digest = if row.digest_format == digest::FORMAT { digest } else { 0 };
                Position { index: row.index, term: row.term, time_ms: row.time_ms, digest }
            }
            None => Position::default(),
        };
        self.members = Members::load(&store)?;
        *self.shared.leases.write() = LeaseTable::load(&store)?;
        if let Some(version) = store.sys_get(&sys::single(sys::CLUSTER_VERSION))? {
            self.shared.cluster_version.store(Arc::new(String::from_utf8_lossy(&version).into_owned()));
        }
        self.shared.fences.store(Arc::new(fences::load(&store)?));
        self.shared.feature_level.store(level::load(&store)?, Ordering::Release);
        let downgrade = store.sys_get(&sys::single(sys::DOWNGRADE))?.map(|v| String::from_utf8_lossy(&v).into_owned());
        self.shared.downgrade.store(Arc::new(downgrade));
        self.publish_members();
        self.publish_alarms()?;
        self.shared.time_ms.store(self.position.time_ms, Ordering::Release);
        self.shared.applied.store(self.position.index, Ordering::Release);
        Ok(())
    }

    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub fn position(&self) -> Position {
        self.position
    }

    /// Flips a bit of the digest: what a simulation does to the applied state.
    pub(crate) fn flip_digest(&mut self, bit: u32) {
        self.position.digest ^= 1 << (bit % u128::BITS);
    }

    /// Gives a fresh machine its founding members, at the log position where the cluster's log begins.
    pub fn found(&mut self, members: Vec<Member>, index: u64, term: u64) {
        for member in members {
            self.members.put(&self.store, member);
        }
        self.moved(index, term, self.position.time_ms);
        self.publish_members();
    }

    fn moved(&mut self, index: u64, term: u64, time_ms: i64) {
        self.position.index = index;
        self.position.term = term;
        self.position.time_ms = self.position.time_ms.max(time_ms);
        self.shared.applied.store(index, Ordering::Release);
    }

    /// Applies a normal entry. Empty data is a leader's first entry and moves the position alone. `ran` is told of each command when
    /// it is done: its name, and whether it was not refused.
    pub fn apply(
        &mut self,
        index: u64,
        term: u64,
        data: Bytes,
        mut ran: impl FnMut(&'static str, bool),
    ) -> Result<Applied, BaseError> {
        assert!(index > self.position.index, "entry {index} applied after {}", self.position.index);
        let mut applied = Applied::default();
        if data.is_empty() {
            self.moved(index, term, 0);
            return Ok(applied);
        }
        let batch = entry::Batch::decode(data).map_err(|e| BaseError::Corrupt(format!("entry {index}: {e}")))?;
        level::take(&self.store, &self.shared, index, batch.version)?;
        self.position.time_ms = self.position.time_ms.max(batch.time_ms);
        // Before the first change shows, so that nothing shows which is newer than the clock.
        self.shared.time_ms.store(self.position.time_ms, Ordering::Release);
        let mut proposals = batch.proposals;
        if plant::is(Plant::ApplyTwice) && index.is_multiple_of(61) {
            proposals.extend(proposals.clone());
        }
        for proposal in proposals {
            let op = proposal.command.and_then(|c| c.op);
            let name = op.as_ref().map_or("", op_name);
            let result = match op {
                // Passed over it would be done on the members that know it and not on this one.
                None => return Err(level::unknown_command(index)),
                Some(op) => match self.run(index, op, &mut applied) {
                    Ok(outcome) => Ok(outcome),
                    Err(Refusal::Refused(e)) => Err(e),
                    Err(Refusal::Fatal(e)) => return Err(e),
                },
            };
            ran(name, result.is_ok());
            let answer = Answer { revision: self.store.revision(), term, result };
            applied.results.push(EntryResult { origin: proposal.origin, sequence: proposal.sequence, answer });
        }
        self.moved(index, term, 0);
        Ok(applied)
    }

    fn run(&mut self, index: u64, op: Op, applied: &mut Applied) -> Result<Outcome, Refusal> {
        self.refuse_under_alarm(&op)?;
        match op {
            Op::Put(put) => {
                txn::check_put(&self.store, &self.shared.leases.read(), &put, self.store.revision())?;
                let store = self.store.clone();
                let mut write = store.write();
                let prev = txn::run_put(&mut write, &put)?;
                txn::count(&self.store, &[txn::put_steps(&put)]);
                self.finish(write, applied);
                Ok(Outcome::Put { prev })
            }
            Op::DeleteRange(d) => {
                let store = self.store.clone();
                let mut write = store.write();
                let (deleted, prev) = txn::run_delete(&mut write, &d.key, &d.range_end, d.prev_kv)?;
                txn::count(&self.store, &[txn::delete_steps(&d)]);
                self.finish(write, applied);
                Ok(Outcome::DeleteRange { deleted, prev })
            }
            Op::Txn(t) => {
                let store = self.store.clone();
                let mut write = store.write();
                let outcome = txn::run_txn(&self.store, &self.shared.leases.read(), &mut write, &t)?;
                let (compares, steps) = txn::walked(&t, &outcome);
                txn::count(&self.store, &[compares, steps]);
                self.finish(write, applied);
                Ok(Outcome::Txn(outcome))
            }
            Op::Range(q) => Ok(Outcome::Range(self.store.range(&q)?)),
            Op::Compact(c) => {
                self.store.compact(c.revision)?;
                self.position.digest = digest::compacted(self.position.digest, c.revision);
                applied.compacted = Some(c.revision);
                Ok(Outcome::Compact)
            }
            Op::LeaseGrant(g) => self.grant(g, applied),
            Op::LeaseRevoke(r) => self.revoke(&r.ids, applied),
            Op::LeaseCheckpoint(c) => {
                let mut leases = self.shared.leases.write();
                for change in &c.leases {
                    if let Some(lease) = leases.get(change.id) {
                        leases.put(&self.store, Lease { remaining: change.remaining_ttl, ..lease });
                    }
                }
                Ok(Outcome::LeaseCheckpoint)
            }
            Op::Alarm(a) => self.alarm(index, &a),
            Op::Fence(f) => self.fence(index, &f),
            Op::DigestBegin(_) => {
                self.position.digest = digest::begun(index);
                applied.digest_begun = true;
                Ok(Outcome::Done)
            }
            Op::HashCheck(_) => {
                let wanted = HashWanted { revision: self.store.revision(), compacted: self.store.compact_revision() };
                applied.hash = Some(wanted);
                Ok(Outcome::Done)
            }
            Op::MemberAttributes(m) => {
                self.members.set_attributes(&self.store, m.member, m.name, m.client_urls);
                self.publish_members();
                Ok(Outcome::Done)
            }
            Op::ClusterVersion(v) => {
                self.store.put_sys(sys::single(sys::CLUSTER_VERSION), Some(v.version.clone().into()));
                self.shared.cluster_version.store(Arc::new(v.version));
                Ok(Outcome::Done)
            }
            Op::Downgrade(d) => {
                let target = Some(d.target).filter(|t| !t.is_empty());
                self.store.put_sys(sys::single(sys::DOWNGRADE), target.clone().map(Into::into));
                self.shared.downgrade.store(Arc::new(target));
                Ok(Outcome::Done)
            }
            Op::Auth(_) => Err(ApplyError::AuthNotEnabled.into()),
        }
    }

    /// Without space nothing may grow; in a corrupt cluster nothing may change.
    fn refuse_under_alarm(&self, op: &Op) -> Result<(), Refusal> {
        if self.shared.has_alarm(AlarmKind::Corrupt) {
            match op {
                Op::Put(_) | Op::DeleteRange(_) | Op::Txn(_) | Op::Range(_) | Op::Compact(_) => {
                    return Err(ApplyError::Corrupt.into());
                }
                Op::LeaseGrant(_) | Op::LeaseRevoke(_) => return Err(ApplyError::Corrupt.into()),
                _ => {}
            }
        }
        if self.shared.has_alarm(AlarmKind::Nospace) {
            match op {
                Op::Put(_) | Op::LeaseGrant(_) => return Err(ApplyError::NoSpace.into()),
                Op::Txn(t) if txn::has_put(t) => return Err(ApplyError::NoSpace.into()),
                _ => {}
            }
        }
        Ok(())
    }

    fn finish(&mut self, write: WriteTxn, applied: &mut Applied) {
        let (events, attachments) = write.finish();
        LeaseTable::attach(&self.store, &attachments);
        if let Some(events) = events {
            self.position.digest = digest::events(self.position.digest, &events);
            applied.events.push(events);
        }
    }

    fn grant(&mut self, g: entry::LeaseGrant, applied: &mut Applied) -> Result<Outcome, Refusal> {
        if g.ttl > MAX_LEASE_TTL {
            return Err(ApplyError::LeaseTtlTooLarge.into());
        }
        let mut leases = self.shared.leases.write();
        if g.id == 0 || leases.get(g.id).is_some() {
            return Err(ApplyError::LeaseExists.into());
        }
        leases.put(&self.store, Lease { id: g.id, ttl: g.ttl, remaining: 0, granted_at_ms: self.position.time_ms });
        self.position.digest = digest::granted(self.position.digest, g.id, g.ttl);
        applied.leases.push(LeaseChange::Granted { id: g.id, ttl: g.ttl });
        Ok(Outcome::LeaseGrant { id: g.id, ttl: g.ttl })
    }

    /// Revokes leases with all their keys. A client's revoke names one and is refused when it is unknown; the leader's names all
    /// that ran out, and those already gone are passed over.
    fn revoke(&mut self, ids: &[LeaseId], applied: &mut Applied) -> Result<Outcome, Refusal> {
        let mut revoked = 0;
        for &id in ids {
            if self.shared.leases.read().get(id).is_none() {
                continue;
            }
            let keys = LeaseTable::keys(&self.store, id)?;
            let store = self.store.clone();
            let mut write = store.write();
            let leaves = if plant::is(Plant::LeaseLeavesKey) { 1 } else { 0 };
            for key in keys.into_iter().skip(leaves) {
                write.delete_range(&KeyRange { start: key, end: crate::types::RangeEnd::Single })?;
            }
            self.finish(write, applied);
            self.shared.leases.write().remove(&self.store, id);
            self.position.digest = digest::revoked(self.position.digest, id);
            applied.leases.push(LeaseChange::Revoked { id });
            revoked += 1;
        }
        if revoked == 0 { Err(ApplyError::LeaseNotFound.into()) } else { Ok(Outcome::LeaseRevoke) }
    }

    /// Sets a member aside or takes it back. One that is no member is passed over.
    fn fence(&mut self, index: u64, command: &entry::Fence) -> Result<Outcome, Refusal> {
        let known = self.shared.fences().get(&command.member).copied();
        let is_member = self.shared.members().iter().any(|m| m.id == command.member);
        if let Some(fence) = fences::changed(known, command, index).filter(|_| is_member) {
            self.put_fence(command.member, Some(fence));
            self.publish_alarms()?;
        }
        Ok(Outcome::Done)
    }

    fn put_fence(&self, member: u64, fence: Option<Fence>) {
        let mut all = self.shared.fences().as_ref().clone();
        match fence {
            Some(fence) => all.insert(member, fence),
            None => all.remove(&member),
        };
        fences::put(&self.store, member, fence);
        self.shared.fences.store(Arc::new(all));
    }

    fn alarm(&mut self, index: u64, a: &entry::Alarm) -> Result<Outcome, Refusal> {
        let before = self.shared.alarms();
        let touched: Vec<AlarmEntry> = match a.action() {
            AlarmAction::Raise if a.kind() == AlarmKind::None => Vec::new(),
            AlarmAction::Raise => {
                self.store.put_sys(sys::alarm(a.kind, a.member), Some(Bytes::new()));
                vec![AlarmEntry { member: a.member, kind: a.kind() }]
            }
            AlarmAction::Clear => {
                let wanted = |e: &&AlarmEntry| {
                    (a.member == 0 || e.member == a.member) && (a.kind() == AlarmKind::None || e.kind == a.kind())
                };
                let gone: Vec<_> = before.iter().filter(wanted).copied().collect();
                for e in &gone {
                    self.store.put_sys(sys::alarm(e.kind as i32, e.member), None);
                    if e.kind == AlarmKind::Corrupt && self.shared.fenced_at(e.member).is_some() {
                        // Whoever clears it answers for it; when the member still differs, the leader finds it again.
                        self.put_fence(e.member, Some(Fence { index, lifted: true }));
                    }
                }
                gone
            }
        };
        self.publish_alarms()?;
        Ok(Outcome::Alarm(touched))
    }

    fn publish_alarms(&self) -> Result<(), BaseError> {
        let (lower, upper) = sys::tag_range(sys::ALARM);
        let mut alarms = Vec::new();
        for (key, _) in self.store.sys_scan(&lower, &upper, usize::MAX)? {
            let (kind, member) = sys::alarm_of(&key).ok_or_else(|| BaseError::Corrupt("an alarm row".into()))?;
            alarms.push(AlarmEntry { member, kind: AlarmKind::try_from(kind).unwrap_or(AlarmKind::None) });
        }
        let on = |kind| alarms.iter().any(|a: &AlarmEntry| a.kind == kind);
        self.shared.no_space.store(on(AlarmKind::Nospace), Ordering::Release);
        self.shared.corrupt.store(on(AlarmKind::Corrupt), Ordering::Release);
        alarms.extend(fences::alarms(&self.shared.fences()));
        alarms.sort_unstable_by_key(|a| (a.kind, a.member));
        alarms.dedup();
        self.shared.alarms.store(Arc::new(alarms));
        Ok(())
    }

    fn publish_members(&self) {
        self.shared.removed.store(Arc::new(self.members.removed().clone()));
        self.shared.recoveries.store(Arc::new(self.members.recoveries().to_vec()));
        self.shared.members.store(Arc::new(self.members.list()));
    }

    /// Applies a change of the member list. The caller gives raft the change only when [`Machine::check_change`] allowed it.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub fn apply_change(&mut self, index: u64, term: u64, change: Option<MemberChange>) -> Result<Option<EntryResult>, BaseError> {
        self.moved(index, term, 0);
        let Some(change) = change else { return Ok(None) };
        let gone = (change.kind() == MemberChangeKind::Remove).then(|| change.member.as_ref().map_or(0, |m| m.id));
        let (origin, sequence) = (change.origin, change.sequence);
        let result = self.members.check(&change).map(|()| {
            self.members.change(&self.store, change);
            self.publish_members();
            Outcome::Members(self.members.list())
        });
        if let Some(id) = gone.filter(|_| result.is_ok()) {
            self.forget_fence(id)?;
        }
        Ok(Some(EntryResult { origin, sequence, answer: Answer { revision: self.store.revision(), term, result } }))
    }

    /// A member that is gone has no fence either.
    fn forget_fence(&self, member: u64) -> Result<(), BaseError> {
        if self.shared.fences().contains_key(&member) {
            self.put_fence(member, None);
            self.publish_alarms()?;
        }
        Ok(())
    }

    /// Whether a change of the member list may be made.
    pub fn check_change(&self, change: &MemberChange) -> Result<(), ApplyError> {
        self.members.check(change)
    }

    /// Leaves one member on the list, as a voter, and puts the others among those removed. False when it is not on the list.
    pub fn stand_alone(&mut self, own: u64) -> bool {
        let found = self.members.keep_only(&self.store, own);
        self.forget_fences();
        self.publish_members();
        found
    }

    /// Alone, nobody is left to differ from.
    fn forget_fences(&mut self) {
        for member in self.shared.fences().keys() {
            self.put_fence(*member, None);
        }
    }

    /// Writes a recovery down that is about to be carried out.
    pub fn begin_recovery(&mut self, recovery: Recovery) {
        self.members.put_recovery(&self.store, recovery);
        self.publish_members();
    }

    /// Leaves a member alone, as [`Machine::stand_alone`], under the name and addresses given where they are. False when it is not on
    /// the list.
    pub fn stand_alone_as(&mut self, own: u64, name: Option<&str>, peer_urls: &[String]) -> bool {
        if !self.members.keep_only(&self.store, own) {
            return false;
        }
        if let Some(mut member) = self.members.list().into_iter().next() {
            member.name = name.map_or(member.name, str::to_string);
            if !peer_urls.is_empty() {
                member.peer_urls = peer_urls.to_vec();
            }
            self.members.put(&self.store, member);
        }
        self.forget_fences();
        self.publish_members();
        true
    }

    /// Keeps raft's configuration beside the members.
    pub fn put_configuration(&self, configuration: &rows::Configuration) {
        self.store.put_sys(sys::single(sys::CONFIGURATION), Some(configuration.encode_to_vec().into()));
    }

    /// Raft's configuration as of the applied position.
    pub fn configuration(&self) -> Result<Option<rows::Configuration>, BaseError> {
        let row = self.store.sys_get(&sys::single(sys::CONFIGURATION))?;
        row.map(|r| rows::Configuration::decode(r).map_err(|e| BaseError::Corrupt(format!("configuration row: {e}")))).transpose()
    }

    /// Writes the applied position beside the rows and freezes the delta when it is large enough, or when asked; true when frozen.
    pub fn settle(&self, force: bool) -> bool {
        if !force && !self.store.wants_freeze() {
            return false;
        }
        let p = self.position;
        let row = rows::Applied {
            index: p.index + u64::from(p.index > 1 && plant::is(Plant::CheckpointAhead)),
            term: p.term,
            revision: self.store.revision(),
            digest: Bytes::copy_from_slice(&p.digest.to_be_bytes()),
            format: level::ROWS_FORMAT,
            time_ms: p.time_ms,
            digest_format: digest::FORMAT,
        };
        self.store.put_sys(sys::single(sys::APPLIED), Some(row.encode_to_vec().into()));
        self.store.freeze()
    }
}
