//! Export: a pinned view as the stream that `etcdctl snapshot save` stores.

use super::file::{ALIGN, FRAME_HEAD, HEADER_KIND, ROWS_KIND, TRAILER, TRAILER_KIND, frame, preamble};
use super::{Place, SnapshotError, View};
use bytes::Bytes;
use prost::Message;
use quorate_proto::state::SnapshotHeader;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Rows in one frame, in bytes.
const CHUNK: usize = 256 << 10;
/// Largest piece handed out at once; etcd's.
const BLOB: usize = 32 << 10;
/// Pieces that may wait for a slow reader.
const WAITING: usize = 16;

/// A snapshot being read. Dropping it lets go of the view.
pub struct Export {
    /// The exact number of bytes that come, a multiple of 512.
    pub total_bytes: u64,
    /// The bytes in order, in pieces of at most 32 KiB; a slow reader slows the source.
    pub blobs: mpsc::Receiver<Result<Bytes, SnapshotError>>,
}

/// Starts to write a view out. Reads it twice: the length is told before the first byte. Must be called on a runtime.
///
/// # Errors
/// When the rows cannot be read.
pub async fn export(view: Arc<View>, cluster_id: u64) -> Result<Export, SnapshotError> {
    let made_by = env!("CARGO_PKG_VERSION").to_string();
    let header = SnapshotHeader { cluster: cluster_id, applied: Some(view.applied.clone()), made_by }.encode_to_vec();
    let mut total = preamble().len() as u64 + FRAME_HEAD + header.len() as u64 + FRAME_HEAD + TRAILER;
    for extent in view.extent(CHUNK).await? {
        total += extent.chunks * (FRAME_HEAD + 1) + extent.bytes;
    }
    let total_bytes = total.next_multiple_of(ALIGN);
    let (blobs, receiver) = mpsc::channel(WAITING);
    let pen = Pen { blobs, left: total_bytes };
    tokio::spawn(async move {
        let errors = pen.blobs.clone();
        if let Err(Some(e)) = write(pen, &view, &header).await {
            let _ = errors.send(Err(e)).await;
        }
    });
    Ok(Export { total_bytes, blobs: receiver })
}

struct Pen {
    blobs: mpsc::Sender<Result<Bytes, SnapshotError>>,
    left: u64,
}

impl Pen {
    /// Hands bytes out; an error without a reason says that nobody reads any more.
    async fn put(&mut self, bytes: Vec<u8>) -> Result<(), Option<SnapshotError>> {
        let mut bytes = Bytes::from(bytes);
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(BLOB));
            self.left = self.left.saturating_sub(piece.len() as u64);
            self.blobs.send(Ok(piece)).await.map_err(|_| None)?;
        }
        Ok(())
    }
}

async fn write(mut pen: Pen, view: &View, header: &[u8]) -> Result<(), Option<SnapshotError>> {
    pen.put(preamble()).await?;
    pen.put(frame(HEADER_KIND, &[header])).await?;
    let (mut rows, mut checksum) = (0u64, 0u32);
    let mut from = Some(Place::default());
    while let Some(at) = from {
        let chunk = view.chunk(at, CHUNK).await.map_err(Some)?;
        from = chunk.next;
        if chunk.count > 0 {
            rows += chunk.count;
            checksum = crc32c::crc32c_append(checksum, &chunk.rows);
            pen.put(frame(ROWS_KIND, &[&[chunk.family as u8], &chunk.rows])).await?;
        }
    }
    pen.put(frame(TRAILER_KIND, &[&rows.to_le_bytes(), &checksum.to_le_bytes()])).await?;
    let padding = vec![0; pen.left as usize];
    pen.put(padding).await
}
