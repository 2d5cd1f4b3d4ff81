//! The operator's own figures, in Prometheus' text form.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::cluster::plan::Step;

type Label = Vec<(&'static str, String)>;

/// Counters that rounds feed.
pub struct Metrics {
    registry: Registry,
    rounds: Family<Label, Counter>,
    steps: Family<Label, Counter>,
    duration: Histogram,
    leading: Gauge<i64>,
    seen: Gauge<f64, AtomicU64>,
    verifications: Family<Label, Counter>,
    covered: Family<Label, Gauge<f64, AtomicU64>>,
    due: Family<Label, Gauge<f64, AtomicU64>>,
    conditions: Family<Label, Gauge<i64>>,
}

/// Conditions of clusters that are figures as well.
const CONDITIONS: [&str; 4] = ["Ready", "Available", "Stalled", "CertificatesReady"];

/// How rounds end.
const OUTCOMES: [&str; 3] = ["success", "conflict", "error"];
/// How proofs of backups end.
const VERDICTS: [&str; 3] = ["verified", "failed", "undecided"];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("quorate_operator");
        let (rounds, steps) = (Family::default(), Family::default());
        let duration = Histogram::new([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]);
        let (leading, seen) = (Gauge::default(), Gauge::default());
        registry.register("reconciles", "Rounds by outcome", Family::clone(&rounds));
        registry.register("steps", "Steps taken, by kind", Family::clone(&steps));
        registry.register("reconcile_duration_seconds", "How long rounds take", duration.clone());
        registry.register("leader", "1 while this process is the one that works", leading.clone());
        registry.register("last_reconcile_timestamp_seconds", "When the last round ended", seen.clone());
        let (verifications, covered) = (Family::default(), Family::default());
        registry.register("backup_verifications", "Restores for proof, by outcome", Family::clone(&verifications));
        let reach = Family::clone(&covered);
        registry.register("backup_deltas_covered_timestamp_seconds", "Deltas are in the store up to this moment", reach);
        let due = Family::default();
        let wants = "When the next full backup is due; in the past, since when one is missing";
        registry.register("backup_due_timestamp_seconds", wants, Family::clone(&due));
        let conditions = Family::default();
        registry.register("cluster_condition", "1 where the condition is True", Family::clone(&conditions));
        // An alert goes by how much these rise, which is not seen of a figure that begins with its first event.
        for outcome in OUTCOMES {
            drop(rounds.get_or_create(&vec![("outcome", outcome.to_string())]));
        }
        for outcome in VERDICTS {
            drop(verifications.get_or_create(&vec![("outcome", outcome.to_string())]));
        }
        Self { registry, rounds, steps, duration, leading, seen, verifications, covered, due, conditions }
    }
}

impl Metrics {
    /// A round ended.
    pub fn round(&self, outcome: &str, took: Duration) {
        self.rounds.get_or_create(&vec![("outcome", outcome.to_string())]).inc();
        self.duration.observe(took.as_secs_f64());
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        self.seen.set(now.as_secs_f64());
    }

    /// A step is taken.
    pub fn step(&self, step: &Step) {
        let kind = match step {
            Step::Nothing => return,
            Step::SetReplicas(_) => "SetReplicas",
            Step::AddLearner { .. } => "AddLearner",
            Step::Promote { .. } => "Promote",
            Step::Remove { .. } => "Remove",
            Step::MoveLeader { .. } => "MoveLeader",
            Step::DeletePod { .. } => "DeletePod",
            Step::ForcePod { .. } => "ForcePod",
            Step::DeleteVolume { .. } => "DeleteVolume",
            Step::RetireVolume { .. } => "RetireVolume",
            Step::ReleaseVolume { .. } => "ReleaseVolume",
            Step::Compact { .. } => "Compact",
            Step::Defragment { .. } => "Defragment",
            Step::Disarm => "Disarm",
        };
        self.steps.get_or_create(&vec![("kind", kind.to_string())]).inc();
    }

    /// A backup was proved or refuted; none: the proof could not be made.
    pub fn verified(&self, well: Option<bool>) {
        let [verified, failed, undecided] = VERDICTS;
        let outcome = well.map_or(undecided, |well| if well { verified } else { failed });
        self.verifications.get_or_create(&vec![("outcome", outcome.to_string())]).inc();
    }

