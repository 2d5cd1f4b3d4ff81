//! `-w table`, and the rows that it shares with the simple format.

use quorate_proto::etcdserverpb as pb;

use super::{From, Health, Printer, write};
use crate::failure::Done;
use crate::notation;

/// The printer.
pub struct Table;

const MEMBERS: &[&str] = &["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"];
const HEALTH: &[&str] = &["endpoint", "health", "took", "error"];
const STATUS: &[&str] = &[
    "endpoint",
    "ID",
    "version",
    "storage version",
    "db size",
    "in use",
    "percentage not in use",
    "quota",
    "is leader",
    "is learner",
    "raft term",
    "raft index",
    "raft applied index",
    "errors",
    "downgrade target version",
    "downgrade enabled",
];
const HASHES: &[&str] = &["endpoint", "hash", "hash revision"];

impl Printer for Table {
    fn name(&self) -> &'static str {
        "table"
    }

    fn member_list(&self, answer: &pb::MemberListResponse) -> Done {
        write(draw(MEMBERS, &member_rows(answer)))
    }

    fn endpoint_health(&self, answers: &[Health]) -> Done {
        let rows: Vec<Vec<String>> = answers
            .iter()
            .map(|health| vec![health.endpoint.clone(), health.healthy.to_string(), health.took.clone(), health.error.clone()])
            .collect();
        write(draw(HEALTH, &rows))
    }

    fn endpoint_status(&self, answers: &[From<pb::StatusResponse>]) -> Done {
        write(draw(STATUS, &status_rows(answers)))
    }

    fn endpoint_hash_kv(&self, answers: &[From<pb::HashKvResponse>]) -> Done {
        write(draw(HASHES, &hash_rows(answers)))
    }
}

/// A row per member.
pub fn member_rows(answer: &pb::MemberListResponse) -> Vec<Vec<String>> {
    let row = |member: &pb::Member| {
        let status = if member.name.is_empty() { "unstarted" } else { "started" };
        vec![
            format!("{:x}", member.id),
            status.to_string(),
            member.name.clone(),
            member.peer_urls.join(","),
            member.client_urls.join(","),
            member.is_learner.to_string(),
        ]
    };
    answer.members.iter().map(row).collect()
}

/// A row per endpoint.
pub fn status_rows(answers: &[From<pb::StatusResponse>]) -> Vec<Vec<String>> {
    let row = |(endpoint, status): &From<pb::StatusResponse>| {
        let member = status.header.map_or(0, |header| header.member_id);
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        // A server that reports no size at all has nothing to divide by.
        let unused = 100 - (i128::from(status.db_size_in_use) * 100).checked_div(i128::from(status.db_size)).unwrap_or(100);
        vec![
            endpoint.clone(),
            format!("{member:x}"),
            status.version.clone(),
            status.storage_version.clone(),
            notation::size(status.db_size as u64),
            notation::size(status.db_size_in_use as u64),
            format!("{unused}%"),
            notation::size(status.db_size_quota as u64),
            (status.leader == member).to_string(),
            status.is_learner.to_string(),
            status.raft_term.to_string(),
            status.raft_index.to_string(),
            status.raft_applied_index.to_string(),
            status.errors.join(", "),
            downgrade.target_version,
            downgrade.enabled.to_string(),
        ]
    };
    answers.iter().map(row).collect()
}

/// A row per endpoint.
pub fn hash_rows(answers: &[From<pb::HashKvResponse>]) -> Vec<Vec<String>> {
    let row = |(endpoint, answer): &From<pb::HashKvResponse>| {
        vec![endpoint.clone(), answer.hash.to_string(), answer.hash_revision.to_string()]
    };
    answers.iter().map(row).collect()
}

/// Draws a table: headings in capitals and centred, cells to the right.
fn draw(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width_of = |text: &str| text.chars().count();
    let headings: Vec<String> = headings.iter().map(|heading| heading.to_uppercase()).collect();
    let widths: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(at, heading)| rows.iter().map(|row| width_of(&row[at])).max().unwrap_or(0).max(width_of(heading)))
        .collect();
    let rule = |left: &str, between: &str, right: &str| {
        let parts: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", parts.join(between))
    };
    let cells = |row: &[String], align: fn(&str, usize) -> String| {
        let parts: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!(" {} ", align(cell, *width))).collect();
        format!("│{}│\n", parts.join("│"))
    };
    let mut out = rule("┌", "┬", "┐");
    out.push_str(&cells(&headings, |cell, width| format!("{cell:^width$}")));
    if !rows.is_empty() {
        out.push_str(&rule("├", "┼", "┤"));
    }
    for row in rows {
        out.push_str(&cells(row, |cell, width| format!("{cell:>width$}")));
    }
    out.push_str(&rule("└", "┴", "┘"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frame that etcdctl 3.7 draws.
    #[test]
    fn drawing() {
        let drawn = draw(HASHES, &[vec!["127.0.0.1:32379".into(), "1266577734".into(), "4".into()]]);
        let expected = "\
┌─────────────────┬────────────┬───────────────┐
│    ENDPOINT     │    HASH    │ HASH REVISION │
├─────────────────┼────────────┼───────────────┤
│ 127.0.0.1:32379 │ 1266577734 │             4 │
└─────────────────┴────────────┴───────────────┘
";
        assert_eq!(drawn, expected);
    }
}
