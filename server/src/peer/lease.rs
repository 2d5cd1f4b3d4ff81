//! Lease questions: only the leader knows how long a lease has left. Asked of any member, answered by the leader.

use super::service::NOT_LEADER;
use super::{Inner, MAX_MESSAGE};
use crate::lease::LeaseTable;
use crate::node::{LeaseView, NodeHandle, ProposeError};
use crate::types::LeaseId;
use bytes::Bytes;
use quorate_proto::peer::peer_client::PeerClient;
use quorate_proto::peer::{LeaseRenewRequest, LeaseTimeToLiveRequest};
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Pause before a question is asked again: a new leader is known within an election.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks the leader, wherever it is. Cheap to clone, usable from any thread with a runtime.
#[derive(Clone)]
pub struct LeaseForwarder {
    inner: Arc<Inner>,
    timeout: Duration,
}

/// The keys attached to a lease, read off the calling thread.
pub(super) async fn keys_of(node: &NodeHandle, id: LeaseId) -> Result<Vec<Bytes>, ProposeError> {
    let store = node.store().clone();
    let read = tokio::task::spawn_blocking(move || LeaseTable::keys(&store, id));
    match read.await {
        Ok(Ok(keys)) => Ok(keys),
        Ok(Err(e)) => {
            tracing::error!(error = %e, "the keys of a lease cannot be read");
            Err(ProposeError::Stopped)
        }
        Err(_) => Err(ProposeError::Stopped),
    }
}

/// What may be asked.
#[derive(Clone, Copy)]
enum Question {
    Renew,
    TimeToLive { keys: bool },
}

type Answer = Option<(LeaseView, Vec<Bytes>)>;

impl LeaseForwarder {
    pub(super) fn new(inner: Arc<Inner>, timeout: Duration) -> Self {
        Self { inner, timeout }
    }

    /// Gives a lease its full time again: its seconds to live, `None` when there is no such lease.
    ///
    /// # Errors
    /// When no leader answered in time.
    pub async fn renew(&self, id: LeaseId) -> Result<Option<i64>, ProposeError> {
        let answer = self.ask(id, Question::Renew).await?;
        Ok(answer.map(|(view, _)| view.remaining))
    }

    /// How long a lease has left and, when asked, its keys; `None` when there is no such lease.
    ///
    /// # Errors
    /// When no leader answered in time.
    pub async fn time_to_live(&self, id: LeaseId, keys: bool) -> Result<Option<(LeaseView, Vec<Bytes>)>, ProposeError> {
        self.ask(id, Question::TimeToLive { keys }).await
    }

    /// Asks whoever leads until there is an answer or the time is over.
    async fn ask(&self, id: LeaseId, question: Question) -> Result<Answer, ProposeError> {
        let deadline = tokio::time::Instant::now() + self.timeout;
        loop {
            match tokio::time::timeout_at(deadline, self.attempt(id, question)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(ProposeError::Stopped)) => return Err(ProposeError::Stopped),
                Ok(Err(e)) if tokio::time::Instant::now() + PAUSE >= deadline => return Err(e),
                Ok(Err(_)) => tokio::time::sleep(PAUSE).await,
                Err(_) => return Err(ProposeError::TimedOut),
            }
        }
    }

    async fn attempt(&self, id: LeaseId, question: Question) -> Result<Answer, ProposeError> {
        let node = self.inner.node.get().ok_or(ProposeError::NoLeader)?;
        let status = node.status();
        if status.is_leader {
            return here(node, id, question).await;
        }
        let channel = self.inner.links.load().get(&status.leader).and_then(|l| l.calls()).ok_or(ProposeError::NoLeader)?;
        self.there(channel, id, question).await
    }

    async fn there(&self, channel: Channel, id: LeaseId, question: Question) -> Result<Answer, ProposeError> {
        let (cluster, from) = (self.inner.cluster_id, self.inner.member_id);
        let mut client = PeerClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        match question {
            Question::Renew => {
                let answer =
                    client.lease_renew(LeaseRenewRequest { cluster, from, ids: vec![id] }).await.map_err(refused)?.into_inner();
                let ttl = answer.ttls.first().copied().unwrap_or_default();
                Ok((ttl > 0).then(|| (LeaseView { granted: ttl, remaining: ttl }, Vec::new())))
            }
            Question::TimeToLive { keys } => {
                let request = LeaseTimeToLiveRequest { cluster, from, id, keys };
                let answer = client.lease_time_to_live(request).await.map_err(refused)?.into_inner();
                let view = LeaseView { granted: answer.granted_ttl, remaining: answer.remaining_ttl };
                Ok(answer.found.then_some((view, answer.keys)))
            }
        }
    }
}

async fn here(node: &NodeHandle, id: LeaseId, question: Question) -> Result<Answer, ProposeError> {
    match question {
        Question::Renew => Ok(node.renew(id).await?.map(|ttl| (LeaseView { granted: ttl, remaining: ttl }, Vec::new()))),
        Question::TimeToLive { keys } => {
            let Some(view) = node.lease(id).await? else { return Ok(None) };
            let keys = if keys { keys_of(node, id).await? } else { Vec::new() };
            Ok(Some((view, keys)))
        }
    }
}

fn refused(status: Status) -> ProposeError {
    match status.code() {
        Code::FailedPrecondition if status.message() == NOT_LEADER => ProposeError::NotLeader,
        _ => ProposeError::TimedOut,
    }
}
