//! /health, /livez and /readyz, with etcd's answers.
//!
//! A probe asks whether this member can serve, not whether anything is wrong somewhere: only /health looks at every alarm; NOSPACE does not make
//! a member unready.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{Method, StatusCode, Uri};

use super::pages::{PLAIN, method_not_allowed, query};
use crate::telemetry::Metrics;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    NoSpace,
    Corrupt,
}

pub type ReadFuture<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// What the checks need to know.
pub trait HealthSource: Send + Sync + 'static {
    /// Alarms raised anywhere in the cluster.
    fn alarms(&self) -> Vec<Alarm>;
    fn has_leader(&self) -> bool;
    /// This member's disk is full, and its writes wait until there is space.
    fn waits_for_space(&self) -> bool;
    fn is_learner(&self) -> bool;
    /// Reads one key, with its own time limit; linearizable proves that a quorum answers. The error is etcd's text.
    fn read(&self, linearizable: bool) -> ReadFuture<'_>;
}

impl Alarm {
    fn name(self) -> &'static str {
        match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] = &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

#[derive(Clone)]
struct Probe {
    source: Arc<dyn HealthSource>,
    metrics: Arc<Metrics>,
    kind: &'static str,
    checks: &'static [Check],
}

pub(super) fn routes(source: Arc<dyn HealthSource>, metrics: Arc<Metrics>) -> Router {
    let mut router = Router::new().route("/health", any(health).with_state((source.clone(), metrics.clone())));
    for (kind, checks) in [("livez", LIVEZ), ("readyz", READYZ)] {
        let probe = Probe { source: source.clone(), metrics: metrics.clone(), kind, checks };
        for at in 0..checks.len() {
            let one = Probe { checks: &checks[at..=at], ..probe.clone() };
            router = router.route(&format!("/{kind}/{}", checks[at].name()), any(answer).with_state(one));
        }
        router = router.route(&format!("/{kind}"), any(answer).with_state(probe));
    }
    router
}

async fn health(State((source, metrics)): State<(Arc<dyn HealthSource>, Arc<Metrics>)>, method: Method, uri: Uri) -> Response {
    if method != Method::GET {
        return method_not_allowed();
    }
    let asked = query(&uri);
    let serializable = asked.iter().find(|(k, _)| k == "serializable").is_some_and(|(_, v)| v == "true");
    let reason = ill(&*source, &excluded(&asked), serializable).await;
    let body =
        serde_json::json!({"health": if reason.is_none() { "true" } else { "false" }, "reason": reason.as_deref().unwrap_or("")})
            .to_string();
    match reason {
        None => {
            metrics.health_success.inc();
            (PLAIN, body).into_response()
        }
        Some(_) => {
            metrics.health_failures.inc();
            tracing::warn!(output = body, "status-code" = 503, "/health error");
            (StatusCode::SERVICE_UNAVAILABLE, PLAIN, body + "\n").into_response()
        }
    }
}

/// What is said of a member whose writes wait for space.
const DISK_FULL: &str = "the disk is full";

/// The first thing wrong, in etcd's order: alarms, leader, read; before the leader, what etcd ends itself for: a full disk.
async fn ill(source: &dyn HealthSource, excluded: &BTreeSet<String>, serializable: bool) -> Option<String> {
    if let Some(alarm) = source.alarms().into_iter().find(|a| !excluded.contains(a.name())) {
        return Some(format!("ALARM {}", alarm.name()));
    }
    if source.waits_for_space() {
        return Some(DISK_FULL.to_uppercase());
    }
    if !serializable && !source.has_leader() {
        return Some("RAFT NO LEADER".into());
    }
    source.read(!serializable).await.err().map(|e| format!("RANGE ERROR:{e}"))
}

async fn answer(State(probe): State<Probe>, method: Method, uri: Uri) -> Response {
    if method != Method::GET {
        return method_not_allowed();
    }
    let asked = query(&uri);
    let excluded = if probe.checks.len() > 1 || uri.path() == "/livez" { excluded(&asked) } else { BTreeSet::new() };
    let (mut report, mut well) = (String::new(), true);
    for check in probe.checks.iter().filter(|c| !excluded.contains(c.name())) {
        let result = check.run(&*probe.source).await;
        probe.metrics.health_check(probe.kind, check.name(), result.is_ok());
        match result {
            Ok(()) => report += &format!("[+]{} ok\n", check.name()),
            Err(e) => {
                well = false;
                report += &format!("[-]{} failed: {e}\n", check.name());
            }
        }
    }
    // etcd has no such check, so it shows only when it fails. Another start would not help: it is no matter of life.
    if probe.kind == "readyz" && probe.checks.len() > 1 && !excluded.contains("disk_space") && probe.source.waits_for_space() {
        well = false;
        report += &format!("[-]disk_space failed: {DISK_FULL}\n");
    }
    if !well {
        tracing::error!(path = uri.path(), reason = report, "status-code" = 503, "Health check error");
        return (StatusCode::SERVICE_UNAVAILABLE, PLAIN, report + "\n").into_response();
    }
    let verbose = asked.iter().any(|(k, _)| k == "verbose");
    (PLAIN, if verbose { report + "ok\n" } else { "ok\n".into() }).into_response()
}

fn excluded(asked: &[(String, String)]) -> BTreeSet<String> {
    asked.iter().filter(|(k, v)| k == "exclude" && !v.is_empty()).map(|(_, v)| v.clone()).collect()
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, source: &dyn HealthSource) -> Result<(), String> {
        match self {
            Self::DataCorruption if source.alarms().contains(&Alarm::Corrupt) => Err("alarm activated: CORRUPT".into()),
            Self::NonLearner if source.is_learner() => Err("not supported for learner".into()),
            Self::SerializableRead => source.read(false).await,
            Self::LinearizableRead => source.read(true).await,
            Self::DataCorruption | Self::NonLearner => Ok(()),
        }
    }
}
