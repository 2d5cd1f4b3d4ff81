//! What the HTTP pages and the metrics read of the rooms.

use crate::api;
use crate::config::{self, Config};
use crate::gateway::{self, HealthSource, Pages, ReadFuture, Versions};
use crate::node::NodeHandle;
use crate::peer::Peers;
use crate::telemetry::Metrics;
use crate::watch::Hub;
use quorate_proto::entry;
use std::sync::Arc;

pub(super) fn allow(list: &config::AllowList) -> gateway::AllowList {
    match list {
        config::AllowList::All => gateway::AllowList::All,
        config::AllowList::Only(words) => gateway::AllowList::Only(words.clone()),
    }
}

/// What /health and its kin ask.
struct Health(NodeHandle);

impl HealthSource for Health {
    /// A member that is set aside is ill itself; the others go on, and are well.
    fn alarms(&self) -> Vec<gateway::Alarm> {
        let shared = self.0.shared();
        let on = |kind| shared.has_alarm(kind);
        let no_space = on(entry::AlarmKind::Nospace).then_some(gateway::Alarm::NoSpace);
        let corrupt = (on(entry::AlarmKind::Corrupt) || self.0.is_fenced()).then_some(gateway::Alarm::Corrupt);
        no_space.into_iter().chain(corrupt).collect()
    }

    fn has_leader(&self) -> bool {
        self.0.has_leader()
    }

    fn waits_for_space(&self) -> bool {
        self.0.waits_for_space()
    }

    fn is_learner(&self) -> bool {
        self.0.status().is_learner
    }

    fn read(&self, linearizable: bool) -> ReadFuture<'_> {
        Box::pin(async move {
            if linearizable {
                self.0.read_barrier().await.map_err(|e| format!("etcdserver: {e}"))?;
            }
            let probe = entry::Range { key: bytes::Bytes::from_static(b"health"), limit: 1, ..Default::default() };
            self.0.store().range(&probe).map(|_| ()).map_err(|e| format!("etcdserver: mvcc: {e}"))
        })
    }
}

pub(super) fn pages(node: &NodeHandle, metrics: &Arc<Metrics>) -> Pages {
    let versions = versions(node);
    let live = {
        let node = node.clone();
        move || {
            let (s, store) = (node.status(), node.store());
            let sizes = store.sizes();
            serde_json::json!({
                "version": config::VERSION,
                "member_id": format!("{:016x}", s.member_id),
                "cluster_id": format!("{:016x}", s.cluster_id),
                "leader": format!("{:016x}", s.leader),
                "term": s.term,
                "committed_index": s.raft_index,
                "applied_index": s.applied_index,
                "revision": store.revision(),
                "compact_revision": store.compact_revision(),
                "swept_revision": store.swept_revision(),
                "bytes_on_disk": sizes.on_disk,
                "bytes_in_use": sizes.in_use,
                "quota_usage_bytes": sizes.quota_usage,
                "leases": node.shared().leases().len(),
                "members": node.shared().members().len(),
                "feature_level": node.shared().feature_level(),
                "recoveries": node.shared().recoveries().iter().map(|r| r.id.clone()).collect::<Vec<_>>(),
                "pending_proposals": node.proposals().0,
            })
        }
    };
    Pages { health: Arc::new(Health(node.clone())), metrics: metrics.clone(), versions, live: Arc::new(live) }
}

/// What /version says of this member.
pub(super) fn versions(node: &NodeHandle) -> Arc<dyn Fn() -> Versions + Send + Sync> {
    let node = node.clone();
    Arc::new(move || {
        let cluster = Some(node.shared().cluster_version().to_string()).filter(|v| !v.is_empty());
        Versions { server: config::ETCD_VERSION.to_string(), storage: cluster.clone(), cluster }
    })
}

/// The member list as peers and tools read it from the peer port.
pub(super) fn members(node: &NodeHandle) -> Arc<dyn Fn() -> serde_json::Value + Send + Sync> {
    let node = node.clone();
    Arc::new(move || {
        let member = |m: &quorate_proto::state::Member| {
            let mut out = serde_json::json!({ "id": m.id, "peerURLs": m.peer_urls, "name": m.name, "clientURLs": m.client_urls });
            if m.learner {
                out["isLearner"] = true.into();
            }
            out
        };
        node.shared().members().iter().map(member).collect()
    })
}

/// Counters of calls, with their times when the page is to show everything.
pub(super) fn counters(config: &Config, metrics: &Metrics) -> api::Counters {
    if !config.extensive_metrics {
        return api::Counters::default();
    }
    api::Counters::timed(|method| {
        let (service, name, kind) = method.labels();
        metrics.grpc_seconds.with(&[name, service, kind])
    })
}

