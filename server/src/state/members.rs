//! The member list: who belongs to the cluster, under which addresses, and who once did.

use super::outcome::ApplyError;
use crate::base::BaseError;
use crate::base::kind::sys;
use crate::mvcc::Store;
use crate::types::MemberId;
use bytes::Bytes;
use prost::Message;
use quorate_proto::state::{Member, MemberChange, MemberChangeKind};
use std::collections::{BTreeMap, BTreeSet};

/// A refused change of the member list.
pub type MemberRefusal = ApplyError;

/// Members by id; removed ids never come back.
#[derive(Clone, Default, Debug)]
pub(super) struct Members {
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
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

    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
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
                _ if self.removed.contains(&member.id) => Err(ApplyError::MemberNotFound),
                Some(_) => Err(ApplyError::MemberExists),
                None if url_taken() => Err(ApplyError::PeerUrlExists),
                None => Ok(()),
            },
            MemberChangeKind::Remove => known.map(|_| ()).ok_or(ApplyError::MemberNotFound),
            MemberChangeKind::Update if known.is_some() && url_taken() => Err(ApplyError::PeerUrlExists),
            MemberChangeKind::Update => known.map(|_| ()).ok_or(ApplyError::MemberNotFound),
            MemberChangeKind::Promote => match known {
                None => Err(ApplyError::MemberNotFound),
                Some(m) if !m.learner => Err(ApplyError::NotLearner),
                Some(_) => Ok(()),
            },
        }
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
