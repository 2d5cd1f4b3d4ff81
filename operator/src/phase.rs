//! How far something is that somebody asked for: phase, beginning and end stamped in one way for tasks, restores and backups, and
//! statuses written in one way.
//!
//! In: what was found in this round. Out: the status' common fields. Invariants: a beginning and an end are stamped once; a condition's
//! time changes only with its status.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::PostParams;
use kube::core::object::HasStatus;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The phase of what may be begun.
pub const ADMITTED: &str = "Admitted";
/// Phases that never change again.
pub const FINAL: [&str; 2] = ["Succeeded", "Failed"];

/// True for a phase that never changes again.
pub fn is_final(phase: Option<&str>) -> bool {
    phase.is_some_and(|phase| FINAL.contains(&phase))
}

/// What was found in this round.
pub struct Found<'a> {
    /// The phase.
    pub phase: &'a str,
    /// The reason of the condition `Complete`.
    pub reason: &'a str,
    /// Its message: what is done or waited for, or why it ended.
    pub message: &'a str,
    /// The generation of the spec that was looked at.
    pub generation: Option<i64>,
}

/// The fields that every such status has.
pub struct Stamp<'a> {
    /// The phase.
    pub phase: &'a mut Option<String>,
    /// When work on it began.
    pub started_at: &'a mut Option<Time>,
    /// When it was done, or given up.
    pub finished_at: &'a mut Option<Time>,
    /// Its conditions.
    pub conditions: &'a mut Vec<Condition>,
}

impl Stamp<'_> {
    /// Stamps what was found. What only waits, or failed before anything was done, has no beginning.
    pub fn set(self, found: &Found<'_>, now: Time) {
        let begun = !matches!(found.phase, "Pending" | ADMITTED | "Failed");
        if begun && self.started_at.is_none() {
            *self.started_at = Some(now.clone());
        }
        if FINAL.contains(&found.phase) && self.finished_at.is_none() {
            *self.finished_at = Some(now.clone());
        }
        let done = found.phase == "Succeeded";
        set_condition(self.conditions, "Complete", done, found.reason, found.message, found.generation, now);
        *self.phase = Some(found.phase.into());
    }
}

/// Writes a status in place of the one that was read, if it says something new. Who wrote meanwhile wins.
///
/// # Errors
/// When the API server refuses, a conflict among that.
pub async fn write<K>(api: &Api<K>, object: &K, status: K::Status) -> kube::Result<()>
where
    K: Resource + HasStatus + Clone + Debug + Serialize + DeserializeOwned,
    K::Status: PartialEq + Default + Clone,
{
    if object.status().cloned().unwrap_or_default() == status {
        return Ok(());
    }
    let mut next = object.clone();
    next.meta_mut().managed_fields = None;
    *next.status_mut() = Some(status);
    api.replace_status(&object.name_any(), &PostParams::default(), &next).await.map(drop)
}

/// Sets one condition; its time changes only with its status. True when anything changed.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    kind: &str,
    status: bool,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Time,
) -> bool {
    set_condition_to(conditions, kind, if status { "True" } else { "False" }, reason, message, generation, now)
}

/// The same, with the status by its name: True, False or Unknown.
pub fn set_condition_to(
    conditions: &mut Vec<Condition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Time,
) -> bool {
    let old = conditions.iter().position(|condition| condition.type_ == kind);
    let since = old.map(|at| &conditions[at]).filter(|old| old.status == status).map(|old| old.last_transition_time.clone());
    let new = Condition {
        type_: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or(now),
    };
    match old {
        Some(at) if conditions[at] == new => false,
        Some(at) => {
            conditions[at] = new;
            true
        }
        None => {
            conditions.push(new);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    /// Waiting is no beginning, the first work is, and the end is stamped once; what failed untouched never began.
    #[test]
    fn stamps() {
        let run = |phases: &[&str]| {
            let (mut phase, mut started_at, mut finished_at, mut conditions) = (None, None, None, Vec::new());
            for (second, name) in phases.iter().enumerate() {
                let stamp = Stamp {
                    phase: &mut phase,
                    started_at: &mut started_at,
                    finished_at: &mut finished_at,
                    conditions: &mut conditions,
                };
                let found = Found { phase: name, reason: name, message: "", generation: None };
                stamp.set(&found, at(i64::try_from(second).unwrap()));
            }
            let seconds = |time: Option<Time>| time.map(|time| time.0.as_second());
            (seconds(started_at), seconds(finished_at), conditions[0].status.clone(), phase.unwrap())
        };
        assert_eq!(run(&["Pending", ADMITTED, "Running", "Running", "Succeeded", "Succeeded"]).0, Some(2));
        assert_eq!(
            run(&["Pending", ADMITTED, "Running", "Running", "Succeeded", "Succeeded"]),
            (Some(2), Some(4), "True".into(), "Succeeded".into())
        );
        assert_eq!(run(&["Pending", "Failed"]), (None, Some(1), "False".into(), "Failed".into()));
        assert_eq!(run(&["BackingUp", ADMITTED]), (Some(0), None, "False".into(), ADMITTED.into()));
    }
}
