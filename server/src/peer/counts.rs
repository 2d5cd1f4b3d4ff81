//! Counts: traffic with each peer, as plain numbers for the metrics page.

use crate::telemetry::{self, Histogram};
use crate::types::MemberId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What was exchanged with one peer since this process started.
#[derive(Debug)]
pub struct PeerCount {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    sent_failures: AtomicU64,
    received_failures: AtomicU64,
    round_trips: Arc<Histogram>,
    disconnects: AtomicU64,
    snapshots_sent: Outcomes,
    snapshots_received: Outcomes,
}

/// How often something went well, and how often not.
#[derive(Default, Debug)]
struct Outcomes([AtomicU64; 2]);

impl Outcomes {
    fn add(&self, well: bool) {
        self.0[usize::from(!well)].fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> (u64, u64) {
        (self.0[0].load(Ordering::Relaxed), self.0[1].load(Ordering::Relaxed))
    }
}

impl Default for PeerCount {
    fn default() -> Self {
        Self {
            sent_bytes: AtomicU64::default(),
            received_bytes: AtomicU64::default(),
            sent_failures: AtomicU64::default(),
            received_failures: AtomicU64::default(),
            round_trips: Arc::new(telemetry::round_trip()),
            disconnects: AtomicU64::default(),
            snapshots_sent: Outcomes::default(),
            snapshots_received: Outcomes::default(),
        }
    }
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

    /// Times to the peer and back on the control channel, in seconds.
    pub fn round_trips(&self) -> &Arc<Histogram> {
        &self.round_trips
    }

    /// How often the control channel to it was lost.
    pub fn disconnects(&self) -> u64 {
        self.disconnects.load(Ordering::Relaxed)
    }

    /// Snapshots taken from the peer, and those that did not come through.
    pub fn snapshots_received(&self) -> (u64, u64) {
        self.snapshots_received.read()
    }

    /// Snapshots the peer took, and transfers that failed.
    pub fn snapshots(&self) -> (u64, u64) {
        self.snapshots_sent.read()
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
        self.snapshots_sent.add(well);
    }

    pub(super) fn snapshot_came(&self, well: bool) {
        self.snapshots_received.add(well);
    }

    pub(super) fn disconnected(&self) {
        self.disconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn round_trip_took(&self, time: Duration) {
        self.round_trips.observe_seconds(time);
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
