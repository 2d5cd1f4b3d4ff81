//! Answer streams written as plain async code.
//!
//! In: an async block that is handed a [`Yielder`]. Out: a [`Stream`] that yields what the block sends and ends when the block returns; an `Err`
//! from the block becomes the stream's last item.
//! There is no task and no queue: the block runs only while the HTTP/2 connection asks for the next message, so a client that reads slowly holds
//! back exactly its own stream, and a client that goes away drops the block (and every guard it holds) at once.
//!
//! Invariants: at most one message sits between block and stream; after the end nothing is polled again.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio_stream::Stream;
use tonic::Status;

/// The answer type of every streaming method.
pub type AnswerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

/// The block's side: hands one message at a time to the stream.
pub struct Yielder<T> {
    slot: Arc<Mutex<Option<T>>>,
}

impl<T> Yielder<T> {
    /// Gives `message` to the client; completes when the connection asks for the one after it.
    pub async fn send(&mut self, message: T) {
        *self.slot.lock() = Some(message);
        std::future::poll_fn(|_| {
            // No waker is kept: the stream polls the block again only after it took the message, so the slot is then empty.
            if self.slot.lock().is_some() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

type Block = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

struct Generated<T> {
    slot: Arc<Mutex<Option<T>>>,
    block: Option<Block>,
}

impl<T: Send> Stream for Generated<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(block) = self.block.as_mut() else { return Poll::Ready(None) };
        let polled = block.as_mut().poll(context);
        let message = self.slot.lock().take();
        match (polled, message) {
            (Poll::Pending, Some(message)) => Poll::Ready(Some(Ok(message))),
            (Poll::Pending, None) => Poll::Pending,
            (Poll::Ready(end), _) => {
                self.block = None;
                match end {
                    Ok(()) => Poll::Ready(None),
                    Err(status) => Poll::Ready(Some(Err(status))),
                }
            }
        }
    }
}

/// Turns an async block into an answer stream.
pub fn generate<T, B, F>(block: B) -> AnswerStream<T>
where
    T: Send + 'static,
    B: FnOnce(Yielder<T>) -> F,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let slot = Arc::new(Mutex::new(None));
    let block = block(Yielder { slot: slot.clone() });
    Box::pin(Generated { slot, block: Some(Box::pin(block)) })
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    /// Messages come out in the order sent, and the block's error comes last.
    #[tokio::test(flavor = "current_thread")]
    async fn yields_in_order_then_the_error() {
        let mut stream = generate(|mut out| async move {
            for n in 0..3 {
                out.send(n).await;
            }
            Err(Status::aborted("end"))
        });
        for n in 0..3 {
            assert_eq!(stream.next().await.unwrap().unwrap(), n);
        }
        assert_eq!(stream.next().await.unwrap().unwrap_err().message(), "end");
        assert!(stream.next().await.is_none());
        assert!(stream.next().await.is_none());
    }

    /// Dropping the stream drops the block with what it holds, without running it further.
    #[tokio::test(flavor = "current_thread")]
    async fn drop_releases_the_block() {
        let held = Arc::new(());
        let inside = held.clone();
        let mut stream = generate(|mut out| async move {
            let _held = inside;
            loop {
                out.send(1).await;
            }
        });
        assert!(stream.next().await.is_some());
        assert_eq!(Arc::strong_count(&held), 2);
        drop(stream);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
