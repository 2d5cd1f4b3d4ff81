//! Recover: what a member's folder holds, read without changing it, and a cluster of one out of it when its cluster is lost for good.
//!
//! In: folders of members that do not run. Out: a [`Survey`] of each; and of one of them a member alone, under a new cluster id, so that
//! those left behind are strangers to it. Entries that the log holds count as committed, as in [`super::alone`].
//! The order of effects: the rows name the recovery, then take up the log and stand alone, durably; the new log waits beside the old one; the identity names
//! the new cluster, which decides; the new log takes its place. A recovery cut short before the decision is carried out again under
//! the same id; after it, the next start puts the log in place.
//! Invariant: a folder whose rows name a recovery that its identity does not know never serves.

use super::NodeSettings;
use super::alone::apply;
use super::apply::configuration;
use super::identity::{Stamp, read_stamped, write_identity};
use super::run::conf_state;
use super::start::{Paths, StartError, open_state, refuse_lost};
use crate::base::{Base, RocksBase};
use crate::env::failpoint::{self, Place};
use crate::env::files::{FileLock, Files};
use crate::mvcc::Store;
use crate::snapshot::folder;
use crate::state::{Machine, Position};
use crate::wal::{Group, HardState, Identity, Replay, SnapshotMark, Wal, renew};
use prost::Message as _;
use quorate_proto::state::{Member, Recovery};
use raft::eraftpb::ConfState;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// What a member's folder holds.
pub struct Survey {
    pub identity: Identity,
    pub stamp: Stamp,
    /// Term and index of the newest entry of the log: the larger, the more the member has.
    pub last: (u64, u64),
    /// The newest entry that the member knew to be committed.
    pub committed: u64,
    /// The newest entry in the durable rows.
    pub applied: u64,
    /// The revision once every entry of the log is applied.
    pub revision: i64,
    /// The newest entry's time, in milliseconds since 1970; 0 before the first write.
    pub written_ms: i64,
    /// The members as the log's end has them.
    pub members: Vec<Member>,
    /// Ids of the voters: as of the durable rows, both halves of a change that was under way there, and as of the log's end; each
    /// once. A write counts as acknowledged by a quorum of one of them.
    pub voters: Vec<Vec<u64>>,
    /// The recoveries behind this data.
    pub recoveries: Vec<Recovery>,
    /// The cluster has found this member's data to differ from the majority's, and they were not rebuilt since.
    pub fenced: bool,
    /// A recovery of this folder that was begun and cut short.
    pub begun: Option<String>,
    /// Keeps others from opening the folder as long as the survey lives.
    _lock: Box<dyn FileLock>,
}

impl Survey {
    /// This member on its own list.
    pub fn own(&self) -> Option<&Member> {
        self.members.iter().find(|m| m.id == self.identity.member)
    }
}

fn no_member() -> StartError {
    StartError::Raft("no member lives there".into())
}

/// Reads a member's folder; nothing in it is changed.
///
/// # Errors
/// As a start on the folder: in use, damaged, foreign, or no member at all.
pub fn survey(settings: &NodeSettings, files: &Arc<dyn Files>) -> Result<Survey, StartError> {
    let (identity, stamp) = read_stamped(&settings.data_dir)?.ok_or_else(no_member)?;
    let paths = Paths::of(settings, "member");
    let (replay, lock) = renew::inspect(&paths.wal, identity, files)?;
    let machine = open_read_only(&paths, settings, &replay)?;
    finish_survey((identity, stamp), replay, machine, lock)
}

/// Reads the rows in use without changing a byte of them. Where the end of their list of files is torn, they also have to fit the log:
/// opening them goes back to before that end, and what was cut off must not have been relied on.
pub(super) fn verify_rows(
    paths: &Paths,
    settings: &NodeSettings,
    identity: Identity,
    files: &Arc<dyn Files>,
) -> Result<(), StartError> {
    if !RocksBase::verify(&folder::current(&paths.dir)?, settings.rocks)? {
        return Ok(());
    }
    let (replay, _lock) = renew::inspect(&paths.wal, identity, files)?;
    open_read_only(paths, settings, &replay).map(drop)
}

fn open_read_only(paths: &Paths, settings: &NodeSettings, replay: &Replay) -> Result<Machine, StartError> {
    let open = |rows: &std::path::Path| -> Result<Machine, StartError> {
        RocksBase::verify(rows, settings.rocks)?;
        let base: Arc<dyn Base> = Arc::new(RocksBase::open_read_only(rows, settings.rocks)?);
        Ok(Machine::open(Arc::new(Store::open(base, settings.delta)?))?)
    };
    let mark = replay.snapshot.as_ref().map_or(0, |s| s.index);
    let mut machine = open(&folder::current(&paths.dir)?)?;
    if machine.position().index < mark
        && let Some(name) = folder::staged(&paths.dir, mark)?
    {
        machine = open(&paths.dir.join(name))?;
    }
    refuse_lost(&machine, replay)?;
    Ok(machine)
}

