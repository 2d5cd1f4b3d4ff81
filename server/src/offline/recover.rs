//! `quorate recover`: what the disks of a lost cluster hold, which of them has the most, and a new cluster out of that one.
//!
//! In: data directories of members that do not run. Out: a report, as a table or JSON, and with `--yes` the chosen directory made a
//! cluster of one under a new cluster id. Directories that are only read are not changed. The choice is raft's own: the larger last
//! term, then the larger last index; whoever has that has everything the others have that was ever committed.

use super::others::at_work;
use super::truth;
use super::verdict::{as_json, as_table, judge};
use crate::config::{Config, Parsed, Url};
use crate::env::files::RealFiles;
use crate::membership::departure;
use crate::membership::ticket::MAX_RECOVERY_ID;
use crate::node::{NodeSettings, Recovering, Survey, recover, recovered_cluster, survey};
use crate::serve::{self, Failure};
use crate::telemetry::{Metrics, log};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

const USAGE: &str = "usage: quorate recover --data-dir DIR [--wal-dir DIR] [--data-dir DIR [--wal-dir DIR] ...] [--name NAME] \
                     [--initial-advertise-peer-urls URLS] [--id ID] [--dry-run | --yes [--force]] [-w table|json]";
/// Code of a directory in use, or of a cluster that seems to be at work.
const IN_USE: i32 = 3;
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
    /// Even when others seem to be at work.
    force: bool,
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
        let yes = || truth(flag, given.as_deref()).map_err(|e| usage(&e));
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
            "--dry-run" => asked.dry_run = yes()?,
            "--yes" => asked.yes = yes()?,
            "--force" => asked.force = yes()?,
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
    match Config::from_env_and_args(args.into_iter(), std::iter::empty(), |path| std::fs::read_to_string(path), || None) {
        Ok(Parsed::Run(config, _)) => Ok(serve::node_settings(&config, &Metrics::new(false))),
        Ok(_) => Err(usage("recover")),
        Err(e) => Err(Failure { text: e.to_string(), code: i32::from(e.exit_code()) }),
    }
}

/// One directory, read.
pub(super) struct Found {
    pub dir: PathBuf,
    settings: NodeSettings,
    pub survey: Survey,
}

impl Found {
    pub fn name(&self) -> String {
        let own = self.survey.own().map(|m| m.name.clone()).filter(|n| !n.is_empty());
        own.or_else(|| self.survey.stamp.name.clone()).unwrap_or_default()
    }

    pub fn called(&self) -> String {
        match self.name().as_str() {
            "" => format!("member {:016x}", self.survey.identity.member),
            name => format!("member {name}"),
        }
    }

    pub fn written(&self) -> String {
        match u64::try_from(self.survey.written_ms) {
            Ok(ms) if ms > 0 => log::timestamp(UNIX_EPOCH + Duration::from_millis(ms)),
            _ => "never".into(),
        }
    }

    pub fn role(&self) -> &'static str {
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
    // A recovery that was cut short has told its own directory already that it counts. Of equal logs the one whose rows are trusted.
    let rank = |f: &Found| (f.survey.begun.is_some(), f.survey.last, !f.survey.fenced, f.survey.committed, f.survey.applied);
    let best = found.iter().filter(eligible).map(rank).max();
    let at = best.and_then(|best| found.iter().position(|f| eligible(&f) && rank(f) == best));
    at.ok_or_else(|| {
        let text = "none of the directories holds a member's data: each is empty, or its member was removed; nothing was changed";
        Failure { text: text.into(), code: WRONG_DATA }
    })
}

/// Runs the command in `args`, which follow the word `recover`; what it says goes to standard output.
///
/// # Errors
/// A command line that cannot be read, or an action without `--yes` (code 2), a directory in use or a cluster that seems to be at work
/// (3), one that is damaged, foreign or empty, or several of different clusters (4), a failing disk (5), a member that was removed (6).
/// Nothing was changed then, except with 5.
pub fn run(args: Vec<OsString>) -> Result<String, Failure> {
    let asked = parse(args)?;
    let mut found = asked.dirs.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    refuse_mixture(&found)?;
    let chosen = choose(&found)?;
    let given: Vec<u64> = found.iter().map(|f| f.survey.identity.member).collect();
    let others = at_work(&found[chosen].survey, &given);
    let verdict = judge(&found, chosen, &others);
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
    if verdict.at_work && !asked.force {
        let text = format!(
            "{}\nnothing was changed: stop the others first, or give --force if it is not they who listen there",
            report(None, &found)
        );
        return Err(Failure { text, code: IN_USE });
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
            (&["--data-dir", "a", "--yes=maybe"], "neither true nor false"),
        ] {
            let error = parse(args(line)).err().unwrap_or_else(|| panic!("{line:?}"));
            assert!(error.code == 2 && error.text.contains(why), "{line:?}: {}", error.text);
        }
        let asked =
            parse(args(&["--data-dir", "a", "--wal-dir", "w", "--data-dir=b", "--name", "n", "--yes", "-w", "json"])).unwrap();
        assert_eq!(asked.dirs, [("a".into(), Some("w".into())), ("b".into(), None)]);
        assert!(asked.yes && asked.json && asked.name.as_deref() == Some("n"));
        // Go's words, as everywhere: no one's data are changed by a no.
        let asked = parse(args(&["--data-dir", "a", "--yes=0", "--force=F"])).unwrap();
        assert!(!asked.yes && !asked.force);
    }
}
