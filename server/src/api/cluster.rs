//! `etcdserverpb.Cluster`: the member list and changes to it.
//!
//! In: client messages. Out: calls of [`Membership`], which proposes configuration changes, and the member list as applied.
//! Headers of this service carry no revision, as in etcd.

use std::sync::Arc;

use quorate_proto::{etcdserverpb as pb, state};
use tonic::{Request, Response, Status};

use super::{
    Door, Method,
    door::Learner,
    status::{Refusal, apply_status, propose_status},
};
use crate::{node::ProposeError, state::ApplyError};

/// Changes of members. Each call returns when the change is applied here, with all members as they then are.
#[tonic::async_trait]
pub trait Membership: Send + Sync {
    /// Adds a member at `peer_urls` (checked and sorted) and returns it first.
    async fn add(&self, peer_urls: Vec<String>, learner: bool) -> Result<(state::Member, Vec<state::Member>), MemberError>;

    /// Removes a member for good.
    async fn remove(&self, id: u64) -> Result<Vec<state::Member>, MemberError>;

    /// Replaces a member's peer URLs.
    async fn update(&self, id: u64, peer_urls: Vec<String>) -> Result<Vec<state::Member>, MemberError>;

    /// Makes a learner a voter; asks the leader when this member does not lead.
    async fn promote(&self, id: u64) -> Result<Vec<state::Member>, MemberError>;
}

/// Why members did not change.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// Apply, or the check before the proposal, refused it.
    #[error("{0}")]
    Refused(ApplyError),
    /// It was not agreed on.
    #[error("{0}")]
    NotAgreed(ProposeError),
    /// Too few members have started for the change to be safe.
    #[error("too few members have started")]
    NotEnoughStarted,
    /// This build cannot change members.
    #[error("not capable")]
    NotCapable,
}

impl From<MemberError> for Status {
    fn from(error: MemberError) -> Status {
        match error {
            MemberError::Refused(error) => apply_status(error),
            MemberError::NotAgreed(error) => propose_status(error),
            MemberError::NotEnoughStarted => Refusal::MemberNotEnoughStarted.into(),
            MemberError::NotCapable => Refusal::NotCapable.into(),
        }
    }
}

/// Metadata, with the value `true`, of a caller that may be asking again for what was done already: it counts members and has lost
/// an answer. Whoever does not say so gets etcd's answers, by which a repetition is a conflict.
pub const REPEATABLE: &str = "quorate-repeatable";

fn is_repeatable<M>(request: &Request<M>) -> bool {
    request.metadata().get(REPEATABLE).is_some_and(|v| v == "true")
}

/// A member that an add as this one made before, and that has not started yet. One that started is another matter: its addresses are
/// taken.
async fn added_before(door: &Door, urls: &[String], learner: bool) -> Result<Option<(state::Member, Vec<state::Member>)>, Status> {
    door.barrier().await?;
    let members = door.context.shared.members();
    let same = |m: &&state::Member| m.name.is_empty() && m.learner == learner && m.peer_urls == urls;
    Ok(members.iter().find(same).map(|m| (m.clone(), members.to_vec())))
}

/// Adds a member, or finds the one that the same request added before.
async fn add_once(door: &Door, urls: Vec<String>, learner: bool) -> Result<(state::Member, Vec<state::Member>), Status> {
    // Asked first: the rules that judge a change would count the member that is not started against itself.
    if let Some(found) = added_before(door, &urls, learner).await? {
        return Ok(found);
    }
    match door.context.membership.add(urls.clone(), learner).await {
        // Two that ask at once.
        Err(MemberError::Refused(ApplyError::PeerUrlExists)) => {
            let found = added_before(door, &urls, learner).await?;
            found.ok_or_else(|| MemberError::Refused(ApplyError::PeerUrlExists).into())
        }
        added => added.map_err(Status::from),
    }
}

/// Removes a member, or finds that it was removed.
async fn remove_once(door: &Door, id: u64) -> Result<Vec<state::Member>, Status> {
    door.barrier().await?;
    let shared = &door.context.shared;
    if shared.is_removed(id) {
        return Ok(shared.members().to_vec());
    }
    match door.context.membership.remove(id).await {
        Err(MemberError::Refused(ApplyError::MemberNotFound)) => {
            door.barrier().await?;
            match shared.is_removed(id) {
                true => Ok(shared.members().to_vec()),
                false => Err(MemberError::Refused(ApplyError::MemberNotFound).into()),
            }
        }
        removed => removed.map_err(Status::from),
    }
}

/// The service.
pub struct Cluster(pub Arc<Door>);

