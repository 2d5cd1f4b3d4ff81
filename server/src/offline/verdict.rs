//! Verdict: what a recovery from one of several directories means, and how it is told.
//!
//! In: the directories as read, and which one is chosen. Out: why it is, what counts as committed from then on, what may be lost, as a
//! table or as JSON. Nothing is said to be safe that these disks cannot show.

use super::others::Other;
use super::recover::Found;
use super::say::{Row, table};
use serde_json::json;
use std::collections::BTreeSet;

/// What a recovery from one of the directories means.
pub(super) struct Verdict {
    pub why: String,
    /// Entries that count as committed from now on and were not known to be.
    pub uncommitted: Option<(u64, u64)>,
    /// Whether every write that was ever acknowledged is there for certain.
    pub complete: bool,
    pub voters_given: (usize, usize),
    /// Others that seem to be at work are a quorum: the cluster may not be lost at all.
    pub at_work: bool,
    others: Vec<u64>,
    pub notes: Vec<String>,
}

pub(super) fn judge(found: &[Found], chosen: usize, others_at_work: &[Other]) -> Verdict {
    let best = &found[chosen];
    let (term, index) = best.survey.last;
    let others = || found.iter().enumerate().filter(move |(at, _)| *at != chosen).map(|(_, f)| f);
    let next = others().max_by_key(|f| f.survey.last);
    let why = match next {
        None => format!("it is the only one given; its log ends at term {term}, index {index}"),
        Some(next) => {
            let (t, i) = next.survey.last;
            let how = match () {
                () if best.survey.begun.is_some() => "a recovery from it was begun and cut short",
                () if t < term => "its last term is the highest",
                () if i < index => "of those with the highest last term its log is the longest",
                () => "no other goes further",
            };
            format!("{how}: its log ends at term {term}, index {index}, that of {} at term {t}, index {i}", next.called())
        }
    };
    let given: BTreeSet<u64> = found.iter().map(|f| f.survey.identity.member).collect();
    // A set of members that is not given and makes a quorum by itself may have acknowledged what no given one heard of.
    let missing = |voters: &Vec<u64>| voters.iter().filter(|id| !given.contains(id)).count();
    let worst = best.survey.voters.iter().max_by_key(|v| (missing(v) > v.len() / 2, missing(v)));
    let (all, gone) = worst.map_or((0, 0), |v| (v.len(), missing(v)));
    let complete = gone <= all / 2 && best.survey.begun.is_none();
    let committed = best.survey.committed;
    let uncommitted = (committed < index).then_some((committed + 1, index));
    let works = |id: &u64| others_at_work.iter().any(|other| other.id == *id);
    // Once a recovery was begun, this directory is no part of that cluster any more.
    let at_work = best.survey.begun.is_none()
        && best.survey.voters.iter().any(|voters| voters.iter().filter(|id| works(id)).count() > voters.len() / 2);
    let mut notes = Vec::new();
    match uncommitted {
        Some((from, to)) => notes.push(format!(
            "{} of its entries ({from} to {to}) were not known to be committed. They count as committed from now on: some may be writes \
             whose clients were told nothing, or were told of a failure",
            to - from + 1
        )),
        None => notes.push("all of its entries were known to be committed".into()),
    }
    if let Some(id) = &best.survey.begun {
        notes = vec![format!(
            "it goes on with the recovery {id}, which was begun and cut short: what that may have lost was said then, and these disks no \
             longer tell"
        )];
    } else if complete {
        notes.push(format!(
            "no acknowledged write is lost: {} of {all} voters are given, which is at least one of every quorum, and the chosen one has \
             what any of them has",
            all - gone
        ));
    } else {
        notes.push(format!(
            "acknowledged writes may be lost: {} of {all} voters are given, and the other {gone} are a quorum without them. Whatever they \
             acknowledged and the given ones never heard of is gone: it lies above index {index} (revision {}), and how much it is cannot \
             be known from these disks. The newest write here is of {}",
            all - gone,
            best.survey.revision,
            best.written()
        ));
    }
    if best.survey.fenced {
        notes.push(
            "its rows differ from what the majority had: the cluster had set it aside (alarm CORRUPT) and not rebuilt it yet. Compare what \
             it serves with a backup"
                .into(),
        );
    }
    let seen = "a client that has seen a higher one, such as a controller that caches, must be started again";
    notes.push(format!("the revision goes on from {}; {seen}", best.survey.revision));
    notes.push(
        "every other member of the cluster is left behind: with the data it has it is refused; with an empty one it can be added"
            .into(),
    );
    if !others_at_work.is_empty() {
        let names: Vec<String> = others_at_work.iter().map(ToString::to_string).collect();
        notes.push(format!(
            "something takes connections at the address of {}{}",
            names.join(", "),
            if at_work { ": they are a quorum, and the cluster may be at work" } else { "" }
        ));
    }
    for twin in others().filter(|f| f.survey.identity.member == best.survey.identity.member) {
        notes.push(format!("{} holds the same member as {}: one is a copy", twin.dir.display(), best.dir.display()));
    }
    Verdict {
        why,
        uncommitted,
        complete,
        voters_given: (all - gone, all),
        at_work,
        others: others_at_work.iter().map(|other| other.id).collect(),
        notes,
    }
}

