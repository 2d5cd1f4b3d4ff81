//! Level: what the entries and rows of the cluster may hold, and what happens to a build that does not know it.
//!
//! In: the level an entry carries, the rows' own. Out: the level written down, or the reason why this build must not go on. Nothing of
//! a level that is not known is ever passed over: the members that know it would have done it.

use super::Shared;
use crate::base::BaseError;
use crate::base::kind::sys;
use crate::mvcc::Store;
use bytes::Bytes;
use std::sync::atomic::Ordering;

/// The highest feature level this build knows: what entries may hold, and rows. An entry or rows of a higher one stop the member.
///
/// 1: the first. 2: downgrades of the API's version, fences, comparisons of hashes, the digest's second beginning.
/// A cluster's level is that of its newest entries; the leader raises it once every member knows a higher one. Nothing of a level is
/// written before the cluster has it, so that an older program never skips what it does not know.
pub const FEATURE_LEVEL: u32 = 2;
/// The level from which an entry may set a member aside, ask for a hash of the history, or begin the digest anew.
pub const FENCE_LEVEL: u32 = 2;
/// Version of the durable rows' format that this build writes; it reads no later one.
pub(super) const ROWS_FORMAT: u32 = 1;

fn newer(what: &str, found: u32, known: u32) -> BaseError {
    BaseError::Newer(format!("{what} {found}, this build knows {known}: start the member with a newer build"))
}

/// Refuses rows of a later format.
pub(super) fn check_format(found: u32) -> Result<(), BaseError> {
    if found > ROWS_FORMAT {
        return Err(newer("the rows have format", found, ROWS_FORMAT));
    }
    Ok(())
}

/// The level that the rows are at; 1 where none was ever written down.
pub(super) fn load(store: &Store) -> Result<u32, BaseError> {
    let Some(row) = store.sys_get(&sys::single(sys::FEATURE_LEVEL))? else { return Ok(1) };
    let bytes = row.as_ref().try_into().map_err(|_| BaseError::Corrupt("the feature level's row".into()))?;
    match u32::from_be_bytes(bytes) {
        level if level > FEATURE_LEVEL => Err(newer("the cluster is at feature level", level, FEATURE_LEVEL)),
        level => Ok(level.max(1)),
    }
}

/// Takes the level that an entry carries: a higher one is the cluster's from here on.
pub(super) fn take(store: &Store, shared: &Shared, index: u64, level: u32) -> Result<(), BaseError> {
    if level > FEATURE_LEVEL {
        return Err(newer(&format!("entry {index} is of feature level"), level, FEATURE_LEVEL));
    }
    if level > shared.feature_level() {
        store.put_sys(sys::single(sys::FEATURE_LEVEL), Some(Bytes::copy_from_slice(&level.to_be_bytes())));
        shared.feature_level.store(level, Ordering::Release);
    }
    Ok(())
}

/// What a command is that this build does not know.
pub(super) fn unknown_command(index: u64) -> BaseError {
    BaseError::Newer(format!("entry {index} holds a command that this build does not know: start the member with a newer build"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::MemBase;
    use crate::mvcc::DeltaPolicy;
    use crate::state::Machine;
    use prost::Message;
    use quorate_proto::entry::{Batch, ClusterVersion, Command, Proposal, command::Op};
    use quorate_proto::state::Applied;
    use std::sync::Arc;

    fn machine(base: &Arc<MemBase>) -> Result<Machine, BaseError> {
        let policy = DeltaPolicy { freeze_bytes: 1 << 20, inline: false };
        Machine::open(Arc::new(Store::open(base.clone(), policy)?))
    }

    fn entry(version: u32, command: Command) -> Bytes {
        let proposals = vec![Proposal { command: Some(command), ..Default::default() }];
        Batch { version, time_ms: 1, proposals }.encode_to_vec().into()
    }

    fn known() -> Command {
        Command { op: Some(Op::ClusterVersion(ClusterVersion { version: "3.7.0".into() })) }
    }

    fn stops(result: Result<impl Sized, BaseError>, why: &str) {
        match result.err() {
            Some(BaseError::Newer(text)) => assert!(text.contains(why), "{text}"),
            other => panic!("{other:?}"),
        }
    }

    /// The level follows the entries upwards and is found again; what is beyond this build stops the member, at the entry and at the
    /// next start.
    #[test]
    fn what_a_newer_build_wrote_stops_the_member() {
        let base = Arc::new(MemBase::default());
        let mut m = machine(&base).unwrap();
        assert_eq!(m.shared().feature_level(), 1);
        m.apply(1, 1, entry(1, known()), |_, _| {}).unwrap();
        assert_eq!(m.shared().feature_level(), 1);
        m.apply(2, 1, entry(2, known()), |_, _| {}).unwrap();
        m.apply(3, 1, entry(1, known()), |_, _| {}).unwrap();
        assert_eq!(m.shared().feature_level(), 2, "it never falls");
        stops(m.apply(4, 1, entry(FEATURE_LEVEL + 1, known()), |_, _| {}), "entry 4 is of feature level 3");
        stops(m.apply(4, 1, entry(2, Command::default()), |_, _| {}), "entry 4 holds a command");
        m.settle(true);
        m.store().checkpoint(true).unwrap();
        assert_eq!(machine(&base).unwrap().shared().feature_level(), 2);

        m.store().put_sys(sys::single(sys::FEATURE_LEVEL), Some(Bytes::copy_from_slice(&9u32.to_be_bytes())));
        m.settle(true);
        m.store().checkpoint(true).unwrap();
        stops(machine(&base), "the cluster is at feature level 9");
        let later = Applied { index: 4, format: ROWS_FORMAT + 1, revision: 1, ..Default::default() };
        m.store().put_sys(sys::single(sys::APPLIED), Some(later.encode_to_vec().into()));
        m.store().freeze();
        m.store().checkpoint(true).unwrap();
        stops(machine(&base), "the rows have format 2");
    }
}
