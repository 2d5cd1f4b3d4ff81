//! Watches.
//!
//! [`WatchStream`] is one gRPC stream as the protocol has it: many watches, told apart by id, and it ends when the connection
//! does. [`Watcher`] is one watch that outlives connections: it comes back at the next revision that was not yet delivered.
//!
//! Invariants: fragments are put together, so an answer holds whole revisions. A [`Watcher`] delivers each revision once, in
//! order; it ends only with a cancellation or with an error that would come again.

use quorate_proto::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Streaming};

use crate::client::Client;
use crate::error::{Error, Result};

/// Requests that may wait for the connection to take them.
const QUEUE: usize = 128;

/// The asking half of a stream. Clones feed the same stream.
#[derive(Debug, Clone)]
pub struct WatchSender(mpsc::Sender<WatchRequest>);

impl WatchSender {
    /// Asks for one more watch on this stream.
    pub async fn create(&self, request: WatchCreateRequest) -> Result<()> {
        self.send(RequestUnion::CreateRequest(request)).await
    }

    /// Ends a watch; a last answer with `canceled` follows.
    pub async fn cancel(&self, watch_id: i64) -> Result<()> {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })).await
    }

    /// Asks how far the stream has come; the answer carries id -1 and no events.
    pub async fn progress(&self) -> Result<()> {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await
    }

    async fn send(&self, request: RequestUnion) -> Result<()> {
        self.0.send(WatchRequest { request_union: Some(request) }).await.map_err(|_| Error::Closed)
    }
}

/// One watch stream.
#[derive(Debug)]
pub struct WatchStream {
    sender: WatchSender,
    answers: Streaming<WatchResponse>,
    /// The part of a fragmented answer that has arrived.
    partial: Option<WatchResponse>,
}

impl WatchStream {
    /// The asking half.
    pub fn sender(&self) -> WatchSender {
        self.sender.clone()
    }

    /// The next answer, put together from its fragments. [`Error::Closed`] when the server ended the stream.
    pub async fn next(&mut self) -> Result<WatchResponse> {
        loop {
            let mut answer = self.answers.message().await?.ok_or(Error::Closed)?;
            if let Some(mut partial) = self.partial.take() {
                partial.events.append(&mut answer.events);
                partial.fragment = answer.fragment;
                answer = partial;
            }
            if !answer.fragment {
                return Ok(answer);
            }
            self.partial = Some(answer);
        }
    }
}

/// One watch that survives lost connections. Made by [`Client::watcher`].
#[derive(Debug)]
pub struct Watcher {
    client: Client,
    request: WatchCreateRequest,
    stream: Option<WatchStream>,
    /// The first `created` answer was handed out, later ones are kept back.
    announced: bool,
    ended: bool,
}

impl Watcher {
    /// The next answer, the first one being `created`. After `canceled`, or an error, comes [`Error::Closed`].
    pub async fn next(&mut self) -> Result<WatchResponse> {
        while !self.ended {
            let answer = match &mut self.stream {
                Some(stream) => stream.next().await,
                None => match self.client.watch(self.request.clone()).await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match answer {
                Ok(answer) => {
                    self.advance(&answer);
                    if answer.created && !answer.canceled && std::mem::replace(&mut self.announced, true) {
                        continue;
                    }
                    return Ok(answer);
                }
                Err(error) if passes(&error) => {
                    self.stream = None;
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
        }
        Err(Error::Closed)
    }

    /// Asks how far this watch has come. Lost without an answer when the connection is down.
    pub async fn progress(&self) -> Result<()> {
        match &self.stream {
            Some(stream) => stream.sender.progress().await,
            None => Ok(()),
        }
    }

    /// Notes where to go on after a lost connection.
    fn advance(&mut self, answer: &WatchResponse) {
        if answer.canceled {
            self.ended = true;
            return;
        }
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        let last = answer.events.iter().rev().find_map(|event| event.kv.as_ref()?.decode().ok()).map(|pair| pair.mod_revision);
        let next = match last {
            Some(last) => last + 1,
            // A watch that starts in the past has not seen what lies before the header's revision yet.
            None if answer.created && self.request.start_revision != 0 => return,
            None => revision + 1,
        };
        self.request.start_revision = self.request.start_revision.max(next);
    }
}

/// True for errors that a new connection may cure.
fn passes(error: &Error) -> bool {
    match error {
        Error::Connect(_) | Error::Closed => true,
        Error::Server { code, message } => match code {
            Code::Unavailable => message != "etcdserver: no leader",
            Code::Internal => true,
            // What gRPC makes of a connection that broke.
            Code::Unknown | Code::Cancelled => message.contains("h2 protocol error") || message.contains("transport error"),
            _ => false,
        },
        _ => false,
    }
}

impl Client {
    /// Opens a watch stream with its first watch. (Servers send nothing, not even headers, before there is a watch.)
    pub async fn watch(&self, first: WatchCreateRequest) -> Result<WatchStream> {
        let (sender, answers) = self
            .open(|channel, limits| {
                let (sender, requests) = mpsc::channel(QUEUE);
                let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(first.clone())) };
                let queued = sender.try_send(create);
                let request = self.dress(Request::new(ReceiverStream::new(requests)));
                async move {
                    queued.map_err(|error| tonic::Status::internal(error.to_string()))?;
                    let answers = WatchClient::new(channel)
                        .max_encoding_message_size(limits.send)
                        .max_decoding_message_size(limits.receive)
                        .watch(request)
                        .await?
                        .into_inner();
                    Ok(Response::new((sender, answers)))
                }
            })
            .await?;
        Ok(WatchStream { sender: WatchSender(sender), answers, partial: None })
    }

    /// Starts a watch that survives lost connections. Nothing is sent before [`Watcher::next`] is called.
    pub fn watcher(&self, request: WatchCreateRequest) -> Watcher {
        Watcher { client: self.clone(), request, stream: None, announced: false, ended: false }
    }
}
