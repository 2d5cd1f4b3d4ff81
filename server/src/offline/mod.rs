//! Offline commands: `quorate snapshot status FILE`, `quorate snapshot restore FILE ...`, and [`recover`].
//!
//! Restore takes the server's own flags for where and as whom the member is made (`--data-dir`, `--name`, `--initial-cluster`,
//! `--initial-cluster-token`, `--initial-advertise-peer-urls`), and etcdutl's `--bump-revision`, `--mark-compacted`,
//! `--skip-hash-check`. `--delta FILE`, once for each file in order, or once with their folder, goes on from the snapshot with files of deltas, up to
//! `--to-revision` or `--to-time` when one is given.

use crate::config::{Config, Parsed, parse_bool, parse_uint};
use crate::env::files::RealFiles;
use crate::membership::gate;
use crate::node;
use crate::serve::{self, Failure};
use crate::snapshot::{self, Deltas, RestoreOptions, Until};
use crate::telemetry::Metrics;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

mod others;
pub mod recover;
mod say;
mod verdict;

const USAGE: &str = "usage: quorate snapshot status FILE [-w json|table]\n       quorate snapshot restore FILE --data-dir DIR [--name NAME] [--initial-cluster LIST] \
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
            let (file, form) = status_words(args)?;
            status(Path::new(&file), form)
        }
        Some("restore") => restore(args.collect()),
        _ => Err(usage("snapshot knows status and restore")),
    }
}

fn damaged(file: &Path, e: impl std::fmt::Display) -> Failure {
    Failure { text: format!("{}: {e}", file.display()), code: 4 }
}

/// How `snapshot status` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Table,
}

/// The file to look at, and the form asked for by `-w` or `--write-out`.
fn status_words(args: impl Iterator<Item = OsString>) -> Result<(OsString, Form), Failure> {
    let (mut file, mut form) = (None, Form::Json);
    let mut args = args;
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        let (flag, value) = text.split_once('=').map_or((text.as_str(), None), |(f, v)| (f, Some(v.to_owned())));
        match flag {
            "-w" | "--write-out" => {
                let value = value.or_else(|| args.next().map(|v| v.to_string_lossy().into_owned()));
                form = match value.as_deref() {
                    Some("json") => Form::Json,
                    Some("table") => Form::Table,
                    Some(other) => return Err(usage(&format!("{flag}: unknown format {other:?} (json or table)"))),
                    None => return Err(usage(&format!("{flag} needs a format (json or table)"))),
                };
            }
            _ if text.starts_with('-') && text.len() > 1 => return Err(usage(&format!("snapshot status does not know {flag}"))),
            _ if file.is_some() => return Err(usage("snapshot status looks at one file")),
            _ => file = Some(arg),
        }
    }
    Ok((file.ok_or_else(|| usage("snapshot status needs a file"))?, form))
}

/// One row under its headings, in a frame.
fn frame(cells: &[(&str, String)]) -> String {
    let width = |(name, value): &(&str, String)| name.chars().count().max(value.chars().count());
    let rule = cells.iter().map(|cell| "-".repeat(width(cell) + 2)).collect::<Vec<_>>().join("+");
    let row = |text: &dyn Fn(&(&str, String)) -> String| {
        cells.iter().map(|cell| format!(" {:^1$} ", text(cell), width(cell))).collect::<Vec<_>>().join("|")
    };
    let (names, values) = (row(&|(name, _)| (*name).to_owned()), row(&|(_, value)| value.clone()));
    format!("+{rule}+\n|{names}|\n+{rule}+\n|{values}|\n+{rule}+")
}

fn status(file: &Path, form: Form) -> Result<String, Failure> {
    let s = snapshot::status(file).map_err(|e| damaged(file, e))?;
    if form == Form::Table {
        return Ok(frame(&[
            ("HASH", format!("{:x}", s.hash)),
            ("REVISION", s.revision.to_string()),
            ("TOTAL KEYS", s.total_keys.to_string()),
            ("TOTAL SIZE", s.total_size.to_string()),
            ("VERSION", s.made_by.to_string()),
        ]));
    }
    let page = serde_json::json!({
        "hash": s.hash, "revision": s.revision, "totalKey": s.total_keys, "totalSize": s.total_size, "version": s.made_by,
    });
    Ok(page.to_string())
}

