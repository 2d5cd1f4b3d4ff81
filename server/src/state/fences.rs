//! Fences: members set aside because their data differ from the majority's.
//!
//! In: the commands by which the leader raises and lifts fences, and removals of members. Out: rows, and the map that other threads
//! read. A fence concerns its member alone: the others go on. A lifted one leaves a row behind, so that what the member said of its
//! state before it was rebuilt is known for old, by every later leader too.

use super::outcome::AlarmEntry;
use crate::base::BaseError;
use crate::base::kind::sys;
use crate::mvcc::Store;
use crate::types::MemberId;
use prost::Message;
use quorate_proto::entry::{self, AlarmKind, FenceAction};
use quorate_proto::state::FenceRow;
use std::collections::BTreeMap;

/// What the cluster holds of one member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fence {
    /// The entry that raised it, or lifted it.
    pub index: u64,
    pub lifted: bool,
}

/// Every member that is or was fenced.
pub type Fences = BTreeMap<MemberId, Fence>;

/// The fence that keeps a member aside; `None` when it has none, or its last one was lifted.
pub fn up(fences: &Fences, member: MemberId) -> Option<Fence> {
    fences.get(&member).copied().filter(|f| !f.lifted)
}

/// Reads the rows.
pub(super) fn load(store: &Store) -> Result<Fences, BaseError> {
    let (lower, upper) = sys::tag_range(sys::FENCE);
    let mut fences = Fences::new();
    for (key, row) in store.sys_scan(&lower, &upper, usize::MAX)? {
        let id = sys::id_of(&key).ok_or_else(|| BaseError::Corrupt("the key of a fence".into()))?;
        let row = FenceRow::decode(row).map_err(|e| BaseError::Corrupt(format!("the fence of member {id:016x}: {e}")))?;
        fences.insert(id, Fence { index: row.index, lifted: row.lifted });
    }
    Ok(fences)
}

/// What becomes of a member's fence by a command in the entry at `index`; `None` when nothing does. A command about an older fence
/// than the one that stands comes too late.
pub(super) fn changed(known: Option<Fence>, command: &entry::Fence, index: u64) -> Option<Fence> {
    let up = known.filter(|f| !f.lifted);
    match (command.action(), up) {
        (FenceAction::Raise, None) if command.since == 0 => Some(Fence { index, lifted: false }),
        (FenceAction::Raise, Some(f)) if command.since == f.index => Some(Fence { index, lifted: false }),
        (FenceAction::Lift, Some(f)) if command.since == f.index => Some(Fence { index, lifted: true }),
        _ => None,
    }
}

/// Writes a member's fence down, or forgets it.
pub(super) fn put(store: &Store, member: MemberId, fence: Option<Fence>) {
    let row = fence.map(|f| FenceRow { index: f.index, lifted: f.lifted }.encode_to_vec().into());
    store.put_sys(sys::fence(member), row);
}

/// The fences that are up, as alarms.
pub(super) fn alarms(fences: &Fences) -> impl Iterator<Item = AlarmEntry> {
    let up = fences.iter().filter(|(_, f)| !f.lifted);
    up.map(|(member, _)| AlarmEntry { member: *member, kind: AlarmKind::Corrupt })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(action: FenceAction, since: u64) -> entry::Fence {
        entry::Fence { action: action.into(), member: 7, since }
    }

    /// A fence is raised once, raised again and lifted only by those who mean the one that stands, and may be raised anew after it
    /// was lifted.
    #[test]
    fn only_the_fence_that_stands_is_changed() {
        use FenceAction::{Lift, Raise};
        let up = Some(Fence { index: 9, lifted: false });
        assert_eq!(changed(None, &command(Raise, 0), 9), up);
        assert_eq!(changed(up, &command(Raise, 0), 11), None, "two leaders said the same");
        assert_eq!(changed(up, &command(Raise, 9), 12), Some(Fence { index: 12, lifted: false }));
        assert_eq!(changed(up, &command(Lift, 8), 12), None);
        let lifted = changed(up, &command(Lift, 9), 12);
        assert_eq!(lifted, Some(Fence { index: 12, lifted: true }));
        assert_eq!(changed(lifted, &command(Lift, 12), 13), None);
        assert_eq!(changed(lifted, &command(Raise, 9), 13), None, "it was lifted meanwhile");
        assert_eq!(changed(lifted, &command(Raise, 0), 14), Some(Fence { index: 14, lifted: false }));
    }
    /// Who is left alone, in one way or the other, has nobody to differ from: no fence is left, its own not either.
    #[test]
    fn alone_there_is_no_fence() {
        use crate::base::MemBase;
        use crate::mvcc::{DeltaPolicy, Store};
        use crate::state::Machine;
        use quorate_proto::state::Member;
        use std::sync::Arc;

        for recovered in [false, true] {
            let policy = DeltaPolicy { freeze_bytes: 1 << 20, inline: false };
            let store = Arc::new(Store::open(Arc::new(MemBase::default()), policy).unwrap());
            for id in [1, 2] {
                put(&store, id, Some(Fence { index: 9, lifted: id == 2 }));
            }
            let mut machine = Machine::open(store.clone()).unwrap();
            machine.found(vec![Member { id: 1, ..Default::default() }, Member { id: 2, ..Default::default() }], 1, 1);
            assert_eq!(machine.shared().fences().len(), 2);
            assert!(if recovered { machine.stand_alone_as(1, None, &[]) } else { machine.stand_alone(1) });
            assert!(machine.shared().fences().is_empty());
            assert!(load(&store).unwrap().is_empty(), "nor at the next start");
        }
    }
}
