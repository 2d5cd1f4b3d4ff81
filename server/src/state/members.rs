//! The member list: who belongs to the cluster, under which addresses, and who once did.

use super::outcome::ApplyError;
use crate::base::BaseError;
use crate::base::kind::sys;
use crate::env::plant::{self, Plant};
use crate::mvcc::Store;
use crate::types::MemberId;
use bytes::Bytes;
use prost::Message;
use quorate_proto::state::{Member, MemberChange, MemberChangeKind, Recovery};
use std::collections::{BTreeMap, BTreeSet};

/// A refused change of the member list.
pub type MemberRefusal = ApplyError;

/// Members by id; removed ids never come back.
#[derive(Clone, Default, Debug)]
pub(super) struct Members {
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
    recoveries: Vec<Recovery>,
}

impl Members {
    pub fn load(store: &Store) -> Result<Self, BaseError> {
        let mut out = Self::default();
        let (lower, upper) = sys::tag_range(sys::MEMBER);
        for (_, row) in store.sys_scan(&lower, &upper, usize::MAX)? {
            let member = Member::decode(row).map_err(|e| BaseError::Corrupt(format!("a member row: {e}")))?;
            out.members.insert(member.id, member);
        }
        let (lower, upper) = sys::tag_range(sys::REMOVED_MEMBER);
        for (key, _) in store.sys_scan(&lower, &upper, usize::MAX)? {
            out.removed.insert(sys::id_of(&key).ok_or_else(|| BaseError::Corrupt("a removed member's row".into()))?);
        }
        let (lower, upper) = sys::tag_range(sys::RECOVERY);
        for (_, row) in store.sys_scan(&lower, &upper, usize::MAX)? {
            out.recoveries.push(Recovery::decode(row).map_err(|e| BaseError::Corrupt(format!("a recovery's row: {e}")))?);
        }
        Ok(out)
    }

    /// Sorted by id.
    pub fn list(&self) -> Vec<Member> {
        self.members.values().cloned().collect()
    }

    pub fn put(&mut self, store: &Store, member: Member) {
        store.put_sys(sys::member(member.id), Some(member.encode_to_vec().into()));
        self.members.insert(member.id, member);
    }

    /// Ids that were removed; none ever comes back.
    pub fn removed(&self) -> &BTreeSet<MemberId> {
        &self.removed
    }

    /// The recoveries that the cluster has behind it.
    pub fn recoveries(&self) -> &[Recovery] {
        &self.recoveries
    }

    /// Writes down that the cluster went on under another id; told again it is the same one.
    pub fn put_recovery(&mut self, store: &Store, recovery: Recovery) {
        store.put_sys(sys::recovery(recovery.former), Some(recovery.encode_to_vec().into()));
        self.recoveries.retain(|r| r.former != recovery.former);
        self.recoveries.push(recovery);
    }

    /// A member tells its name and where clients find it; unknown members are ignored (they may have been removed meanwhile).
    pub fn set_attributes(&mut self, store: &Store, id: MemberId, name: String, client_urls: Vec<String>) {
        if let Some(mut member) = self.members.get(&id).cloned() {
            member.name = name;
            member.client_urls = client_urls;
            self.put(store, member);
        }
    }

    /// Whether a change may be made to the list as it stands.
    pub fn check(&self, change: &MemberChange) -> Result<(), MemberRefusal> {
        let Some(member) = &change.member else {
            return Err(ApplyError::Internal("a member change without a member".into()));
        };
        let known = self.members.get(&member.id);
        let url_taken = || {
            let others = self.members.values().filter(|m| m.id != member.id);
            others.flat_map(|m| &m.peer_urls).any(|url| member.peer_urls.contains(url))
        };
        match change.kind() {
            MemberChangeKind::Add | MemberChangeKind::AddLearner => match known {
                _ if self.removed.contains(&member.id) && !plant::is(Plant::MemberIdTwice) => Err(ApplyError::MemberNotFound),
                Some(_) => Err(ApplyError::MemberExists),
                None if url_taken() => Err(ApplyError::PeerUrlExists),
                None if change.kind() == MemberChangeKind::AddLearner && self.too_many_learners(change) => {
                    Err(ApplyError::TooManyLearners)
                }
                None => Ok(()),
            },
            MemberChangeKind::Remove => match known {
                None => Err(ApplyError::MemberNotFound),
                // A cluster without a voter could never do anything again.
                Some(m) if !m.learner && self.voters() == 1 => Err(ApplyError::Unhealthy),
                Some(_) => Ok(()),
            },
            MemberChangeKind::Update if known.is_some() && url_taken() => Err(ApplyError::PeerUrlExists),
            MemberChangeKind::Update => known.map(|_| ()).ok_or(ApplyError::MemberNotFound),
            MemberChangeKind::Promote => match known {
                None => Err(ApplyError::MemberNotFound),
                Some(m) if !m.learner => Err(ApplyError::NotLearner),
                Some(_) => Ok(()),
            },
        }
    }

