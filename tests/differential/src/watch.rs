//! One watch stream to one server, recorded.
//!
//! In: create, cancel and progress requests. Out: for each watch id, what it was told, in order, as text; and counts to wait on.
//! Events are taken out of their responses, because how many revisions one response carries depends on timing in etcd; that a
//! revision is not torn apart, that fragments follow each other and that headers are not behind their events is checked here.
//!
//! Invariant: everything the server sends ends up in exactly one list, so nothing it says too much goes unseen.

use crate::fields::{Fields, event_text};
use quorate_proto::etcdserverpb::{self as pb, watch_client::WatchClient, watch_request::RequestUnion};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// What was recorded so far.
#[derive(Default)]
pub struct Log {
    /// By watch id; refused creates, all of id -1, share a list.
    pub told: BTreeMap<i64, Vec<String>>,
    /// Events ever delivered, by watch id.
    pub events: BTreeMap<i64, u64>,
    /// (main revision, key, is a delete) of events, kept if the stream is asked to.
    pub history: Vec<(i64, bytes::Bytes, bool)>,
    /// Answers to creates ever seen, with the id and whether it was refused.
    pub created: Vec<(i64, bool)>,
    /// Cancellations ever seen of watches that had been created, by watch id.
    pub canceled: BTreeMap<i64, u64>,
    /// Revisions of answers to progress requests, not yet taken.
    pub progress: Vec<i64>,
    /// Newest revision delivered, by watch id.
    newest: BTreeMap<i64, i64>,
    open_fragment: Option<i64>,
    pub ended: Option<String>,
}

impl Log {
    fn take(&mut self, response: pb::WatchResponse, keep: bool) {
        let id = response.watch_id;
        let revision = response.header.as_ref().map_or(0, |h| h.revision);
        let list = self.told.entry(id).or_default();
        if let Some(open) = self.open_fragment.take()
            && open != id
        {
            list.push(format!("fault: a response of watch {id} between fragments of watch {open}"));
        }
        if response.fragment {
            self.open_fragment = Some(id);
        }
        if response.created || response.canceled {
            let mut f = Fields::default();
            f.header("header", &response.header);
            f.set("created", response.created);
            f.set("canceled", response.canceled);
            f.set("compact_revision", response.compact_revision);
            f.set("cancel_reason", &response.cancel_reason);
            f.set("events", response.events.len());
            list.push(f.0.iter().map(|(p, v)| format!("{p}={v}")).collect::<Vec<_>>().join(" "));
            if response.created {
                self.created.push((id, response.canceled));
                self.newest.remove(&id);
            } else {
                *self.canceled.entry(id).or_default() += 1;
            }
            return;
        }
        if response.events.is_empty() {
            if id == -1 {
                self.progress.push(revision);
            } else {
                list.push(format!("a response with neither events nor news, revision {revision}"));
            }
            return;
        }
        for (i, event) in response.events.iter().enumerate() {
            let kv = event.kv.as_ref().and_then(|kv| kv.decode().ok()).unwrap_or_default();
            let at = kv.mod_revision;
            let newest = self.newest.entry(id).or_default();
            let torn = i == 0 && at == *newest && !list.last().is_some_and(|l| l.starts_with("fragment"));
            if torn || at < *newest {
                list.push(format!("fault: revision {at} after a response that ended with revision {newest}"));
            }
            if revision < at {
                list.push(format!("fault: header revision {revision} behind event of revision {at}"));
            }
            *newest = at;
            if list.last().is_some_and(|l| l == "fragment") {
                list.pop();
            }
            list.push(event_text(event));
            *self.events.entry(id).or_default() += 1;
            if keep {
                self.history.push((at, kv.key, event.r#type == 1));
            }
        }
        if response.fragment {
            list.push("fragment".into());
        }
    }
}

/// One open stream.
pub struct Stream {
    log: Arc<Mutex<Log>>,
    news: Arc<Notify>,
    requests: mpsc::Sender<pb::WatchRequest>,
    reader: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Stream {
    /// Opens a stream; `keep` has it remember the history of its events. etcd's headers come with the first response only, so
    /// the call itself is made by the reader.
    pub fn open(channel: Channel, keep: bool) -> Self {
        let (requests, from) = mpsc::channel(16);
        let log = Arc::new(Mutex::new(Log::default()));
        let news = Arc::new(Notify::new());
        let (to, bell) = (log.clone(), news.clone());
        let reader = tokio::spawn(async move {
            let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
            let ended = match client.watch(ReceiverStream::new(from)).await {
                Err(status) => status,
                Ok(answer) => {
                    let mut stream = answer.into_inner();
                    loop {
                        match stream.message().await {
                            Ok(Some(response)) => lock(&to).take(response, keep),
                            Ok(None) => break tonic::Status::ok("end of stream"),
                            Err(status) => break status,
                        }
                        bell.notify_one();
                    }
                }
            };
            lock(&to).ended = Some(format!("{:?}: {}", ended.code(), ended.message()));
            bell.notify_one();
        });
        Self { log, news, requests, reader }
    }

    /// Ends the stream; what was recorded stays.
    pub fn close(&self) {
        self.reader.abort();
    }

    pub async fn send(&self, request: RequestUnion) {
        // A closed stream shows itself as `ended` in the log.
        let _ = self.requests.send(pb::WatchRequest { request_union: Some(request) }).await;
    }

    pub fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    /// Waits until `done` holds of the log; false when the stream ended or `deadline` passed before.
    pub async fn wait(&self, deadline: Instant, done: impl Fn(&Log) -> bool) -> bool {
        loop {
            {
                let log = self.log();
                if done(&log) {
                    return true;
                }
                if log.ended.is_some() {
                    return false;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO || tokio::time::timeout(left, self.news.notified()).await.is_err() {
                return done(&self.log());
            }
        }
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
