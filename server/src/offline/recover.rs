//! `quorate recover`: what the disks of a lost cluster hold, which of them has the most, and a new cluster out of that one.
//!
//! In: data directories of members that do not run. Out: a report, as a table or JSON, and with `--yes` the chosen directory made a
//! cluster of one under a new cluster id. Directories that are only read are not changed. The choice is raft's own: the larger last
//! term, then the larger last index; whoever has that has everything the others have that was ever committed.

use super::say::{Row, table};
use crate::config::{Config, Parsed, Url};
use crate::env::files::RealFiles;
use crate::membership::departure;
use crate::membership::ticket::MAX_RECOVERY_ID;
use crate::node::{NodeSettings, Recovering, Survey, recover, recovered_cluster, survey};
use crate::serve::{self, Failure};
use crate::telemetry::{Metrics, log};
use serde_json::json;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

const USAGE: &str = "usage: quorate recover --data-dir DIR [--wal-dir DIR] [--data-dir DIR [--wal-dir DIR] ...] [--name NAME] \
                     [--initial-advertise-peer-urls URLS] [--id ID] [--dry-run | --yes] [-w table|json]";
/// Code of a directory whose data cannot be used.
const WRONG_DATA: i32 = 4;

fn usage(why: &str) -> Failure {
    Failure { text: format!("{why}\n{USAGE}"), code: 2 }
}

#[derive(Default)]
struct Asked {
    /// Data directories, each with the directory of its log when that is elsewhere.
    dirs: Vec<(PathBuf, Option<PathBuf>)>,
    name: Option<String>,
    peer_urls: Vec<String>,
    id: Option<String>,
    dry_run: bool,
    yes: bool,
    json: bool,
}

fn parse(args: Vec<OsString>) -> Result<Asked, Failure> {
    let mut asked = Asked::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        let (flag, given) = text.split_once('=').map_or((text.as_str(), None), |(f, v)| (f, Some(v.to_string())));
        let mut path = || given.clone().map(OsString::from).or_else(|| args.next()).filter(|v| !v.is_empty());
        let need = |value: Option<OsString>| value.ok_or_else(|| usage(&format!("{flag} needs a value")));
        let words = |value: OsString| value.to_string_lossy().into_owned();
        match flag {
            "--data-dir" => {
                let dir = PathBuf::from(need(path())?);
                if asked.dirs.iter().any(|(other, _)| *other == dir) {
                    return Err(usage(&format!("{} is given twice", dir.display())));
                }
                asked.dirs.push((dir, None));
            }
            "--wal-dir" => {
                let dir = need(path())?;
                match asked.dirs.last_mut() {
                    Some((_, wal @ None)) => *wal = Some(dir.into()),
                    _ => return Err(usage("--wal-dir follows the --data-dir that it belongs to")),
                }
            }
            "--name" => asked.name = Some(words(need(path())?)),
            "--initial-advertise-peer-urls" => asked.peer_urls = peer_urls(&words(need(path())?))?,
            "--id" => match words(need(path())?) {
                id if id.len() > MAX_RECOVERY_ID => return Err(usage(&format!("--id: longer than {MAX_RECOVERY_ID} bytes"))),
                id => asked.id = Some(id),
            },
            "--dry-run" => asked.dry_run = given.as_deref() != Some("false"),
            "--yes" => asked.yes = given.as_deref() != Some("false"),
            "-w" | "--write-out" => match words(need(path())?).as_str() {
                "json" => asked.json = true,
                "table" | "simple" => asked.json = false,
                other => return Err(usage(&format!("there is no output format {other:?}"))),
            },
            _ => return Err(usage(&format!("recover does not know {text:?}"))),
        }
    }
    if asked.dirs.is_empty() {
        return Err(usage("recover needs at least one --data-dir"));
    }
    if asked.yes && asked.dry_run {
        return Err(usage("--dry-run and --yes contradict each other"));
    }
    Ok(asked)
}

fn peer_urls(text: &str) -> Result<Vec<String>, Failure> {
    let wrong = |e: String| usage(&format!("--initial-advertise-peer-urls: {e}"));
    let urls = Url::parse_list(text).map_err(|e| wrong(e.to_string()))?;
    for url in &urls {
        url.check_advertised().map_err(|e| wrong(e.to_string()))?;
    }
    let mut urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
    urls.sort();
    Ok(urls)
}