    /// Forgets every member but one, which votes from now on; false, and nothing changed, when it is not a member.
    pub fn keep_only(&mut self, store: &Store, own: MemberId) -> bool {
        let Some(member) = self.members.get(&own).cloned() else { return false };
        let others: Vec<MemberId> = self.members.keys().copied().filter(|id| *id != own).collect();
        for id in others {
            let gone = Member { id, ..Default::default() };
            self.change(store, MemberChange { kind: MemberChangeKind::Remove.into(), member: Some(gone), ..Default::default() });
        }
        self.put(store, Member { learner: false, ..member });
        true
    }

    fn voters(&self) -> usize {
        self.members.values().filter(|m| !m.learner).count()
    }

    fn too_many_learners(&self, change: &MemberChange) -> bool {
        let learners = self.members.len() - self.voters();
        change.max_learners.is_some_and(|most| learners >= most as usize)
    }

    /// Makes a change that [`Members::check`] allowed.
    pub fn change(&mut self, store: &Store, change: MemberChange) {
        let kind = change.kind();
        let Some(mut member) = change.member else { return };
        match kind {
            MemberChangeKind::Add | MemberChangeKind::AddLearner => {
                member.learner = kind == MemberChangeKind::AddLearner;
                self.put(store, member);
            }
            MemberChangeKind::Remove => {
                store.put_sys(sys::member(member.id), None);
                store.put_sys(sys::removed_member(member.id), Some(Bytes::new()));
                self.members.remove(&member.id);
                self.removed.insert(member.id);
            }
            MemberChangeKind::Update => {
                if let Some(mut known) = self.members.get(&member.id).cloned() {
                    known.peer_urls = member.peer_urls;
                    self.put(store, known);
                }
            }
            MemberChangeKind::Promote => {
                if let Some(mut known) = self.members.get(&member.id).cloned() {
                    known.learner = false;
                    self.put(store, known);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, learner: bool) -> Member {
        Member { id, learner, peer_urls: vec![format!("http://m{id}:2380")], ..Default::default() }
    }

    fn members(list: &[(u64, bool)], removed: &[u64]) -> Members {
        Members {
            members: list.iter().map(|(id, learner)| (*id, member(*id, *learner))).collect(),
            removed: removed.iter().copied().collect(),
            recoveries: Vec::new(),
        }
    }

    fn change(kind: MemberChangeKind, member: Member) -> MemberChange {
        MemberChange { kind: kind.into(), member: Some(member), max_learners: Some(1), ..Default::default() }
    }

    /// The rules every member applies alike: ids and addresses are unique, removed ids stay gone, learners are bounded, and the last
    /// voter stays.
    #[test]
    fn rules_of_change() {
        use MemberChangeKind::*;
        let list = members(&[(1, false), (2, true)], &[9]);
        assert_eq!(list.check(&change(Add, member(3, false))), Ok(()));
        assert_eq!(list.check(&change(Add, member(1, false))), Err(ApplyError::MemberExists));
        assert_eq!(list.check(&change(Add, member(9, false))), Err(ApplyError::MemberNotFound));
        let taken = Member { id: 4, ..member(2, false) };
        assert_eq!(list.check(&change(Add, taken.clone())), Err(ApplyError::PeerUrlExists));
        assert_eq!(list.check(&change(AddLearner, member(3, true))), Err(ApplyError::TooManyLearners));
        let unbound = MemberChange { max_learners: None, ..change(AddLearner, member(3, true)) };
        assert_eq!(list.check(&unbound), Ok(()), "entries of before there was a bound apply as they did");
        assert_eq!(list.check(&change(Remove, member(1, false))), Err(ApplyError::Unhealthy));
        assert_eq!(list.check(&change(Remove, member(2, false))), Ok(()));
        assert_eq!(list.check(&change(Remove, member(9, false))), Err(ApplyError::MemberNotFound));
        assert_eq!(list.check(&change(Promote, member(2, false))), Ok(()));
        assert_eq!(list.check(&change(Promote, member(1, false))), Err(ApplyError::NotLearner));
        assert_eq!(list.check(&change(Update, Member { id: 1, ..member(2, false) })), Err(ApplyError::PeerUrlExists));
        assert_eq!(list.check(&change(Update, member(1, false))), Ok(()));
        assert_eq!(list.check(&change(Update, member(7, false))), Err(ApplyError::MemberNotFound));
    }
}
