//! Offline commands: `quorate snapshot status FILE`, `quorate snapshot restore FILE ...`, and [`recover`].
//!
//! Restore takes the server's own flags for where and as whom the member is made (`--data-dir`, `--name`, `--initial-cluster`,
//! `--initial-cluster-token`, `--initial-advertise-peer-urls`), and etcdutl's `--bump-revision`, `--mark-compacted`,
//! `--skip-hash-check`. `--delta FILE`, once for each file in order, or once with their folder, goes on from the snapshot with files of deltas, up to
//! `--to-revision` or `--to-time` when one is given.

use crate::config::{Config, Parsed};
use crate::env::files::RealFiles;
use crate::membership::gate;
use crate::node;
use crate::serve::{self, Failure};
use crate::snapshot::{self, Deltas, RestoreOptions, Until};
use crate::telemetry::Metrics;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub mod recover;
mod say;
mod verdict;

const USAGE: &str = "usage: quorate snapshot status FILE\n       quorate snapshot restore FILE --data-dir DIR [--name NAME] [--initial-cluster LIST] \
                     [--initial-cluster-token TOKEN] [--initial-advertise-peer-urls URLS] [--bump-revision N --mark-compacted] [--skip-hash-check] \
                     [--delta FILE]... [--to-revision N | --to-time RFC3339]";

fn usage(why: &str) -> Failure {
    Failure { text: format!("{why}\n{USAGE}"), code: 2 }
}

/// Runs the command in `args`, which follow the word `snapshot`; what it says goes to standard output.
///
/// # Errors
/// A command line that cannot be read (code 2), a damaged file (4), a folder that is in use or not empty, a failing disk (5).
pub fn snapshot(args: Vec<OsString>) -> Result<String, Failure> {
    let mut args = args.into_iter();
    let verb = args.next().unwrap_or_default();
    match verb.to_str() {
        Some("status") => {
            let file = args.next().ok_or_else(|| usage("snapshot status needs a file"))?;
            status(Path::new(&file))
        }
        Some("restore") => restore(args.collect()),
        _ => Err(usage("snapshot knows status and restore")),
    }
}

fn damaged(file: &Path, e: impl std::fmt::Display) -> Failure {
    Failure { text: format!("{}: {e}", file.display()), code: 4 }
}

fn status(file: &Path) -> Result<String, Failure> {
    let s = snapshot::status(file).map_err(|e| damaged(file, e))?;
    let page = serde_json::json!({
        "hash": s.hash, "revision": s.revision, "totalKey": s.total_keys, "totalSize": s.total_size, "version": s.made_by,
    });
    Ok(page.to_string())
}

fn restore(args: Vec<OsString>) -> Result<String, Failure> {
    let mut options = RestoreOptions::default();
    let mut file: Option<PathBuf> = None;
    let mut rest = Vec::new();
    let mut args = args.into_iter().peekable();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        let (flag, value) = text.split_once('=').map_or((text.as_str(), None), |(f, v)| (f, Some(v.to_string())));
        match flag {
            "--delta" | "--to-revision" | "--to-time" => {
                let value = value.or_else(|| args.next().map(|v| v.to_string_lossy().into_owned())).unwrap_or_default();
                onward(&mut options.deltas, flag, &value)?;
            }
            "--bump-revision" => {
                let value = value.or_else(|| args.next().map(|v| v.to_string_lossy().into_owned())).unwrap_or_default();
                options.bump_revision = value.parse().map_err(|_| usage(&format!("--bump-revision: {value:?} is not a number")))?;
            }
            "--mark-compacted" => options.mark_compacted = value.as_deref() != Some("false"),
            "--skip-hash-check" => options.skip_hash = value.as_deref() != Some("false"),
            _ if text.starts_with('-') => {
                rest.push(arg);
                if value.is_none() {
                    rest.extend(args.next());
                }
            }
            _ => file = Some(arg.into()),
        }
    }
    let file = file.ok_or_else(|| usage("snapshot restore needs a file"))?;
    if options.mark_compacted != (options.bump_revision > 0) {
        return Err(usage("--mark-compacted and --bump-revision go together"));
    }
    let parsed = Config::from_env_and_args(rest.into_iter(), std::iter::empty(), |path| std::fs::read_to_string(path));
    let config = match parsed {
        Ok(Parsed::Run(config, _)) => config,
        Ok(_) => return Err(usage("snapshot restore")),
        Err(e) => return Err(Failure { text: e.to_string(), code: i32::from(e.exit_code()) }),
    };
    let plan = gate::plan_of_flags(&config).map_err(|e| Failure { text: e.to_string(), code: 1 })?;
    let founding = plan.form.ok_or_else(|| usage("a restored member founds a cluster: --initial-cluster-state=new"))?;
    serve::make_data_dir(&config.data_dir)?;
    if node::read_identity(&config.data_dir)?.is_some() {
        let text = format!("a member lives in {} already; restore into an empty data directory", config.data_dir.display());
        return Err(Failure { text, code: 5 });
    }
    let settings = serve::node_settings(&config, &Metrics::new(false));
    let reached = node::restore(&file, &settings, &founding, &options, &RealFiles::shared())?;
    let mut words = format!("restored {} into {}", file.display(), config.data_dir.display());
    if !options.deltas.files.is_empty() {
        // A time asked for may lie after the last change that is there.
        let until =
            jiff::Timestamp::from_millisecond(reached.time_ms).map_or_else(|_| reached.time_ms.to_string(), |t| t.to_string());
        words += &format!(": revision {} of {until}, with {} files of deltas", reached.revision, reached.deltas);
    }
    Ok(words)
}

/// The file, or those of the folder in the order of their names.
fn files_of(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// One of the flags that lead on from a snapshot.
fn onward(deltas: &mut Deltas, flag: &str, value: &str) -> Result<(), Failure> {
    if flag == "--delta" {
        let path = PathBuf::from(value);
        deltas.files.extend(files_of(&path).map_err(|e| Failure { text: format!("{}: {e}", path.display()), code: 4 })?);
        return Ok(());
    }
    if deltas.until != Until::Newest {
        return Err(usage("give one of --to-revision and --to-time, once"));
    }
    deltas.until = match flag {
        "--to-revision" => Until::Revision(value.parse().map_err(|_| usage(&format!("--to-revision: {value:?} is not a number")))?),
        _ => {
            let time: jiff::Timestamp = value.parse().map_err(|e| usage(&format!("--to-time: {value:?}: {e}")))?;
            Until::Time(time.as_millisecond())
        }
    };
    Ok(())
}
