//! Answer slots: who waits for which proposal, sorted by the thread that waits.
//!
//! Each net thread has a port. The apply thread hands a port all its answers at once and wakes it once; a task on that thread
//! completes the waiters, so that a burst of answers costs one wake-up across threads. Threads without a port of their own share
//! port 0, whose waiters are completed directly.

use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, oneshot};

/// Low bits of a sequence that name its port.
const PORT_BITS: u32 = 6;
const MAX_PORTS: usize = 1 << PORT_BITS;

thread_local! {
    static PORT: Cell<usize> = const { Cell::new(0) };
}

struct Port<T> {
    waiters: Mutex<HashMap<u64, oneshot::Sender<T>>>,
    done: Mutex<Vec<(u64, T)>>,
    wake: Arc<Notify>,
}

/// All ports of a member.
pub(super) struct Ports<T> {
    ports: Mutex<Vec<Arc<Port<T>>>>,
    next: AtomicU64,
}

/// A waiting place; leaving it early gives it up.
pub(super) struct Ticket<T> {
    pub sequence: u64,
    port: Arc<Port<T>>,
    receiver: oneshot::Receiver<T>,
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        self.port.waiters.lock().remove(&self.sequence);
    }
}

impl<T> Ticket<T> {
    /// The answer if it has come.
    pub fn try_answer(&mut self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    /// The answer; `None` when the member stopped.
    pub async fn answer(&mut self) -> Option<T> {
        (&mut self.receiver).await.ok()
    }
}

impl<T: Send + 'static> Ports<T> {
    /// `first` seeds the sequences: it differs between lives of a member, so that an old entry never answers a new request.
    pub fn new(first: u64) -> Self {
        Self { ports: Mutex::new(vec![Self::port()]), next: AtomicU64::new(first << PORT_BITS) }
    }

    fn port() -> Arc<Port<T>> {
        Arc::new(Port { waiters: Mutex::default(), done: Mutex::default(), wake: Arc::default() })
    }

    /// Gives the calling thread a port of its own and returns the task that completes its waiters; spawn it on this thread.
    pub fn attach(&self) -> impl Future<Output = ()> + Send + use<T> {
        let port = Self::port();
        let mut ports = self.ports.lock();
        if ports.len() < MAX_PORTS {
            PORT.set(ports.len());
            ports.push(port.clone());
        }
        async move {
            loop {
                port.wake.notified().await;
                let done = std::mem::take(&mut *port.done.lock());
                let mut waiters = port.waiters.lock();
                for (sequence, answer) in done {
                    if let Some(waiter) = waiters.remove(&sequence) {
                        // A waiter that has gone lost interest.
                        let _ = waiter.send(answer);
                    }
                }
            }
        }
    }

    pub fn open(&self) -> Ticket<T> {
        let index = PORT.get();
        let (port, index) = {
            let ports = self.ports.lock();
            let index = if index < ports.len() { index } else { 0 };
            (ports[index].clone(), index)
        };
        let sequence = self.next.fetch_add(1 << PORT_BITS, Ordering::Relaxed) & !(MAX_PORTS as u64 - 1) | index as u64;
        let (sender, receiver) = oneshot::channel();
        port.waiters.lock().insert(sequence, sender);
        Ticket { sequence, port, receiver }
    }

    /// Answers several sequences; those nobody waits for are passed over.
    pub fn answer(&self, answers: impl IntoIterator<Item = (u64, T)>) {
        let ports = self.ports.lock().clone();
        let mut woken = [false; MAX_PORTS];
        for (sequence, answer) in answers {
            let index = (sequence & (MAX_PORTS as u64 - 1)) as usize;
            let Some(port) = ports.get(index) else { continue };
            if index == 0 {
                if let Some(waiter) = port.waiters.lock().remove(&sequence) {
                    let _ = waiter.send(answer);
                }
                continue;
            }
            port.done.lock().push((sequence, answer));
            woken[index] = true;
        }
        for (index, port) in ports.iter().enumerate() {
            if woken[index] {
                port.wake.notify_one();
            }
        }
    }
}
