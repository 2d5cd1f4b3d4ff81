//! Counts: traffic with each peer, as plain numbers for the metrics page.

use crate::types::MemberId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What was exchanged with one peer since this process started.
#[derive(Default, Debug)]
pub struct PeerCount {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    sent_failures: AtomicU64,
    received_failures: AtomicU64,
    round_trip_us: AtomicU64,
    round_trips: AtomicU64,
    round_trip_sum_us: AtomicU64,
    snapshots_sent: AtomicU64,
    snapshot_failures: AtomicU64,
}

impl PeerCount {
    /// Bytes of raft messages, proposals and snapshot rows handed to the peer's connections.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the same received from it.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Messages that were dropped because the peer could not be reached or was too slow, and streams that broke.
    pub fn sent_failures(&self) -> u64 {
        self.sent_failures.load(Ordering::Relaxed)
    }

    /// Messages from the peer that were refused or could not be read.
    pub fn received_failures(&self) -> u64 {
        self.received_failures.load(Ordering::Relaxed)
    }

    /// Time to the peer and back on the control channel, smoothed over about eight measurements; zero before the first one.
    pub fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip_us.load(Ordering::Relaxed))
    }

    /// Measurements of the round trip and their sum.
    pub fn round_trips(&self) -> (u64, Duration) {
        let sum = Duration::from_micros(self.round_trip_sum_us.load(Ordering::Relaxed));
        (self.round_trips.load(Ordering::Relaxed), sum)
    }

    /// Snapshots the peer took, and transfers that failed.
    pub fn snapshots(&self) -> (u64, u64) {
        (self.snapshots_sent.load(Ordering::Relaxed), self.snapshot_failures.load(Ordering::Relaxed))
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn failed_send(&self, messages: usize) {
        self.sent_failures.fetch_add(messages as u64, Ordering::Relaxed);
    }

    pub(super) fn failed_receive(&self) {
        self.received_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot_went(&self, well: bool) {
        let counter = if well { &self.snapshots_sent } else { &self.snapshot_failures };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one measurement of the round trip. Only the peer's control task calls this.
    pub(super) fn round_trip_took(&self, time: Duration) {
        let new = time.as_micros() as u64;
        let old = self.round_trip_us.load(Ordering::Relaxed);
        let smooth = if old == 0 { new } else { (old * 7 + new) / 8 };
        self.round_trip_us.store(smooth.max(1), Ordering::Relaxed);
        self.round_trips.fetch_add(1, Ordering::Relaxed);
        self.round_trip_sum_us.fetch_add(new, Ordering::Relaxed);
    }
}

/// Counts by peer.
#[derive(Default)]
pub struct PeerCounts {
    peers: Mutex<BTreeMap<MemberId, Arc<PeerCount>>>,
}

impl PeerCounts {
    /// Every peer there is traffic with, by id.
    pub fn all(&self) -> Vec<(MemberId, Arc<PeerCount>)> {
        self.peers.lock().iter().map(|(id, count)| (*id, count.clone())).collect()
    }

    /// The numbers of one peer, made on first use.
    pub(super) fn of(&self, peer: MemberId) -> Arc<PeerCount> {
        self.peers.lock().entry(peer).or_default().clone()
    }

    pub(super) fn forget(&self, peer: MemberId) {
        self.peers.lock().remove(&peer);
    }
}
