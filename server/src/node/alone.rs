//! Alone: makes a cluster of one out of a member whose cluster is lost (`--force-new-cluster`). The member must not run.
//!
//! In: a member's folder. Out: the same folder, whose rows hold everything its log held, whose only member is this one, and whose log
//! begins there. Entries that the log holds count as committed: one of them may have been acknowledged by the others, and keeping what
//! was never acknowledged does no harm.
//! Invariant: the rows are durable before the log is told; a crash in between leaves a member that starts, alone or as before.

use super::NodeSettings;
use super::apply::configuration;
use super::identity::read_identity;
use super::log_store::from_log;
use super::recover::verify_rows;
use super::start::{Paths, StartError, open_state, refuse_half_recovered};
use crate::base::BaseError;
use crate::env::files::Files;
use crate::state::{Machine, Position};
use crate::wal::{Group, HardState, LogEntry, SnapshotMark, Wal, renew};
use prost::Message as _;
use quorate_proto::state::MemberChange;
use raft::eraftpb::{ConfChangeV2, ConfState, EntryType};
use std::sync::Arc;

/// Rewrites a member's folder as a cluster of that member alone; what is alone already is left as it is. Where it then stands.
///
/// # Errors
/// As a start on the folder would have, and when the member is not on its own list.
pub fn stand_alone(settings: &NodeSettings, files: &Arc<dyn Files>) -> Result<Position, StartError> {
    let identity = read_identity(&settings.data_dir)?
        .ok_or_else(|| StartError::Raft("no member lives in the data directory: there is nothing to make a cluster of".into()))?;
    let paths = Paths::of(settings, "member");
    // A recovery may have ended between writing down the new identity and putting its log in place.
    renew::settle(&paths.wal, identity, files)?;
    // To open the rows cuts a torn end off their list of files: not before it is seen that nothing relied on what goes.
    verify_rows(&paths, settings, identity, files)?;
    let (mut wal, replay) = Wal::open(&paths.wal, identity, files.clone())?;
    let (store, mut machine) = open_state(&paths, settings, &replay)?;
    refuse_half_recovered(&machine, identity, settings)?;
    let alone = ConfState { voters: vec![identity.member], ..Default::default() };
    let members = machine.shared().members();
    let only_us = members.len() == 1 && members[0].id == identity.member;
    if only_us && machine.configuration()? == Some(configuration(&alone)) {
        return Ok(machine.position());
    }
    let hard_state = replay.hard_state;
    for entry in replay.entries {
        if entry.index <= machine.position().index {
            continue;
        }
        apply(&mut machine, entry)?;
        if machine.settle(false) {
            store.checkpoint(true)?;
        }
    }
    if !machine.stand_alone(identity.member) {
        let own = identity.member;
        return Err(StartError::Raft(format!("member {own:016x} is not on its own member list: it was removed, or never joined")));
    }
    machine.put_configuration(&configuration(&alone));
    machine.settle(true);
    store.checkpoint(true)?;
    let position = machine.position();
    let group = Group {
        hard_state: Some(HardState { term: hard_state.term.max(position.term), vote: hard_state.vote, commit: position.index }),
        snapshot: Some(SnapshotMark { index: position.index, term: position.term, conf: alone.encode_to_vec().into() }),
        must_sync: true,
        ..Default::default()
    };
    wal.append(&[group])?;
    wal.close()?;
    Ok(position)
}

/// Applies an entry as the apply thread would, but for raft's part in a change of members.
pub(super) fn apply(machine: &mut Machine, entry: LogEntry) -> Result<(), BaseError> {
    let entry = from_log(entry);
    if entry.get_entry_type() == EntryType::EntryNormal {
        return machine.apply(entry.index, entry.term, entry.data, |_, _| {}).map(|_| ());
    }
    let corrupt = |e: prost::DecodeError| BaseError::Corrupt(format!("a configuration change: {e}"));
    let change = ConfChangeV2::decode(entry.data).map_err(corrupt)?;
    let member = match change.context.is_empty() {
        true => None,
        false => Some(MemberChange::decode(change.context).map_err(corrupt)?),
    };
    machine.apply_change(entry.index, entry.term, member)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::files::RealFiles;
    use crate::node::start::tests::settings;
    use crate::node::{Founding, Opened};
    use quorate_proto::state::Member;

    /// A list of files that is damaged where it was relied on is refused and stays as it is: somebody may still mend it.
    #[test]
    fn a_damaged_list_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let founding =
            Founding { cluster_id: 1, member_id: 7, members: vec![Member { id: 7, ..Default::default() }], ..Default::default() };
        drop(Opened::open(settings(dir.path()), Some(&founding), RealFiles::shared()).unwrap());
        let rows = dir.path().join("member/db");
        let list = rows.join(std::fs::read_to_string(rows.join("CURRENT")).unwrap().trim_end());
        let mut bytes = std::fs::read(&list).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&list, &bytes).unwrap();
        assert!(stand_alone(&settings(dir.path()), &RealFiles::shared()).is_err());
        assert_eq!(std::fs::read(&list).unwrap(), bytes);
    }
}
