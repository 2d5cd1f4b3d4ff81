//! The comparison before a member serves: its own history against the other members'.
//!
//! In: the member, open and not running, and the way to its peers. Out: nothing, or the reason for which it must not serve. A peer
//! that cannot answer, or stands elsewhere, is told of in the log and proves nothing.

use super::{Dial, Failure};
use crate::node::Opened;
use crate::peer::ask_hash;
use quorate_proto::peer::HashRefusal;
use std::sync::Arc;
use std::time::Duration;

/// Compares the history of the opened member with that of each peer that answers within `timeout`.
///
/// # Errors
/// When a peer's history differs, or this member's cannot be read. Nothing on disk was changed.
pub async fn compare(opened: &Opened, dial: &Arc<dyn Dial>, timeout: Duration) -> Result<(), Failure> {
    let identity = opened.identity();
    let own = format!("{:x}", identity.member);
    let shared = opened.machine().shared();
    if shared.fenced_at(identity.member).is_some() {
        tracing::warn!(local_member_id = own, "this member is known to differ and is about to be rebuilt; it is not compared");
        return Ok(());
    }
    tracing::info!(local_member_id = own, "starting initial corruption check");
    let mine = opened.store().hash_kv(0).map_err(|e| Failure::new(4, format!("{own} cannot hash its history: {e}")))?;
    let mut differ = 0;
    for member in shared.members().iter().filter(|m| m.id != identity.member) {
        let peer = format!("{:x}", member.id);
        let mut answer = None;
        for url in &member.peer_urls {
            match ask_hash(dial, url, identity.cluster, identity.member, mine.hash_revision, timeout).await {
                Ok(found) => answer = Some(found),
                Err(e) => tracing::warn!(remote_peer_id = peer, url, reason = e.message(), "failed hash kv request"),
            }
            if answer.is_some() {
                break;
            }
        }
        let Some(theirs) = answer else { continue };
        let same_base = theirs.compact_revision == mine.compact_revision;
        match theirs.refusal() {
            HashRefusal::FutureRevision => {
                tracing::warn!(remote_peer_id = peer, "cannot fetch hash from slow remote peer");
            }
            HashRefusal::Compacted => {
                tracing::warn!(remote_peer_id = peer, "cannot fetch hash from remote peer; local member is behind");
            }
            HashRefusal::None if theirs.hash == mine.hash => {}
            HashRefusal::None if same_base => {
                differ += 1;
                tracing::warn!(
                    local_member_id = own,
                    local_member_revision = mine.hash_revision,
                    local_member_compact_revision = mine.compact_revision,
                    local_member_hash = mine.hash,
                    remote_peer_id = peer,
                    remote_peer_hash = theirs.hash,
                    "found different hash values from remote peer"
                );
            }
            HashRefusal::None => {
                tracing::warn!(
                    local_member_compact_revision = mine.compact_revision,
                    remote_peer_compact_revision = theirs.compact_revision,
                    remote_peer_id = peer,
                    "found different compact revision values from remote peer"
                );
            }
        }
    }
    if differ > 0 {
        return Err(Failure::new(4, format!("{own} found data inconsistency with peers")));
    }
    tracing::info!(local_member_id = own, "initial corruption checking passed; no corruption");
    Ok(())
}
