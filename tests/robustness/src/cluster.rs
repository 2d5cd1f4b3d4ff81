//! The cluster as a whole: whether it has come to rest, and whether its members are alike.

use crate::ground::{Ground, MEMBERS};
use crate::member::{Members, endpoint, leader, status};
use crate::traffic::Shared;
use quorate_client::Client;
use quorate_proto::etcdserverpb as pb;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Longest that members may take to be up, led and caught up once a fault is over.
const SETTLES: Duration = Duration::from_secs(90);

/// What faults work on.
pub struct Cluster {
    pub ground: Ground,
    pub members: Members,
    pub shared: Arc<Shared>,
    /// The build under test, and the older one of a rolling upgrade.
    pub builds: Builds,
}

/// Programs to run.
pub struct Builds {
    pub newer: PathBuf,
    pub older: Option<PathBuf>,
}

impl Cluster {
    pub fn all(&self) -> &Client {
        &self.shared.all
    }

    /// Waits until every member runs, votes, follows the same leader and has applied what the leader had when the wait began.
    pub async fn settle(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let mut target = None;
        let mut why = String::new();
        while began.elapsed() < SETTLES {
            for at in 0..MEMBERS {
                if let Some(end) = self.members.ended(at) {
                    // Started again, so that the run can go on; that it ended is a failure all the same.
                    self.shared.book.violation(format!("member {} ended by itself: {end}", at + 1));
                    self.members.start(&self.ground, at, true)?;
                }
            }
            match self.unsettled(&mut target).await {
                None => return Ok(()),
                Some(reason) => why = reason,
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(format!("not settled after {} s: {why}", SETTLES.as_secs()))
    }

    async fn unsettled(&self, target: &mut Option<u64>) -> Option<String> {
        let Some(leader) = leader(self.all()).await else { return Some("no leader".into()) };
        if target.is_none() {
            *target = status(self.all(), leader).await.map(|s| s.raft_index);
        }
        let mut known = None;
        for at in 0..MEMBERS {
            let Some(s) = status(self.all(), at).await else { return Some(format!("member {} does not answer", at + 1)) };
            if s.is_learner {
                return Some(format!("member {} is a learner", at + 1));
            }
            if s.leader == 0 || *known.get_or_insert(s.leader) != s.leader {
                return Some(format!("member {} follows {:x}", at + 1, s.leader));
            }
            if target.is_none_or(|t| s.raft_applied_index < t) {
                return Some(format!("member {} has applied {} of {target:?}", at + 1, s.raft_applied_index));
            }
        }
        None
    }

    /// Compares the members' hashes of their keys and history at one revision.
    pub async fn compare(&self) -> Result<(), String> {
        'again: for _ in 0..50 {
            let revision = self.shared.book.with(|p| p.history.head());
            let mut first: Option<(u32, i64)> = None;
            for at in 0..MEMBERS {
                let Some(client) = self.all().only(&endpoint(at)) else { continue };
                let answer = client.timeout(Some(Duration::from_secs(10))).hash_kv(pb::HashKvRequest { revision }).await;
                let hash = match answer {
                    Ok(a) => (a.hash, a.compact_revision),
                    // Compacted meanwhile, or not there yet.
                    Err(_) => {
                        sleep(Duration::from_millis(100)).await;
                        continue 'again;
                    }
                };
                let known = *first.get_or_insert(hash);
                if known.1 != hash.1 {
                    continue 'again;
                }
                if known.0 != hash.0 {
                    return Err(format!(
                        "at revision {revision} member 1 has the hash {:08x}, member {} {:08x}",
                        known.0,
                        at + 1,
                        hash.0
                    ));
                }
            }
            return Ok(());
        }
        Err("the members' hashes could not be read at one revision".into())
    }

    /// Compares what a member holds with the history; asked when nobody writes.
    pub async fn holds(&self, at: usize) -> Result<(), String> {
        let Some(client) = self.all().only(&endpoint(at)) else { return Ok(()) };
        let request = pb::RangeRequest { key: b"\0".as_slice().into(), range_end: b"\0".as_slice().into(), ..Default::default() };
        let answer =
            client.timeout(Some(Duration::from_secs(20))).range(request).await.map_err(|e| format!("member {}: {e}", at + 1))?;
        let revision = answer.header.as_ref().map_or(0, |h| h.revision);
        let pairs: Vec<_> = answer.kvs.iter().map(|p| p.decode().unwrap_or_default()).collect();
        // The observers may be a moment behind.
        for _ in 0..200 {
            if self.shared.book.with(|p| p.history.head() >= revision) {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.shared.book.with(|p| {
            let model: Vec<_> = p.history.pairs(revision, |_| true).into_iter().cloned().collect();
            let alike = model == pairs && revision <= p.history.head();
            alike
                .then_some(())
                .ok_or_else(|| format!("member {} ends at revision {revision} otherwise than the history says", at + 1))
        })
    }
}