fn refuses<M>(_: &M) -> Learner {
    Learner::Refuses
}

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Cluster {
    async fn member_add(&self, request: Request<pb::MemberAddRequest>) -> Result<Response<pb::MemberAddResponse>, Status> {
        let repeatable = is_repeatable(&request);
        self.0
            .unary(Method::MemberAdd, request, refuses, |request| async move {
                let urls = peer_urls(request.peer_urls)?;
                let (member, members) = match repeatable {
                    true => add_once(&self.0, urls, request.is_learner).await?,
                    false => self.0.context.membership.add(urls, request.is_learner).await?,
                };
                Ok(pb::MemberAddResponse {
                    header: Some(self.0.header_bare()),
                    member: Some(member_response(member)),
                    members: member_list(members),
                })
            })
            .await
    }

    async fn member_remove(&self, request: Request<pb::MemberRemoveRequest>) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let repeatable = is_repeatable(&request);
        self.0
            .unary(Method::MemberRemove, request, refuses, |request| async move {
                let members = match repeatable {
                    true => remove_once(&self.0, request.id).await?,
                    false => self.0.context.membership.remove(request.id).await?,
                };
                Ok(pb::MemberRemoveResponse { header: Some(self.0.header_bare()), members: member_list(members) })
            })
            .await
    }

    async fn member_update(&self, request: Request<pb::MemberUpdateRequest>) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.0
            .unary(Method::MemberUpdate, request, refuses, |request| async move {
                // etcd stores what it is given here; a URL no peer could dial would cut the member off, so ours is held to the same rule as add.
                let urls = peer_urls(request.peer_urls)?;
                let members = self.0.context.membership.update(request.id, urls).await?;
                Ok(pb::MemberUpdateResponse { header: Some(self.0.header_bare()), members: member_list(members) })
            })
            .await
    }

    async fn member_list(&self, request: Request<pb::MemberListRequest>) -> Result<Response<pb::MemberListResponse>, Status> {
        self.0.unary(Method::MemberList, request, refuses, |request| members(&self.0, request)).await
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.0
            .unary(Method::MemberPromote, request, refuses, |request| async move {
                let promoted = self.0.context.membership.promote(request.id).await;
                if self.0.context.node.status().is_leader {
                    match &promoted {
                        Ok(_) => self.0.context.metrics.promote_successes.inc(),
                        Err(error) => self.0.context.metrics.promote_failures.with(&[&error.to_string()]).inc(),
                    }
                }
                let members = promoted?;
                Ok(pb::MemberPromoteResponse { header: Some(self.0.header_bare()), members: member_list(members) })
            })
            .await
    }
}

/// Answers the member list: as applied here, or after agreeing with the cluster.
pub async fn members(door: &Door, request: pb::MemberListRequest) -> Result<pb::MemberListResponse, Status> {
    if request.linearizable {
        door.barrier().await?;
    }
    let members = member_list(door.context.shared.members().to_vec());
    Ok(pb::MemberListResponse { header: Some(door.header_bare()), members })
}

fn member_list(members: Vec<state::Member>) -> Vec<pb::Member> {
    members.into_iter().map(member_response).collect()
}

fn member_response(member: state::Member) -> pb::Member {
    pb::Member {
        id: member.id,
        name: member.name,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        is_learner: member.learner,
    }
}

/// At least one URL, each a scheme that peers speak with host and port and no path; sorted, as etcd keeps them.
fn peer_urls(urls: Vec<String>) -> Result<Vec<String>, Refusal> {
    if urls.is_empty() {
        return Err(Refusal::MemberBadUrls);
    }
    let mut urls: Vec<String> = urls.iter().map(|url| url.trim().to_string()).collect();
    if !urls.iter().all(|url| is_peer_url(url)) {
        return Err(Refusal::MemberBadUrls);
    }
    urls.sort();
    Ok(urls)
}

fn is_peer_url(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    match scheme.to_ascii_lowercase().as_str() {
        "unix" | "unixs" => !rest.is_empty(),
        "http" | "https" => {
            let Ok(authority) = rest.parse::<http::uri::Authority>() else { return false };
            authority.port_u16().is_some() && !rest.contains(['?', '#'])
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Peer URLs need a known scheme, a host with a port, and no path.
    #[test]
    fn peer_url_table() {
        for good in ["http://10.0.0.1:2380", "https://kv-0.kv:2380", "http://[::1]:2380", "unix://sock", " http://a:1 "] {
            assert!(peer_urls(vec![good.into()]).is_ok(), "{good}");
        }
        for bad in ["", "10.0.0.1:2380", "http://10.0.0.1", "http://a:2380/x", "ftp://a:1", "http://a:99999", "http://"] {
            assert_eq!(peer_urls(vec![bad.into()]), Err(Refusal::MemberBadUrls), "{bad}");
        }
        assert_eq!(peer_urls(vec![]), Err(Refusal::MemberBadUrls));
        assert_eq!(peer_urls(vec!["http://b:1".into(), "http://a:1".into()]).unwrap(), ["http://a:1", "http://b:1"]);
    }
}
