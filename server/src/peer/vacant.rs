//! Vacant: the peer service of a member that has no cluster yet. It says so to whoever asks who belongs to the cluster, and asks
//! everybody else to come again.

use quorate_proto::peer::peer_server::{Peer, PeerServer};
use quorate_proto::peer::{
    Ack, ChangeRequest, ChangeResponse, Envelope, ForwardRequest, ForwardResponse, HashRequest, HashResponse, LeaseRenewRequest,
    LeaseRenewResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, MembersRequest, MembersResponse, SnapshotChunk,
    SnapshotReceipt,
};
use tokio_stream::Empty;
use tonic::{Request, Response, Status, Streaming};

/// The service; `boot` is this process's random number, by which it knows its own answers.
pub fn vacant(boot: u64) -> PeerServer<Vacant> {
    PeerServer::new(Vacant { boot })
}

/// A member without a cluster.
pub struct Vacant {
    boot: u64,
}

fn later() -> Status {
    Status::unavailable("this member has not joined a cluster yet")
}

#[tonic::async_trait]
impl Peer for Vacant {
    type ControlStream = Empty<Result<Ack, Status>>;
    type AppendStream = Empty<Result<Ack, Status>>;
    type SnapshotStream = Empty<Result<SnapshotReceipt, Status>>;

    async fn control(&self, _: Request<Streaming<Envelope>>) -> Result<Response<Self::ControlStream>, Status> {
        Err(later())
    }

    async fn append(&self, _: Request<Streaming<Envelope>>) -> Result<Response<Self::AppendStream>, Status> {
        Err(later())
    }

    async fn snapshot(&self, _: Request<Streaming<SnapshotChunk>>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(later())
    }

    async fn forward(&self, _: Request<ForwardRequest>) -> Result<Response<ForwardResponse>, Status> {
        Err(later())
    }

    async fn lease_renew(&self, _: Request<LeaseRenewRequest>) -> Result<Response<LeaseRenewResponse>, Status> {
        Err(later())
    }

    async fn lease_time_to_live(&self, _: Request<LeaseTimeToLiveRequest>) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        Err(later())
    }

    async fn change(&self, _: Request<ChangeRequest>) -> Result<Response<ChangeResponse>, Status> {
        Err(later())
    }

    async fn hash(&self, _: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        Err(later())
    }

    async fn members(&self, _: Request<MembersRequest>) -> Result<Response<MembersResponse>, Status> {
        Ok(Response::new(MembersResponse { empty: true, boot: self.boot, ..Default::default() }))
    }
}