fn finish_survey(
    (identity, stamp): (Identity, Stamp),
    replay: Replay,
    mut machine: Machine,
    lock: Box<dyn FileLock>,
) -> Result<Survey, StartError> {
    let applied = machine.position();
    let mark = replay.snapshot.as_ref().map_or((0, 0), |s| (s.term, s.index));
    let last = replay.entries.last().map_or(mark.max((applied.term, applied.index)), |e| (e.term, e.index));
    for entry in replay.entries.into_iter().filter(|e| e.index > applied.index) {
        // Into memory alone: nothing is ever made durable here.
        apply(&mut machine, entry)?;
    }
    let conf = conf_state(machine.configuration()?.unwrap_or_default());
    let members = machine.shared().members().to_vec();
    let at_the_end = members.iter().filter(|m| !m.learner).map(|m| m.id).collect();
    let mut voters: Vec<Vec<u64>> = vec![conf.voters, conf.voters_outgoing, at_the_end];
    voters.iter_mut().for_each(|v| v.sort_unstable());
    voters.sort();
    voters.dedup();
    voters.retain(|v| !v.is_empty());
    let recoveries = machine.shared().recoveries().to_vec();
    Ok(Survey {
        identity,
        stamp,
        last,
        committed: replay.hard_state.commit.max(applied.index),
        applied: applied.index,
        revision: machine.store().revision(),
        written_ms: machine.position().time_ms,
        members,
        voters,
        fenced: machine.shared().fenced_at(identity.member).is_some(),
        begun: recoveries.iter().find(|r| r.former == identity.cluster).map(|r| r.id.clone()),
        recoveries,
        _lock: lock,
    })
}

/// What a recovery is asked for with.
#[derive(Clone, Debug, Default)]
pub struct Recovering {
    /// Tells this recovery from others; carried out under the same id again, it is the same one.
    pub id: String,
    /// The member's name from now on; as it was when `None`.
    pub name: Option<String>,
    /// Its peer URLs from now on; as they were when empty.
    pub peer_urls: Vec<String>,
}

/// The id of the cluster that follows on another one by a recovery.
pub fn recovered_cluster(former: u64, id: &str) -> u64 {
    (0u8..)
        .map(|salt| {
            let digest = Sha256::new().chain_update(former.to_be_bytes()).chain_update(id).chain_update([salt]).finalize();
            u64::from_be_bytes(digest[..8].try_into().expect("a digest is longer"))
        })
        // 0 stands for no cluster.
        .find(|cluster| *cluster != 0 && *cluster != former)
        .expect("digests differ")
}

/// Makes the member in a folder a cluster of its own under a new id. Where it then stands, and the new id. A folder that went through
/// this very recovery is left as it is.
///
/// # Errors
/// As a start on the folder would have, and when the member is not on its own list or has none of its cluster's data.
pub fn recover(
    settings: &NodeSettings,
    asked: &Recovering,
    files: &Arc<dyn Files>,
) -> Result<(Option<Position>, Identity), StartError> {
    let (former, mut stamp) = read_stamped(&settings.data_dir)?.ok_or_else(no_member)?;
    let paths = Paths::of(settings, "member");
    renew::settle(&paths.wal, former, files)?;
    if stamp.recovered.contains(&asked.id) {
        return Ok((None, former));
    }
    let own = former.member;
    let identity = Identity { cluster: recovered_cluster(former.cluster, &asked.id), member: own };
    verify_rows(&paths, settings, former, files)?;
    let (wal, replay) = Wal::open(&paths.wal, former, files.clone())?;
    let (position, hard_state) = {
        let (store, mut machine) = open_state(&paths, settings, &replay)?;
        let hard_state = replay.hard_state;
        let begin = machine.position();
        let (term, index) = replay.entries.last().map_or((begin.term, begin.index), |e| (e.term, e.index));
        if index == 0 {
            return Err(StartError::Raft("the member never got any of its cluster's data: there is nothing to recover".into()));
        }
        // Before anything else: rows that went further than what was known to be committed must never serve the old cluster.
        machine.begin_recovery(Recovery {
            former: former.cluster,
            cluster: identity.cluster,
            id: asked.id.clone(),
            member: own,
            index,
            term,
        });
        for entry in replay.entries.into_iter().filter(|e| e.index > begin.index) {
            apply(&mut machine, entry)?;
            if machine.settle(false) {
                store.checkpoint(true)?;
            }
        }
        if !machine.stand_alone_as(own, asked.name.as_deref(), &asked.peer_urls) {
            return Err(StartError::Raft(format!(
                "member {own:016x} is not on its own member list: it was removed, or never joined"
            )));
        }
        let position = machine.position();
        machine.put_configuration(&configuration(&alone(own)));
        machine.settle(true);
        store.checkpoint(true)?;
        (position, hard_state)
    };
    failpoint::visit(Place::RecoverRows);
    wal.close()?;
    let first = Group {
        hard_state: Some(HardState { term: hard_state.term.max(position.term), vote: 0, commit: position.index }),
        snapshot: Some(SnapshotMark { index: position.index, term: position.term, conf: alone(own).encode_to_vec().into() }),
        must_sync: true,
        ..Default::default()
    };
    renew::prepare(&paths.wal, identity, first, files)?;
    failpoint::visit(Place::RecoverLog);
    stamp.recovered.push(asked.id.clone());
    write_identity(&paths.dir, identity, &stamp)?;
    failpoint::visit(Place::RecoverIdentity);
    renew::settle(&paths.wal, identity, files)?;
    Ok((Some(position), identity))
}

fn alone(own: u64) -> ConfState {
    ConfState { voters: vec![own], ..Default::default() }
}
