//! Changes of members, carried to the leader: any member may be asked, one carries them out.
//!
//! In: a change that this member's client asked for. Out: the leader's answer, or that there is no leader to ask. On the leader's side
//! the [`ChangeDesk`] that was attached judges it.

use super::{Inner, MAX_MESSAGE};
use quorate_proto::peer::peer_client::PeerClient;
use quorate_proto::peer::{ChangeRequest, ChangeResponse};
use quorate_proto::state::MemberChange;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// An answer under way.
pub type Changing<'a> = Pin<Box<dyn Future<Output = ChangeResponse> + Send + 'a>>;

/// Carries out changes of members when this member leads.
pub trait ChangeDesk: Send + Sync + 'static {
    /// Judges, proposes and waits until the change is applied here. A member that does not lead says so and proposes nothing.
    fn change(&self, change: MemberChange) -> Changing<'_>;
}

/// Why the leader gave no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoAnswer {
    /// There is no connection to it: it was not asked.
    NotAsked,
    /// It was asked, and the change may happen yet.
    Lost,
}

/// Asks another member to carry a change out.
pub(super) async fn ask(
    inner: &Arc<Inner>,
    leader: u64,
    change: MemberChange,
    timeout: Duration,
) -> Result<ChangeResponse, NoAnswer> {
    let channel = inner.links.load().get(&leader).and_then(|l| l.calls()).ok_or(NoAnswer::NotAsked)?;
    let request = ChangeRequest { cluster: inner.cluster_id, from: inner.member_id, change: Some(change) };
    let mut client = PeerClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    match tokio::time::timeout(timeout, client.change(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => {
            inner.heed(&status);
            tracing::debug!(
                leader = format!("{leader:016x}"),
                reason = status.message(),
                "the leader did not answer a change of members"
            );
            Err(NoAnswer::Lost)
        }
        Err(_) => Err(NoAnswer::Lost),
    }
}
