//! Strangers: members that talk to this one and are not on its list yet.
//!
//! A member that lags does not know who was added since, and one of those may lead: without a way back to it the leader would never
//! hear how far this member is, and this member would lag for ever. In: the greeting of a stream that was let in, with the sender's own
//! addresses. Out: everybody to keep channels to, listed or not.
//! Invariants: the list counts more than a greeting; nobody who was removed is kept; there are never more than a few.

use crate::types::MemberId;
use quorate_proto::state::Member;
use std::collections::BTreeMap;

/// Strangers kept at once: more members than a cluster has are not added while one lags.
const MAX: usize = 16;

/// The strangers that have called, with their addresses.
#[derive(Debug, Default)]
pub struct Strangers(BTreeMap<MemberId, Vec<String>>);

impl Strangers {
    /// Someone was let in, who may be on the list; true when it is a stranger that was not known before under these addresses.
    pub fn meet(&mut self, members: &[Member], id: MemberId, urls: &[String]) -> bool {
        let listed = members.iter().any(|m| m.id == id);
        if listed || urls.is_empty() || (self.0.len() >= MAX && !self.0.contains_key(&id)) {
            return false;
        }
        self.0.insert(id, urls.to_vec()).is_none_or(|before| before != urls)
    }

    /// Everybody but `own` to keep channels to, and where they are. Strangers that are listed or removed by now are forgotten.
    pub fn with_members(
        &mut self,
        members: &[Member],
        is_removed: impl Fn(MemberId) -> bool,
        own: MemberId,
    ) -> BTreeMap<MemberId, Vec<String>> {
        self.0.retain(|id, _| !is_removed(*id) && members.iter().all(|m| m.id != *id));
        let listed = members.iter().map(|m| (m.id, m.peer_urls.clone()));
        self.0.clone().into_iter().chain(listed).filter(|(id, _)| *id != own).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: MemberId) -> Member {
        Member { id, peer_urls: vec![format!("http://m{id}:2380")], ..Default::default() }
    }

    /// A stranger is kept until it is listed, where the list's word counts, or removed; one without addresses is none.
    #[test]
    fn strangers_become_members_or_go() {
        let mut strangers = Strangers::default();
        let urls = |text: &str| vec![text.to_string()];
        let mut members = vec![member(1), member(2)];
        assert!(!strangers.meet(&members, 2, &urls("http://elsewhere:1")), "it is listed");
        assert!(!strangers.meet(&members, 3, &[]));
        assert!(strangers.meet(&members, 3, &urls("http://a:1")) && strangers.meet(&members, 4, &urls("http://b:1")));
        assert!(!strangers.meet(&members, 3, &urls("http://a:1")), "it is known");
        let known = |s: &mut Strangers, m: &[Member]| s.with_members(m, |id| id == 4, 1).into_iter().collect::<Vec<_>>();
        assert_eq!(known(&mut strangers, &members), [(2, member(2).peer_urls), (3, urls("http://a:1"))]);
        members.push(member(3));
        assert_eq!(known(&mut strangers, &members), [(2, member(2).peer_urls), (3, member(3).peer_urls)]);
        members.pop();
        assert_eq!(known(&mut strangers, &members).len(), 1, "who was listed is no stranger any more");
    }

    /// However many call, few are kept.
    #[test]
    fn strangers_are_few() {
        let mut strangers = Strangers::default();
        assert_eq!((1..100).filter(|id| strangers.meet(&[], *id, &[format!("http://m{id}:2380")])).count(), MAX);
    }
}
