//! A log file that starts anew when it is full (--enable-log-rotation).
//!
//! In: whole lines. Out: the file, and beside it `NAME-TIMESTAMP.EXT` for each that was full, gzipped as `.gz` when asked for; the oldest
//! are removed by count and by age. Invariants: a line is in one file only; a file that cannot be moved goes on growing, no line is lost
//! for it; only names of this form are ever removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The moment in a backup's name, to milliseconds.
const STAMP: &str = "%Y-%m-%dT%H-%M-%S.%3f";
const STAMP_LENGTH: usize = "2026-11-21T12-59-22.617".len();
/// Names tried for one file before it goes on growing.
const MOST_OF_A_MOMENT: u64 = 100;
/// What a gzipped backup ends in.
const GZIPPED: &str = ".gz";

/// When a log file is full, and what becomes of full ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// A file grows no larger, but for a line that is longer by itself.
    pub max_bytes: u64,
    /// Older backups are removed; `None` keeps them.
    pub max_age: Option<Duration>,
    /// More backups are removed, the oldest first; 0 keeps all.
    pub max_backups: usize,
    /// Names carry local time, not UTC.
    pub local_time: bool,
    /// Backups are gzipped.
    pub compress: bool,
}

/// The open file. One writer at a time.
pub(super) struct Rotated {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    size: u64,
    tidying: Arc<AtomicBool>,
}

impl Rotated {
    /// Opens the file, or makes it with its folder.
    pub(super) fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::create_dir_all(dir)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let size = file.metadata()?.size();
        let rotated = Self { path: path.to_owned(), rotation, file, size, tidying: Arc::default() };
        rotated.tidy();
        Ok(rotated)
    }

    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + line.len() as u64 > self.rotation.max_bytes && self.turn(SystemTime::now()).is_ok() {
            self.tidy();
        }
        self.size += line.len() as u64;
        self.file.write_all(line)
    }

    /// Moves the file aside and begins a new one with its rights.
    fn turn(&mut self, at: SystemTime) -> io::Result<()> {
        let rights = self.file.metadata()?.permissions();
        let mut aside = backup_name(&self.path, at, self.rotation.local_time)?;
        // Two full files within a millisecond: the second takes the next name that is free.
        for later in 1..=MOST_OF_A_MOMENT {
            if !aside.exists() {
                break;
            }
            aside = backup_name(&self.path, at + Duration::from_millis(later), self.rotation.local_time)?;
        }
        if aside.exists() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(&self.path, &aside)?;
        let made = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path);
        let file = made.inspect_err(|_| drop(fs::rename(&aside, &self.path)))?;
        let _ = file.set_permissions(rights);
        (self.file, self.size) = (file, 0);
        Ok(())
    }

    /// Removes and gzips in a thread of its own, one at a time: what is left over is found by the next.
    fn tidy(&self) {
        let r = &self.rotation;
        if (r.max_backups == 0 && r.max_age.is_none() && !r.compress) || self.tidying.swap(true, Ordering::AcqRel) {
            return;
        }
        let (path, rotation, tidying) = (self.path.clone(), r.clone(), self.tidying.clone());
        let work = move || {
            let _ = tidy(&path, &rotation, SystemTime::now());
            tidying.store(false, Ordering::Release);
        };
        if std::thread::Builder::new().name("log-tidy".into()).spawn(work).is_err() {
            self.tidying.store(false, Ordering::Release);
        }
    }
}

fn zone(local: bool) -> TimeZone {
    if local { TimeZone::system() } else { TimeZone::UTC }
}

/// The file's name up to its last dot, and the rest.
fn stem(path: &Path) -> (String, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let at = name.rfind('.').unwrap_or(name.len());
    (name[..at].to_owned(), name[at..].to_owned())
}

fn backup_name(path: &Path, at: SystemTime, local: bool) -> io::Result<PathBuf> {
    let at = jiff::Timestamp::try_from(at).map_err(io::Error::other)?.to_zoned(zone(local));
    let (stem, end) = stem(path);
    Ok(path.with_file_name(format!("{stem}-{}{end}", at.strftime(STAMP))))
}

/// The moment that a backup's name carries; `None` for every other file.
fn stamp_of(name: &str, stem: &str, end: &str) -> Option<DateTime> {
    let rest = name.strip_prefix(stem)?.strip_prefix('-')?;
    let stamp = rest.strip_suffix(GZIPPED).and_then(|rest| rest.strip_suffix(end)).or_else(|| rest.strip_suffix(end))?;
    if stamp.len() != STAMP_LENGTH {
        return None;
    }
    DateTime::strptime("%Y-%m-%dT%H-%M-%S%.f", stamp).ok()
}

