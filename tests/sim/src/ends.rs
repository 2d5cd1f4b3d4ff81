//! Whether the members end alike and as the model says, and whether the cluster has come to rest.

use crate::agreed::History;
use crate::check::{Seen, clients, pair};
use crate::world::World;
use bytes::Bytes;
use quorate::mvcc::{ReadError, Store};
use quorate_proto::entry::Range;
use quorate_proto::mvccpb::KeyValue;

/// Finds what does not follow and writes it down as violations.
pub fn check(world: &mut World) {
    let seen = Seen { history: &world.history, operations: &world.operations, leases: &world.leases.all };
    let mut found = clients(&seen);
    members(world, &mut found);
    world.check_members(&mut found);
    for text in found.into_iter().take(10) {
        world.violation(text);
    }
}

/// The members in the end: equal to each other and to the model.
fn members(world: &World, found: &mut Vec<String>) {
    let history = &world.history;
    let head = history.head();
    let model: Vec<KeyValue> = history.pairs(head, |_| true).into_iter().cloned().collect();
    let mut first = None;
    let listed = world.listed();
    for (at, member) in world.members.iter().enumerate() {
        let Some(running) = member.running.as_ref().filter(|_| listed.iter().any(|m| m.id == member.id)) else { continue };
        let store = running.node.handle().store();
        let all = Range { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0"), ..Default::default() };
        match store.range(&all) {
            Ok(result) => {
                let pairs: Vec<_> = result.kvs.iter().map(pair).collect();
                if pairs != model || result.revision != head {
                    found.push(format!(
                        "member {at} ends at revision {} with {pairs:?}, it is {head} with {model:?}",
                        result.revision
                    ));
                }
            }
            Err(e) => found.push(format!("member {at} cannot be read: {e}")),
        }
        if !world.may_be_unfound(at) {
            past(at, store, history, found);
        }
        let leases = running.node.handle().shared().leases();
        let state = (store.hash_kv(head).map(|h| h.hash), store.compact_revision(), running.node.digest(), store.quota_usage());
        if !leases.is_empty() {
            found.push(format!("member {at} ends with leases that nobody kept alive: {leases:?}"));
        }
        match &first {
            None => first = Some(state),
            Some(known) if *known == state => {}
            Some(known) => found.push(format!("member {at} ends as {state:?}, another as {known:?}")),
        }
    }
    if let Some(p) = model.iter().find(|p| p.lease != 0) {
        found.push(format!("a key has outlived its lease: {p:?}"));
    }
}

/// What a member has of the past: every revision that is not compacted, and none that is.
fn past(at: usize, store: &Store, history: &History, found: &mut Vec<String>) {
    let compacted = store.compact_revision();
    let everything = |revision: i64| Range {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        revision,
        ..Default::default()
    };
    if compacted > 1 && store.range(&everything(compacted - 1)) != Err(ReadError::Compacted) {
        found.push(format!("member {at} reads revision {}, it is compacted up to {compacted}", compacted - 1));
    }
    for revision in compacted.max(1)..=history.head() {
        let pairs = store.range(&everything(revision)).map(|r| r.kvs.iter().map(pair).collect::<Vec<_>>());
        let model: Vec<KeyValue> = history.pairs(revision, |_| true).into_iter().cloned().collect();
        if pairs.as_ref() != Ok(&model) {
            return found.push(format!("member {at} ends with revision {revision} as {pairs:?}, it was {model:?}"));
        }
    }
}

impl World {
    /// Why the cluster is not at rest; `None` when it is.
    pub fn unsettled(&self) -> Option<String> {
        let mut applied = None;
        let stands: Vec<_> = self.members.iter().map(|m| m.running.as_ref().map(|r| r.node.handle().status())).collect();
        if !self.operator.rests() {
            return Some("the operator is not done".into());
        }
        let listed = self.listed();
        if listed.is_empty() {
            return Some("nobody knows the members".into());
        }
        for row in listed.iter() {
            let Some(at) = self.index_of(row.id) else { return Some(format!("nobody is member {:016x}", row.id)) };
            let member = &self.members[at];
            let Some(running) = &member.running else { return Some(format!("member {at} is down")) };
            let status = running.node.handle().status();
            if status.leader == 0 {
                return Some(format!("member {at} knows no leader"));
            }
            let shared = running.node.handle().shared();
            if !shared.alarms().is_empty() {
                return Some(format!("member {at} knows of alarms: {:?}", shared.alarms()));
            }
            let leases = shared.leases();
            if !leases.is_empty() {
                return Some(format!("member {at} has leases, {stands:?}: {leases:?}"));
            }
            let store = running.node.handle().store();
            if store.swept_revision() < store.compact_revision() {
                return Some(format!("member {at} has not swept up to its compaction mark"));
            }
            let stands = (status.applied_index, status.raft_index);
            if status.applied_index != status.raft_index || *applied.get_or_insert(stands) != stands {
                return Some(format!("member {at} stands at {stands:?}, another at {applied:?}"));
            }
        }
        for (at, member) in self.members.iter().enumerate() {
            let Some(running) = &member.running else { continue };
            let own = running.node.handle().shared().members();
            // One whose whole list is gone finds nobody who could tell it.
            if listed.iter().all(|m| m.id != member.id) && listed.iter().any(|m| own.iter().any(|o| o.id == m.id)) {
                return Some(format!("member {at} was removed and still runs"));
            }
        }
        if !self.watchers_are_done() {
            return Some(format!(
                "a watcher waits: {:?} of {}",
                self.watchers.iter().map(|w| w.next()).collect::<Vec<_>>(),
                self.history.head()
            ));
        }
        if !self.sharers_are_done() {
            return Some("a watch on a shared stream waits".into());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;
    use crate::world::SECOND;

    /// A world whose clients have written for a while, and which is at rest.
    fn at_rest(seed: u64) -> World {
        let mut world = World::new(Settings { seed, members: 3, seconds: 5, trace: false });
        (0..3).for_each(|at| world.start(at));
        world.add_clients(6);
        world.run_until(12 * SECOND);
        assert_eq!(world.violations, Vec::<String>::new());
        world
    }

    fn past_of(world: &World, history: &History) -> Vec<String> {
        let mut found = Vec::new();
        let running = world.members[0].running.as_ref().expect("nothing stopped it");
        past(0, running.node.handle().store(), history, &mut found);
        found
    }

    /// A member's past is compared revision by revision: one that has another's is found.
    #[test]
    fn a_past_that_is_not_the_models_is_found() {
        let (one, other) = (at_rest(1), at_rest(2));
        assert!(one.history.head() > 20, "{}", one.history.head());
        assert_eq!(past_of(&one, &one.history), Vec::<String>::new());
        assert_eq!(past_of(&one, &other.history).len(), 1);
    }
}
