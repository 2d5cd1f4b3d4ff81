//! `etcdserverpb.Watch`: many watches on one stream.
//!
//! In: create, cancel and progress requests. Out: what the watch room sends to this stream, in its order, as etcd's answers.
//! The room keeps the order and the guarantees; this glue only translates. The room's receiver is asked only when the connection wants more, so
//! a slow client fills its own budget in the room and nobody else's.

use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Door, MESSAGE_OVERHEAD_BYTES, Method,
    door::{Learner, Outgoing},
    status::Refusal,
    stream::AnswerStream,
    watch_wire::{Frame, encoded},
};
use crate::{
    types::KeyRange,
    watch::{CreateWatch, Filters, Limits, StreamHandle, WatchMessage},
};

/// The id in answers that stand for no single watch.
const NO_WATCH: i64 = -1;

/// The service.
pub struct Watch(pub Arc<Door>);

impl Watch {
    /// Opens a stream.
    pub fn watch(&self, request: Request<Streaming<pb::WatchRequest>>) -> Result<Response<AnswerStream<Frame>>, Status> {
        self.0.stream(Method::Watch, request, Learner::Refuses, serve)
    }
}

async fn serve(door: Arc<Door>, mut requests: Streaming<pb::WatchRequest>, mut out: Outgoing<Frame>) -> Result<(), Status> {
    let fragment_bytes = door.limits.max_request_bytes + MESSAGE_OVERHEAD_BYTES;
    let (handle, mut messages) = door.context.hub.open(Limits { fragment_bytes, ..Limits::default() });
    let mut open = true;
    loop {
        tokio::select! {
            request = next_request(&handle, &mut requests), if open => match request {
                Some(Ok(request)) => {
                    out.received();
                    take(&handle, request);
                }
                Some(Err(error)) => return Err(error),
                // A client may stop asking and go on listening.
                None => open = false,
            },
            message = messages.recv() => match message {
                Some(message) => out.send(frame(&door, message)).await,
                None => return Err(Refusal::Stopped.into()),
            },
        }
    }
}

/// The client's next request, once the room can take the answer to it: a client that asks and does not listen waits.
async fn next_request(
    handle: &StreamHandle,
    requests: &mut Streaming<pb::WatchRequest>,
) -> Option<Result<pb::WatchRequest, Status>> {
    handle.ready().await;
    requests.next().await
}

/// Hands a request to the room. Every answer comes from there: clients tell answers to creates apart by their order alone.
fn take(handle: &StreamHandle, request: pb::WatchRequest) {
    use pb::watch_request::RequestUnion;
    match request.request_union {
        Some(RequestUnion::CreateRequest(request)) => handle.create(&create(request)),
        Some(RequestUnion::CancelRequest(request)) => handle.cancel(request.watch_id),
        Some(RequestUnion::ProgressRequest(_)) => handle.progress(),
        // An unknown kind of request does not cost the client its other watches.
        None => {}
    }
}

/// An empty key stands for the smallest one.
fn create(request: pb::WatchCreateRequest) -> CreateWatch {
    use pb::watch_create_request::FilterType;
    let filter = |kind: FilterType| request.filters.contains(&kind.into());
    let filters = Filters { no_put: filter(FilterType::Noput), no_delete: filter(FilterType::Nodelete) };
    let key = if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key };
    CreateWatch {
        id: (request.watch_id != 0).then_some(request.watch_id),
        range: KeyRange::from_request(&key, &request.range_end),
        start_revision: request.start_revision,
        progress_notify: request.progress_notify,
        filters,
        prev_kv: request.prev_kv,
        fragment: request.fragment,
    }
}

/// A refused create is created and canceled at once, under no id.
fn refused(door: &Door, revision: i64, reason: &str) -> Frame {
    let response = pb::WatchResponse {
        header: Some(door.header(revision)),
        watch_id: NO_WATCH,
        created: true,
        canceled: true,
        cancel_reason: reason.to_string(),
        ..Default::default()
    };
    Frame { response, events: Bytes::new() }
}

fn frame(door: &Door, message: WatchMessage) -> Frame {
    let answer = |watch_id, revision| pb::WatchResponse { header: Some(door.header(revision)), watch_id, ..Default::default() };
    let mut bytes = Bytes::new();
    let response = match message {
        WatchMessage::Refused { revision, reason } => return refused(door, revision, reason),
        WatchMessage::Created { id, revision } => pb::WatchResponse { created: true, ..answer(id, revision) },
        WatchMessage::Canceled { id, revision, compact_revision, reason } => {
            pb::WatchResponse { canceled: true, compact_revision, cancel_reason: reason, ..answer(id, revision) }
        }
        WatchMessage::Events { id, events, revision, fragment } => {
            bytes = encoded(&events);
            pb::WatchResponse { fragment, ..answer(id, revision) }
        }
        WatchMessage::Progress { id, revision } => answer(id, revision),
    };
    Frame { response, events: bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client leaves out gets etcd's meaning: no key is the smallest key, id 0 lets the stream choose, filters may come in any order.
    #[test]
    fn create_request_meaning() {
        let wish = create(pb::WatchCreateRequest { filters: vec![1, 0, 9], ..Default::default() });
        assert_eq!(&wish.range.start[..], b"\0");
        assert_eq!(wish.id, None);
        assert!(wish.filters.no_put && wish.filters.no_delete);
        let wish = create(pb::WatchCreateRequest { key: "k".into(), watch_id: 7, filters: vec![1], ..Default::default() });
        assert_eq!((&wish.range.start[..], wish.id), (&b"k"[..], Some(7)));
        assert!(!wish.filters.no_put && wish.filters.no_delete);
    }
}