    /// How far a schedule's deltas reach, seconds since 1970; none: it keeps none.
    pub fn covered(&self, namespace: &str, schedule: &str, until: Option<f64>) {
        of_schedule(&self.covered, namespace, schedule, until);
    }

    /// When a schedule's next full backup is due, or was, seconds since 1970; none: none is to be made.
    pub fn backup_due(&self, namespace: &str, schedule: &str, at: Option<f64>) {
        of_schedule(&self.due, namespace, schedule, at);
    }

    /// A schedule is gone, and its figures with it.
    pub fn without_schedule(&self, namespace: &str, schedule: &str) {
        self.covered(namespace, schedule, None);
        self.backup_due(namespace, schedule, None);
    }

    /// What a cluster's status says.
    pub fn cluster(&self, namespace: &str, cluster: &str, conditions: &[Condition]) {
        for known in conditions.iter().filter(|known| CONDITIONS.contains(&known.type_.as_str())) {
            self.conditions.get_or_create(&of_cluster(namespace, cluster, &known.type_)).set(i64::from(known.status == "True"));
        }
    }

    /// A cluster is gone, and its figures with it.
    pub fn without_cluster(&self, namespace: &str, cluster: &str) {
        for condition in CONDITIONS {
            self.conditions.remove(&of_cluster(namespace, cluster, condition));
        }
    }

    /// This process began or ceased to be the one that works.
    pub fn leading(&self, leads: bool) {
        self.leading.set(i64::from(leads));
    }

    /// The page.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn of_schedule(family: &Family<Label, Gauge<f64, AtomicU64>>, namespace: &str, schedule: &str, value: Option<f64>) {
    let label = vec![("namespace", namespace.to_string()), ("schedule", schedule.to_string())];
    match value {
        Some(value) => drop(family.get_or_create(&label).set(value)),
        None => drop(family.remove(&label)),
    }
}

fn of_cluster(namespace: &str, cluster: &str, condition: &str) -> Label {
    vec![("namespace", namespace.to_string()), ("cluster", cluster.to_string()), ("condition", condition.to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A schedule's figures are shown while it is there.
    #[test]
    fn figures_of_schedules() {
        let metrics = Metrics::default();
        metrics.backup_due("ns", "nightly", Some(3600.0));
        metrics.covered("ns", "nightly", Some(60.0));
        let text = metrics.text();
        assert!(text.contains(r#"backup_due_timestamp_seconds{namespace="ns",schedule="nightly"} 3600.0"#), "{text}");
        metrics.without_schedule("ns", "nightly");
        assert!(!metrics.text().contains("nightly"));
    }

    /// The words for the page end once.
    #[test]
    fn help_ends_with_one_stop() {
        assert!(!Metrics::default().text().contains("..\n"));
    }

    /// Outcomes are there before the first of their kind: of a figure that begins with one, nobody sees that it rose.
    #[test]
    fn outcomes_begin_at_nothing() {
        let text = Metrics::default().text();
        for outcome in VERDICTS {
            assert!(text.contains(&format!(r#"backup_verifications_total{{outcome="{outcome}"}} 0"#)), "{text}");
        }
        for outcome in OUTCOMES {
            assert!(text.contains(&format!(r#"reconciles_total{{outcome="{outcome}"}} 0"#)), "{text}");
        }
    }

    /// A cluster's conditions are shown while it is there.
    #[test]
    fn conditions_of_clusters() {
        let metrics = Metrics::default();
        let condition = |kind: &str, status: &str| Condition {
            type_: kind.into(),
            status: status.into(),
            reason: String::new(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: crate::now(),
        };
        metrics.cluster("ns", "kv", &[condition("Stalled", "True"), condition("Ready", "False"), condition("Paused", "True")]);
        let text = metrics.text();
        assert!(
            text.contains(r#"quorate_operator_cluster_condition{namespace="ns",cluster="kv",condition="Stalled"} 1"#),
            "{text}"
        );
        assert!(text.contains(r#"condition="Ready"} 0"#) && !text.contains("Paused"), "{text}");
        metrics.without_cluster("ns", "kv");
        assert!(!metrics.text().contains(r#"cluster="kv""#));
    }
}
