//! Backups: a Job for each, schedules that make them, and what both share with restores.

pub mod cron;
pub mod job;
pub mod schedule;
pub mod take;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

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
    let status = if status { "True" } else { "False" };
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