pub(super) fn as_table(found: &[Found], chosen: usize, verdict: &Verdict) -> String {
    let head = ["", "DATA DIR", "MEMBER", "NAME", "ROLE", "TERM", "INDEX", "COMMITTED", "APPLIED", "REVISION", "LAST WRITE"];
    let row = |(at, f): (usize, &Found)| -> Row {
        let s = &f.survey;
        vec![
            if at == chosen { "*" } else { "" }.into(),
            f.dir.display().to_string(),
            format!("{:016x}", s.identity.member),
            f.name(),
            f.role().into(),
            s.last.0.to_string(),
            s.last.1.to_string(),
            s.committed.to_string(),
            s.applied.to_string(),
            s.revision.to_string(),
            f.written(),
        ]
    };
    let rows: Vec<Row> =
        std::iter::once(head.iter().map(ToString::to_string).collect()).chain(found.iter().enumerate().map(row)).collect();
    let best = &found[chosen];
    let mut out = format!("cluster {:016x}\n{}\n", best.survey.identity.cluster, table(&rows));
    out += &format!("chosen: {} ({}): {}\n\n", best.dir.display(), best.called(), verdict.why);
    for note in &verdict.notes {
        out += &format!("- {note}\n");
    }
    out
}

pub(super) fn as_json(found: &[Found], chosen: usize, verdict: &Verdict, done: Option<(u64, &str)>) -> String {
    let row = |f: &Found| {
        let s = &f.survey;
        json!({
            "data_dir": f.dir.display().to_string(),
            "member_id": format!("{:016x}", s.identity.member),
            "name": f.name(),
            "role": f.role(),
            "last_term": s.last.0,
            "last_index": s.last.1,
            "committed_index": s.committed,
            "applied_index": s.applied,
            "revision": s.revision,
            "last_write": (s.written_ms > 0).then(|| f.written()),
            "members": s.members.iter().map(|m| json!({
                "id": format!("{:016x}", m.id), "name": m.name, "peer_urls": m.peer_urls, "learner": m.learner,
            })).collect::<Vec<_>>(),
        })
    };
    let page = json!({
        "cluster_id": format!("{:016x}", found[chosen].survey.identity.cluster),
        "directories": found.iter().map(row).collect::<Vec<_>>(),
        "chosen": found[chosen].dir.display().to_string(),
        "why": verdict.why,
        "uncommitted": verdict.uncommitted.map(|(from, to)| json!({ "from": from, "to": to })),
        "voters_given": verdict.voters_given.0,
        "voters": verdict.voters_given.1,
        "acknowledged_writes_may_be_lost": !verdict.complete,
        "others_at_work": verdict.others.iter().map(|id| format!("{id:016x}")).collect::<Vec<_>>(),
        "notes": verdict.notes,
        "recovered": done.map(|(cluster, id)| json!({ "cluster_id": format!("{cluster:016x}"), "id": id })),
    });
    page.to_string()
}
