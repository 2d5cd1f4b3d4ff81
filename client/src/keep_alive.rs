//! Keeping a lease alive.
//!
//! In: a lease id. Out: one answer for each renewal, a third of the lease's time apart. A lost connection is replaced until the
//! lease must have run out by our own clock; after that [`Error::LeaseLost`].

use std::time::Duration;

use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::client::Client;
use crate::error::{Error, Result};

/// An open keep-alive stream for one lease. Made by [`Client::keep_alive`].
#[derive(Debug)]
pub struct KeepAlive {
    client: Client,
    id: i64,
    stream: Option<(mpsc::Sender<LeaseKeepAliveRequest>, Streaming<LeaseKeepAliveResponse>)>,
    next: Instant,
    /// When the lease is over unless it is renewed; of a lease that others granted it is unknown before the first answer.
    expires: Option<Instant>,
}

impl KeepAlive {
    /// Waits until a renewal is due, renews, and gives the answer. The first one is due at once. Not polling this future is not
    /// renewing.
    pub async fn next(&mut self) -> Result<LeaseKeepAliveResponse> {
        sleep_until(self.next).await;
        let answer = match self.expires {
            Some(expires) => timeout_at(expires, self.renew()).await.map_err(|_| Error::LeaseLost)??,
            None => self.renew().await?,
        };
        if answer.ttl <= 0 {
            return Err(Error::LeaseLost);
        }
        let now = Instant::now();
        let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
        self.next = now + ttl / 3;
        self.expires = Some(now + ttl);
        Ok(answer)
    }

    async fn renew(&mut self) -> Result<LeaseKeepAliveResponse> {
        loop {
            match self.ask().await {
                Err(error) if error.code() == Some(Code::Unavailable) || matches!(error, Error::Closed) => {
                    self.stream = None;
                    sleep(Duration::from_millis(100)).await;
                }
                Err(Error::Server { code: Code::Unknown | Code::Cancelled | Code::Internal, .. }) => {
                    self.stream = None;
                    sleep(Duration::from_millis(100)).await;
                }
                answer => return answer,
            }
        }
    }

    async fn ask(&mut self) -> Result<LeaseKeepAliveResponse> {
        let id = self.id;
        match &mut self.stream {
            Some((requests, answers)) => {
                requests.send(LeaseKeepAliveRequest { id }).await.map_err(|_| Error::Closed)?;
                answers.message().await?.ok_or(Error::Closed)
            }
            None => {
                let (requests, mut answers) = self.client.keep_alive_stream(id).await?;
                let answer = answers.message().await?.ok_or(Error::Closed)?;
                self.stream = Some((requests, answers));
                Ok(answer)
            }
        }
    }
}

impl Client {
    /// Prepares to keep a lease alive; nothing is sent before [`KeepAlive::next`] is called.
    pub fn keep_alive(&self, id: i64) -> KeepAlive {
        KeepAlive { client: self.clone(), id, stream: None, next: Instant::now(), expires: None }
    }

    /// The same for a lease that is known to last until `expires` if it is not renewed.
    pub(crate) fn keep_alive_until(&self, id: i64, expires: Instant) -> KeepAlive {
        KeepAlive { expires: Some(expires), ..self.keep_alive(id) }
    }

    /// Renews a lease once. [`Error::LeaseLost`] when there is no such lease.
    pub async fn keep_alive_once(&self, id: i64) -> Result<LeaseKeepAliveResponse> {
        self.keep_alive(id).next().await
    }

    async fn keep_alive_stream(&self, id: i64) -> Result<(mpsc::Sender<LeaseKeepAliveRequest>, Streaming<LeaseKeepAliveResponse>)> {
        self.open(|channel, limits| {
            let (sender, requests) = mpsc::channel(4);
            let queued = sender.try_send(LeaseKeepAliveRequest { id });
            let request = self.dress(Request::new(ReceiverStream::new(requests)));
            async move {
                queued.map_err(|error| Status::internal(error.to_string()))?;
                let answers = LeaseClient::new(channel)
                    .max_decoding_message_size(limits.receive)
                    .lease_keep_alive(request)
                    .await?
                    .into_inner();
                Ok(Response::new((sender, answers)))
            }
        })
        .await
    }
}