fn settings_of((dir, wal): &(PathBuf, Option<PathBuf>)) -> Result<NodeSettings, Failure> {
    let mut args: Vec<OsString> = vec!["--data-dir".into(), dir.into()];
    if let Some(wal) = wal {
        args.extend(["--wal-dir".into(), wal.into()]);
    }
    match Config::from_env_and_args(args.into_iter(), std::iter::empty(), |path| std::fs::read_to_string(path)) {
        Ok(Parsed::Run(config, _)) => Ok(serve::node_settings(&config, &Metrics::new(false))),
        Ok(_) => Err(usage("recover")),
        Err(e) => Err(Failure { text: e.to_string(), code: i32::from(e.exit_code()) }),
    }
}

/// One directory, read.
struct Found {
    dir: PathBuf,
    settings: NodeSettings,
    survey: Survey,
}

impl Found {
    fn name(&self) -> String {
        let own = self.survey.own().map(|m| m.name.clone()).filter(|n| !n.is_empty());
        own.or_else(|| self.survey.stamp.name.clone()).unwrap_or_default()
    }

    fn called(&self) -> String {
        match self.name().as_str() {
            "" => format!("member {:016x}", self.survey.identity.member),
            name => format!("member {name}"),
        }
    }

    fn written(&self) -> String {
        match u64::try_from(self.survey.written_ms) {
            Ok(ms) if ms > 0 => log::timestamp(UNIX_EPOCH + Duration::from_millis(ms)),
            _ => "never".into(),
        }
    }

    fn role(&self) -> &'static str {
        match self.survey.own() {
            Some(m) if m.learner => "learner",
            Some(_) => "voter",
            None => "removed",
        }
    }
}

fn read(dir: &(PathBuf, Option<PathBuf>)) -> Result<Found, Failure> {
    let place = dir.0.display().to_string();
    let hint = "; nothing was changed. To go on without it, leave it out";
    if !dir.0.join("member").exists() {
        return Err(Failure { text: format!("{place} is no member's data directory{hint}"), code: WRONG_DATA });
    }
    if departure::is_buried(&dir.0) {
        let text = format!("{place}: {}{hint}", departure::farewell(&dir.0));
        return Err(Failure { text, code: departure::EXIT_CODE });
    }
    let settings = settings_of(dir)?;
    let survey = survey(&settings, &RealFiles::shared())
        .map_err(|e| Failure { text: format!("{place}: {e}{hint}"), code: e.exit_code() })?;
    Ok(Found { dir: dir.0.clone(), settings, survey })
}

/// All directories are of one cluster.
fn refuse_mixture(found: &[Found]) -> Result<(), Failure> {
    let first = &found[0];
    let Some(other) = found.iter().find(|f| f.survey.identity.cluster != first.survey.identity.cluster) else { return Ok(()) };
    let says = |f: &Found| {
        let cluster = f.survey.identity.cluster;
        let since = match f.survey.recoveries.iter().find(|r| r.cluster == cluster) {
            Some(r) => format!(" (since the recovery {}; cluster {:016x} before)", r.id, r.former),
            None => String::new(),
        };
        format!("{} belongs to cluster {cluster:016x}{since}", f.dir.display())
    };
    let text = format!("the directories are not of one cluster: {}, {}; nothing was changed", says(first), says(other));
    Err(Failure { text, code: WRONG_DATA })
}

/// The one that has the most, and is a member.
fn choose(found: &[Found]) -> Result<usize, Failure> {
    let eligible = |f: &&Found| f.survey.own().is_some() && f.survey.last.1 > 0;
    // A recovery that was cut short has told its own directory already that it counts.
    let rank = |f: &Found| (f.survey.begun.is_some(), f.survey.last, f.survey.committed, f.survey.applied);
    let best = found.iter().filter(eligible).map(rank).max();
    let at = best.and_then(|best| found.iter().position(|f| eligible(&f) && rank(f) == best));
    at.ok_or_else(|| {
        let text = "none of the directories holds a member's data: each is empty, or its member was removed; nothing was changed";
        Failure { text: text.into(), code: WRONG_DATA }
    })
}

/// What a recovery from one of the directories means.
struct Verdict {
    why: String,
    /// Entries that count as committed from now on and were not known to be.
    uncommitted: Option<(u64, u64)>,
    /// Whether every write that was ever acknowledged is there for certain.
    complete: bool,
    voters_given: (usize, usize),
    notes: Vec<String>,
}

