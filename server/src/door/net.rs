//! Net threads: where connections live.
//!
//! In: connections, as futures to be run. Out: nothing; a connection's whole life (handshake, requests, answers) stays on the thread it was given
//! to, so h2's per-connection lock is never contended.
//! Each thread is a current-thread tokio runtime. Plain `tokio::spawn` from a handler stays on its thread.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The pool. Dropping it stops the threads and whatever still runs on them.
pub struct NetThreads {
    threads: Vec<NetThread>,
    stop: CancellationToken,
}

struct NetThread {
    handle: Handle,
    open: Arc<AtomicUsize>,
    join: Option<JoinHandle<()>>,
}

/// A connection's place on a thread; the thread counts as lighter again when it is dropped.
pub(super) struct Seat(Arc<AtomicUsize>);

/// How many net threads a machine with `cores` cores gets: all cores up to 4, then half of them, never fewer than 4 or more than 32.
pub fn net_threads_for(cores: usize) -> usize {
    if cores <= 4 { cores.max(1) } else { (cores / 2).clamp(4, 32) }
}

impl NetThreads {
    /// Starts `count` threads named `NAME-0`, `NAME-1`, ...
    pub fn start(name: &str, count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let threads =
            (0..count.max(1)).map(|i| NetThread::start(format!("{name}-{i}"), stop.clone())).collect::<io::Result<_>>()?;
        Ok(Self { threads, stop })
    }

    /// One runtime handle per thread, in order: for work that should live beside the connections.
    pub fn handles(&self) -> Vec<Handle> {
        self.threads.iter().map(|t| t.handle.clone()).collect()
    }

    /// Connections open now, thread by thread.
    pub fn open(&self) -> Vec<usize> {
        self.threads.iter().map(|t| t.open.load(Ordering::Relaxed)).collect()
    }

    /// Runs `work` on the thread with the fewest open connections.
    pub(super) fn run<F>(&self, work: impl FnOnce(Seat) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(thread) = self.threads.iter().min_by_key(|t| t.open.load(Ordering::Relaxed)) else { return };
        thread.open.fetch_add(1, Ordering::Relaxed);
        thread.handle.spawn(work(Seat(thread.open.clone())));
    }
}

impl NetThread {
    fn start(name: String, stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let join = std::thread::Builder::new().name(name).spawn(move || runtime.block_on(stop.cancelled()))?;
        Ok(Self { handle, open: Arc::default(), join: Some(join) })
    }
}

impl Drop for NetThreads {
    fn drop(&mut self) {
        self.stop.cancel();
        let here = std::thread::current().id();
        for thread in &mut self.threads {
            if let Some(join) = thread.join.take()
                && join.thread().id() != here
            {
                let _ = join.join();
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of threads follows the cores.
    #[test]
    fn thread_counts() {
        assert_eq!([0, 1, 2, 4, 6, 8, 16, 200].map(net_threads_for), [1, 1, 2, 4, 4, 4, 8, 32]);
    }

    /// Work goes to the least loaded thread, and a dropped seat makes its thread light again.
    #[test]
    fn connections_spread_by_load() {
        let net = NetThreads::start("t", 2).expect("threads");
        let seats = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let keep = |seat: Seat| {
            seats.lock().push(seat);
            std::future::ready(())
        };
        (0..4).for_each(|_| net.run(keep));
        assert_eq!(net.open(), [2, 2]);
        seats.lock().remove(0);
        assert_eq!(net.open(), [1, 2]);
        net.run(keep);
        assert_eq!(net.open(), [2, 2]);
    }
}
