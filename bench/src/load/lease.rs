//! Keepalives: each client holds one lease and one stream, and asks again as soon as it was answered.

use super::{Plan, Tally, Tickets};
use crate::Failure;
use quorate_proto::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, lease_client::LeaseClient};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// Long enough that no lease ends while load runs.
const TTL_SECONDS: i64 = 3600;

pub struct Client {
    id: i64,
    ask: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

pub async fn prepare(_: Arc<Plan>, channel: Channel, _: u64) -> Result<Client, Failure> {
    let mut leases = LeaseClient::new(channel);
    let id = leases.lease_grant(LeaseGrantRequest { ttl: TTL_SECONDS, id: 0 }).await?.into_inner().id;
    let (ask, requests) = mpsc::channel(1);
    // A server may answer the stream's headers with its first message only.
    ask.send(LeaseKeepAliveRequest { id }).await?;
    let mut answers = leases.lease_keep_alive(ReceiverStream::new(requests)).await?.into_inner();
    answers.message().await?.ok_or("the keepalive stream ended at once")?;
    Ok(Client { id, ask, answers })
}

pub async fn client(mut client: Client, tickets: Arc<Tickets>) -> Tally {
    let mut tally = Tally::default();
    let began = tickets.began();
    while let Some(ticket) = tickets.take(began).await {
        if client.ask.send(LeaseKeepAliveRequest { id: client.id }).await.is_err() {
            tally.failed("the keepalive stream closed");
            break;
        }
        match client.answers.message().await {
            Ok(Some(answer)) if answer.ttl > 0 => tally.done(&ticket),
            Ok(Some(_)) => tally.failed("the lease is gone"),
            Ok(None) => {
                tally.failed("the keepalive stream ended");
                break;
            }
            Err(e) => {
                tally.failed(e);
                break;
            }
        }
    }
    tally
}