fn judge(found: &[Found], chosen: usize) -> Verdict {
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
    let seen = "a client that has seen a higher one, such as a controller that caches, must be started again";
    notes.push(format!("the revision goes on from {}; {seen}", best.survey.revision));
    notes.push(
        "every other member of the cluster is left behind: with the data it has it is refused; with an empty one it can be added"
            .into(),
    );
    for twin in others().filter(|f| f.survey.identity.member == best.survey.identity.member) {
        notes.push(format!("{} holds the same member as {}: one is a copy", twin.dir.display(), best.dir.display()));
    }
    Verdict { why, uncommitted, complete, voters_given: (all - gone, all), notes }
}

fn as_table(found: &[Found], chosen: usize, verdict: &Verdict) -> String {
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

fn as_json(found: &[Found], chosen: usize, verdict: &Verdict, done: Option<(u64, &str)>) -> String {
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
        "notes": verdict.notes,
        "recovered": done.map(|(cluster, id)| json!({ "cluster_id": format!("{cluster:016x}"), "id": id })),
    });
    page.to_string()
}

/// Runs the command in `args`, which follow the word `recover`; what it says goes to standard output.
///
/// # Errors
/// A command line that cannot be read, or an action without `--yes` (code 2), a directory in use (3), one that is damaged, foreign or
/// empty, or several of different clusters (4), a failing disk (5), a member that was removed (6). Nothing was changed then, except
/// with 5.
pub fn run(args: Vec<OsString>) -> Result<String, Failure> {
    let asked = parse(args)?;
    let mut found = asked.dirs.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    refuse_mixture(&found)?;
    let chosen = choose(&found)?;
    let verdict = judge(&found, chosen);
    let report = |done: Option<(u64, &str)>, found: &[Found]| match asked.json {
        true => as_json(found, chosen, &verdict, done),
        false => as_table(found, chosen, &verdict),
    };
    if asked.dry_run {
        return Ok(report(None, &found));
    }
    if !asked.yes {
        let text = format!("{}\nnothing was changed: give --yes to carry it out, or --dry-run to only look", report(None, &found));
        return Err(Failure { text, code: 2 });
    }
    let begun = found[chosen].survey.begun.clone();
    let id = begun.or(asked.id.clone()).unwrap_or_else(|| format!("{:016x}", rand::random::<u64>()));
    if found[chosen].survey.stamp.recovered.contains(&id) {
        let text = format!("{} went through the recovery {id} already: nothing was changed", found[chosen].dir.display());
        return Err(Failure { text, code: WRONG_DATA });
    }
    let cluster = recovered_cluster(found[chosen].survey.identity.cluster, &id);
    let mut said = report(Some((cluster, &id)), &found);
    // The locks that the surveys hold are let go: the action takes its own.
    let Found { dir, settings, .. } = found.swap_remove(chosen);
    drop(found);
    let recovering = Recovering { id: id.clone(), name: asked.name.clone(), peer_urls: asked.peer_urls.clone() };
    recover(&settings, &recovering, &RealFiles::shared())?;
    if !asked.json {
        let place = dir.display();
        said += &format!(
            "\nrecovered: {place} is a cluster of one now, cluster {cluster:016x} (recovery {id}). Start it as before; then add members, \
             each with an empty data directory"
        );
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    /// Command lines that are refused, each with the reason; none of them looks at a disk.
    #[test]
    fn refused_command_lines() {
        for (line, why) in [
            (&[][..], "at least one"),
            (&["--data-dir"], "needs a value"),
            (&["--data-dir", "a", "--data-dir=a"], "twice"),
            (&["--wal-dir", "w", "--data-dir", "a"], "follows"),
            (&["--data-dir", "a", "--yes", "--dry-run"], "contradict"),
            (&["--data-dir", "a", "-w", "xml"], "output format"),
            (&["--data-dir", "a", "--initial-advertise-peer-urls", "x"], "peer-urls"),
            (&["--data-dir", "a", "b"], "does not know"),
        ] {
            let error = parse(args(line)).err().unwrap_or_else(|| panic!("{line:?}"));
            assert!(error.code == 2 && error.text.contains(why), "{line:?}: {}", error.text);
        }
        let asked =
            parse(args(&["--data-dir", "a", "--wal-dir", "w", "--data-dir=b", "--name", "n", "--yes", "-w", "json"])).unwrap();
        assert_eq!(asked.dirs, [("a".into(), Some("w".into())), ("b".into(), None)]);
        assert!(asked.yes && asked.json && asked.name.as_deref() == Some("n"));
    }
}