/// Lets the metrics page read the rooms' own numbers, at each request for it.
pub(super) fn observe(
    config: &Config,
    metrics: &Arc<Metrics>,
    node: &NodeHandle,
    hub: &Arc<Hub>,
    counters: &Arc<api::Counters>,
    peers: &Peers,
) {
    use std::sync::atomic::Ordering::Relaxed;
    let flag = |on: bool| if on { 1.0 } else { 0.0 };
    let status = node.status();
    Metrics::name(&metrics.server_id, &format!("{:x}", status.member_id));
    Metrics::name(&metrics.server_version, config::ETCD_VERSION);
    for (name, stage, on) in config.features.all() {
        metrics.feature_enabled.with(&[name, stage.name()]).set(flag(on));
    }
    metrics.quota.set(config.quota_bytes.map_or(0.0, |q| q as f64));
    let (node, watch, counters) = (node.clone(), hub.counters(), counters.clone());
    let (changes, peers) = (node.leader_change_count(), peers.clone());
    metrics.sample_with(move |m| {
        let (s, store) = (node.status(), node.store());
        m.has_leader.set(flag(s.leader != 0));
        m.is_leader.set(flag(s.is_leader));
        m.is_learner.set(flag(s.is_learner));
        m.leader_changes.set(changes.load(Relaxed));
        m.proposals_committed.set(s.raft_index as f64);
        m.proposals_applied.set(s.applied_index as f64);
        m.log_last_index.set(s.last_index as f64);
        m.log_last_term.set(s.last_term as f64);
        let (pending, failed) = node.proposals();
        m.proposals_pending.set(pending as f64);
        m.proposals_failed.set(failed);
        let version = node.shared().cluster_version();
        if !version.is_empty() {
            Metrics::name(&m.cluster_version, version.rsplit_once('.').map_or(version.as_str(), |(minor, _)| minor));
        }
        let sizes = store.sizes();
        m.defrag_inflight.set(flag(store.is_reclaiming()));
        m.db_size.set(sizes.on_disk as f64);
        m.db_in_use.set(sizes.in_use as f64);
        m.quota_usage.set(sizes.quota_usage as f64);
        m.compact_revision.set(store.compact_revision() as f64);
        m.current_revision.set(store.revision() as f64);
        m.keys.set(store.live_keys() as f64);
        m.auth_revision.set(api::auth::FIRST_AUTH_REVISION as f64);
        m.puts.set(store.stats.puts.load(Relaxed));
        m.put_bytes.set(store.stats.put_bytes.load(Relaxed) as f64);
        m.deletes.set(store.stats.deletes.load(Relaxed));
        m.ranges.set(store.stats.ranges.load(Relaxed));
        m.txns.set(store.stats.txns.load(Relaxed));
        m.compaction_keys.set(store.stats.compacted_rows.load(Relaxed));
        m.watchers.set(watch.watchers() as f64);
        m.watch_streams.set(watch.streams() as f64);
        m.slow_watchers.set(watch.lagging() as f64);
        m.events.set(watch.events());
        m.pending_events.set(watch.pending() as f64);
        let local = format!("{:x}", s.member_id);
        m.known_peers.clear();
        m.active_peers.clear();
        for member in node.shared().members().iter() {
            let id = format!("{:x}", member.id);
            m.known_peers.with(&[&local, &id]).set(1.0);
            if member.id != s.member_id {
                m.active_peers.with(&[&local, &id]).set(0.0);
            }
        }
        for id in peers.connected() {
            m.active_peers.with(&[&local, &format!("{id:x}")]).set(1.0);
        }
        for (id, count) in peers.counts() {
            let id = format!("{id:x}");
            m.peer_sent.with(&[&id]).set(count.sent_bytes());
            m.peer_received.with(&[&id]).set(count.received_bytes());
            m.peer_send_failures.with(&[&id]).set(count.sent_failures());
            m.peer_receive_failures.with(&[&id]).set(count.received_failures());
            m.peer_round_trip.show(&[&id], count.round_trips().clone());
            m.disconnected_peers.with(&[&local, &id]).set(count.disconnects());
            let (sent, unsent) = count.snapshots();
            m.snapshot_send_success.with(&[&id]).set(sent);
            m.snapshot_send_failures.with(&[&id]).set(unsent);
            let (taken, untaken) = count.snapshots_received();
            m.snapshot_receive_success.with(&[&id]).set(taken);
            m.snapshot_receive_failures.with(&[&id]).set(untaken);
        }
        for row in counters.read() {
            let (service, method, kind) = row.method.labels();
            let labels = [method, service, kind];
            m.grpc_started.with(&labels).set(row.started);
            m.grpc_received.with(&labels).set(row.received);
            m.grpc_sent.with(&labels).set(row.sent);
            for (code, count) in row.handled.iter().enumerate() {
                m.grpc_handled.with(&[api::counters::CODE_NAMES[code], method, service, kind]).set(*count);
            }
        }
    });
}
