//! Founding: an empty folder becomes a member's.
//!
//! In: who founds the cluster, the settings. Out: a folder with identity, log and rows, made whole or not at all.

use super::apply::configuration;
use super::identity::{Stamp, write_identity};
use super::start::{NodeSettings, Paths, StartError, io, open_rows};
use crate::env::failpoint::{self, Place};
use crate::env::files::Files;
use crate::mvcc::Store;
use crate::state::Machine;
use crate::wal::{Group, HardState as LogHardState, Identity, SnapshotMark, Wal};
use prost::Message as _;
use quorate_proto::state::Member;
use raft::eraftpb::ConfState;
use std::path::Path;
use std::sync::Arc;

/// How an empty folder becomes a member. The founding of a cluster is the same on each of its first members.
#[derive(Clone, Debug, Default)]
pub struct Founding {
    pub cluster_id: u64,
    pub member_id: u64,
    /// The first members; of a cluster that is joined, its members as one of them told.
    pub members: Vec<Member>,
    /// The cluster exists already and lists this member: everything comes from there.
    pub joins: bool,
    pub stamp: Stamp,
}

impl Founding {
    /// Who joins has no vote and no say before the cluster's own log tells it the configuration.
    pub(super) fn conf_state(&self) -> ConfState {
        let counts = |learner: bool| {
            let members = self.members.iter().filter(|m| !self.joins && m.learner == learner);
            members.map(|m| m.id).collect()
        };
        ConfState { voters: counts(false), learners: counts(true), ..Default::default() }
    }
}

/// What a founding member's log begins with. The cluster's log begins after a snapshot that every founding member makes for itself,
/// so that one that starts empty later can only join by a real snapshot.
pub(super) fn first_group(conf: &ConfState) -> Group {
    Group {
        hard_state: Some(LogHardState { term: 1, vote: 0, commit: 1 }),
        snapshot: Some(SnapshotMark { index: 1, term: 1, conf: conf.encode_to_vec().into() }),
        must_sync: true,
        ..Default::default()
    }
}

/// Writes the rows that a founding member begins with, durably.
pub(super) fn found_rows(store: &Arc<Store>, founding: &Founding, conf: &ConfState) -> Result<(), StartError> {
    let mut machine = Machine::open(store.clone())?;
    machine.put_configuration(&configuration(conf));
    // The members of a cluster that is joined are written down as well: this one must be able to answer them before it has their rows.
    let begin = u64::from(!founding.joins);
    machine.found(founding.members.clone(), begin, begin);
    machine.settle(true);
    store.checkpoint(true)?;
    Ok(())
}

/// Makes a new member's log and rows where there are none, without a folder round them: for a simulation.
pub(super) fn found_in_place(
    founding: &Founding,
    dir: &Path,
    files: Arc<dyn Files>,
    options: crate::wal::Options,
    store: &Arc<Store>,
) -> Result<(), StartError> {
    let conf = founding.conf_state();
    let identity = Identity { cluster: founding.cluster_id, member: founding.member_id };
    let mut wal = Wal::create_with(dir, identity, files, options)?;
    if !founding.joins {
        wal.append(&[first_group(&conf)])?;
    }
    wal.close()?;
    found_rows(store, founding, &conf)
}

/// Writes a founding member's files and gives the folder its name. `rows` may put rows into the folder it is told first.
pub(super) fn found(
    settings: &NodeSettings,
    founding: &Founding,
    files: &Arc<dyn Files>,
    rows: impl FnOnce(&Path) -> Result<(), StartError>,
) -> Result<(), StartError> {
    let new = Paths::of(settings, "member.new");
    // Left over from a start that was cut short; nothing in it was ever acknowledged.
    match std::fs::remove_dir_all(&new.dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(&new.dir)(e)),
        _ => {}
    }
    files.create_dir(&new.dir).map_err(io(&new.dir))?;
    let conf = founding.conf_state();
    let identity = Identity { cluster: founding.cluster_id, member: founding.member_id };
    let mut wal = match settings.wal_dir {
        // A log in a folder of its own is not under the name that comes last: one without entries was left by a start cut short.
        Some(_) if Wal::exists(&new.wal, files).map_err(io(&new.wal))? => {
            let (wal, replay) = Wal::open(&new.wal, identity, files.clone())?;
            if !replay.entries.is_empty() {
                let why = "it holds the log of a member whose data directory is gone".into();
                return Err(StartError::BadIdentity { path: new.wal.clone(), why });
            }
            wal
        }
        _ => Wal::create(&new.wal, identity, files.clone())?,
    };
    if !founding.joins {
        wal.append(&[first_group(&conf)])?;
    }
    wal.close()?;
    rows(&new.db())?;
    failpoint::visit(Place::FoundLog);
    let store = open_rows(&new.db(), settings)?;
    found_rows(&store, founding, &conf)?;
    drop(store);
    write_identity(&new.dir, identity, &founding.stamp)?;
    let real = Paths::of(settings, "member");
    failpoint::visit(Place::FoundBeforeRename);
    std::fs::rename(&new.dir, &real.dir).map_err(io(&real.dir))?;
    failpoint::visit(Place::FoundAfterRename);
    std::fs::File::open(&settings.data_dir).and_then(|f| f.sync_all()).map_err(io(&settings.data_dir))
}