/// The command line of `snapshot restore`: the file, what is to be done with it, and the server's flags.
fn restore_words(args: Vec<OsString>) -> Result<(PathBuf, RestoreOptions, Vec<OsString>), Failure> {
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
                options.bump_revision = whole(flag, &value)?;
            }
            "--mark-compacted" => options.mark_compacted = truth(flag, value.as_deref()).map_err(|e| usage(&e))?,
            "--skip-hash-check" => options.skip_hash = truth(flag, value.as_deref()).map_err(|e| usage(&e))?,
            // How much of etcd's file is mapped; there is no such file here.
            "--initial-memory-map-size" => {
                let value = value.or_else(|| args.next().map(|v| v.to_string_lossy().into_owned())).unwrap_or_default();
                whole(flag, &value)?;
            }
            _ if text.starts_with('-') => {
                rest.push(arg);
                if value.is_none() {
                    rest.extend(args.next());
                }
            }
            _ if file.is_some() => return Err(usage("snapshot restore takes one file")),
            _ => file = Some(arg.into()),
        }
    }
    let file = file.ok_or_else(|| usage("snapshot restore needs a file"))?;
    if options.mark_compacted != (options.bump_revision > 0) {
        return Err(usage("--mark-compacted and --bump-revision go together"));
    }
    Ok((file, options, rest))
}

/// A flag's number, as Go reads it.
fn whole(flag: &str, value: &str) -> Result<u64, Failure> {
    parse_uint(value, u64::MAX).map_err(|_| usage(&format!("{flag}: {value:?} is not a number")))
}

/// A flag that says yes when it stands alone; else by Go's words. The error says what is wrong with it.
fn truth(flag: &str, value: Option<&str>) -> Result<bool, String> {
    value.map_or(Ok(true), |value| parse_bool(value).map_err(|_| format!("{flag}: {value:?} is neither true nor false")))
}

fn restore(args: Vec<OsString>) -> Result<String, Failure> {
    let (file, options, rest) = restore_words(args)?;
    let parsed = Config::from_env_and_args(rest.into_iter(), std::iter::empty(), |path| std::fs::read_to_string(path), || None);
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
    node::refuse_foreign(&settings)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A command line of a restore means what it means to etcdutl: Go's words for yes and no, numbers as Go reads them, one file.
    #[test]
    fn words_of_restore() {
        let words = |line: &str| restore_words(line.split_whitespace().map(OsString::from).collect());
        let (file, options, rest) =
            words("f --skip-hash-check=F --mark-compacted=1 --bump-revision 0x10 --initial-memory-map-size=0 --data-dir d")
                .unwrap();
        assert_eq!((file, rest), ("f".into(), vec!["--data-dir".into(), "d".into()]));
        assert!(options.mark_compacted && !options.skip_hash);
        assert_eq!(options.bump_revision, 16);
        assert!(!words("f --skip-hash-check=0").unwrap().1.skip_hash);
        for bad in ["", "f g", "f --skip-hash-check=maybe", "f --bump-revision=x --mark-compacted", "f --mark-compacted"] {
            assert_eq!(words(bad).err().map(|failure| failure.code), Some(2), "{bad:?}");
        }
    }

    /// Nothing is restored among another program's files.
    #[test]
    fn restore_wants_a_folder_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("theirs"), "x").unwrap();
        let args = ["restore".into(), "no-such-file".into(), "--data-dir".into(), dir.path().as_os_str().to_owned()];
        let refused = snapshot(args.into()).unwrap_err();
        assert!(refused.text.contains("theirs"), "{}", refused.text);
    }

    /// The form is taken from before or behind the file, and one that is not known is refused.
    #[test]
    fn forms_of_status() {
        let words = |line: &str| status_words(line.split_whitespace().map(OsString::from)).map_err(|failure| failure.code);
        assert_eq!(words("f"), Ok(("f".into(), Form::Json)));
        assert_eq!(words("f -w json"), Ok(("f".into(), Form::Json)));
        assert_eq!(words("--write-out=table f"), Ok(("f".into(), Form::Table)));
        for bad in ["", "f -w foo", "f -w", "f --color", "f g"] {
            assert_eq!(words(bad), Err(2), "{bad:?}");
        }
        let framed = frame(&[("A", "123".into()), ("LONG", "x".into())]);
        assert_eq!(framed, "+-----+------+\n|  A  | LONG |\n+-----+------+\n| 123 |  x   |\n+-----+------+");
    }
}