/// Removes what is too many or too old, and gzips the rest when that is asked for.
fn tidy(path: &Path, rotation: &Rotation, now: SystemTime) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (stem, end) = stem(path);
    let mut found: Vec<(DateTime, String)> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && let Some(at) = stamp_of(&name, &stem, &end)
            && entry.file_type()?.is_file()
        {
            found.push((at, name));
        }
    }
    found.sort();
    found.reverse();
    // A moment counts once: a backup whose gzipping was cut short has two files.
    let mut moments: Vec<DateTime> = found.iter().map(|(at, _)| *at).collect();
    moments.dedup();
    let last = moments.get(rotation.max_backups.wrapping_sub(1)).copied();
    let now = jiff::Timestamp::try_from(now).map_err(io::Error::other)?.to_zoned(zone(rotation.local_time));
    let oldest = rotation.max_age.and_then(|age| now.checked_sub(age).ok()).map(|then| then.datetime());
    for (at, name) in found {
        let file = dir.join(&name);
        if last.is_some_and(|last| at < last) || oldest.is_some_and(|oldest| at < oldest) {
            fs::remove_file(file)?;
        } else if rotation.compress && !name.ends_with(GZIPPED) {
            gzip(&file, &dir.join(name + GZIPPED))?;
        }
    }
    Ok(())
}

/// The original goes last, so a crash leaves at least one whole copy.
fn gzip(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let target = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    target.set_permissions(source.metadata()?.permissions())?;
    let mut writer = flate2::write::GzEncoder::new(target, flate2::Compression::default());
    io::copy(&mut source, &mut writer)?;
    writer.finish()?.sync_all()?;
    fs::remove_file(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::UNIX_EPOCH;

    fn rotation(max_bytes: u64) -> Rotation {
        Rotation { max_bytes, max_age: None, max_backups: 0, local_time: false, compress: false }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).expect("dir").map(|e| e.expect("entry").file_name().into_string().expect("name")).collect();
        names.sort();
        names
    }

    /// A full file moves aside under a name with the moment in it; every line is somewhere, in order, once.
    #[test]
    fn full_files_move_aside() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("logs/etcd.log");
        let mut file = Rotated::open(&path, rotation(20)).expect("open");
        for at in 0..6 {
            // Each file gets its own millisecond, whatever the clock says.
            if at % 2 == 0 && at > 0 {
                file.turn(UNIX_EPOCH + Duration::from_millis(1_795_266_000_000 + at)).expect("turn");
            }
            file.write(format!("line {at:04}\n").as_bytes()).expect("write");
        }
        let logs = path.parent().expect("parent");
        assert_eq!(names(logs), ["etcd-2026-11-21T13-00-00.002.log", "etcd-2026-11-21T13-00-00.004.log", "etcd.log"]);
        let all: String = names(logs).iter().map(|n| fs::read_to_string(logs.join(n)).expect("read")).collect();
        assert_eq!(all, (0..6).map(|at| format!("line {at:04}\n")).collect::<String>());
        // Full by size: the next line begins a new file.
        file.write(b"over\n").expect("write");
        assert_eq!(fs::read_to_string(&path).expect("read"), "over\n");
        assert_eq!(names(logs).len(), 4);
        // What was there before counts.
        drop(file);
        let mut file = Rotated::open(&path, rotation(20)).expect("open");
        file.write(b"0123456789abcdef\n").expect("write");
        assert_eq!(names(logs).len(), 5);
        // A line longer than a file is written all the same.
        file.write(&[b'x'; 50]).expect("write");
        assert_eq!(fs::metadata(&path).expect("file").len(), 50);
    }

    /// Too many and too old ones go; files of other names stay; the rest is gzipped, whole.
    #[test]
    fn backups_are_thinned_out() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a.log");
        let day = |n: u64| UNIX_EPOCH + Duration::from_secs(1_795_266_000 + n * 86_400);
        let fill = || {
            for n in 0..5 {
                let name = backup_name(&path, day(n), false).expect("name");
                fs::write(name, format!("day {n}\n")).expect("write");
            }
            fs::write(dir.path().join("a-notes.log"), "mine").expect("write");
            fs::write(&path, "now").expect("write");
        };
        fill();
        tidy(&path, &Rotation { max_backups: 2, ..rotation(1) }, day(5)).expect("tidy");
        let kept = ["a-2026-11-24T13-00-00.000.log", "a-2026-11-25T13-00-00.000.log", "a-notes.log", "a.log"];
        assert_eq!(names(dir.path()), kept);
        fill();
        tidy(&path, &Rotation { max_age: Some(Duration::from_secs(2 * 86_400 + 60)), ..rotation(1) }, day(5)).expect("tidy");
        assert_eq!(names(dir.path()), kept);
        tidy(&path, &Rotation { compress: true, max_backups: 3, ..rotation(1) }, day(5)).expect("tidy");
        assert_eq!(names(dir.path())[..2], ["a-2026-11-24T13-00-00.000.log.gz", "a-2026-11-25T13-00-00.000.log.gz"]);
        let mut text = String::new();
        let file = File::open(dir.path().join(&names(dir.path())[0])).expect("open");
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("gzip");
        assert_eq!(text, "day 3\n");
        // Gzipped ones are thinned out as well.
        tidy(&path, &Rotation { max_backups: 1, ..rotation(1) }, day(5)).expect("tidy");
        assert_eq!(names(dir.path())[0], "a-2026-11-25T13-00-00.000.log.gz");
    }
}
