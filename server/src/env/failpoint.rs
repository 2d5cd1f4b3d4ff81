//! Fail points: named places at which a test can end the process, the way a crash would.
//!
//! In: the environment of the process, read once by [`arm_from_env`]. Out: at most one SIGKILL. Nothing is armed unless the
//! variable is set, and then a place costs one relaxed load. The crash tests (`tests/crash`) are the only users; the same variables
//! make segments and deltas small, so that a test of seconds passes through what takes a busy member hours.
//!
//! - `QUORATE_FAILPOINT=wal-after-write=kill:3` ends the process at the third visit of that place; several are parted by commas.
//! - `QUORATE_TEST_SIZES=delta=65536,segment=65536` sets the delta's and the log segments' first size, in bytes.
//!
//! Invariant: an unknown place, action or size stops the start. A test that misspells one must not pass for the lack of a crash.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The variable that arms places.
pub const PLACES: &str = "QUORATE_FAILPOINT";
/// The variable that makes things small.
pub const SIZES: &str = "QUORATE_TEST_SIZES";

macro_rules! places {
    ($($(#[$why:meta])* $place:ident = $name:literal,)*) => {
        /// A place where a crash is worth testing.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Place { $($(#[$why])* $place,)* }

        impl Place {
            /// All of them.
            pub const ALL: &[Place] = &[$(Place::$place,)*];

            /// The name in the environment variable.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Place::$place => $name,)* }
            }
        }
    };
}

places! {
    /// Groups are laid out, nothing of them is in the file.
    WalBeforeWrite = "wal-before-write",
    /// Groups are written and not synced.
    WalAfterWrite = "wal-after-write",
    /// Groups are durable and nobody was told.
    WalAfterSync = "wal-after-sync",
    /// A segment is full and synced, its successor has no name yet.
    WalBeforeRotate = "wal-before-rotate",
    /// The new segment has its name and holds nothing but the carried state.
    WalAfterRotate = "wal-after-rotate",
    /// Segments are about to be given up.
    WalBeforePurge = "wal-before-purge",
    /// One segment was recycled and others may follow.
    WalDuringPurge = "wal-during-purge",
    /// Segments are gone, their directory is not synced.
    WalAfterPurge = "wal-after-purge",
    /// The snapshot mark of a checkpoint is queued for the log, the purge behind it is not.
    AfterMark = "after-mark",
    /// A checkpoint is to begin.
    CheckpointBegin = "checkpoint-begin",
    /// Its `log` rows are written.
    CheckpointLog = "checkpoint-log",
    /// Its `hist` rows too.
    CheckpointHist = "checkpoint-hist",
    /// Its `latest` rows too; the applied position is not.
    CheckpointLatest = "checkpoint-latest",
    /// All rows are written, none is flushed.
    CheckpointWritten = "checkpoint-written",
    /// The rows are durable, the log was not told.
    CheckpointFlushed = "checkpoint-flushed",
    /// A slice of a physical compaction is deleted.
    Sweep = "sweep",
    /// A founding member's log is made, its rows are not.
    FoundLog = "found-log",
    /// A founding member's files are whole and have no name yet.
    FoundBeforeRename = "found-before-rename",
    /// A founding member has its name, which is not durable.
    FoundAfterRename = "found-after-rename",
    /// A recovered member's rows stand alone; its log and identity are the lost cluster's.
    RecoverRows = "recover-rows",
    /// Its new log is ready beside the old one.
    RecoverLog = "recover-log",
    /// Its identity names the new cluster; the old log is still in place.
    RecoverIdentity = "recover-identity",
    /// The old log is gone, the new one is not in its place.
    RecoverSwap = "recover-swap",
    /// The log is replayed and settled, the rows are not open.
    OpenedLog = "opened-log",
    /// Everything is open, nothing runs.
    Opened = "opened",
}

static ARMED: AtomicBool = AtomicBool::new(false);
static SETTINGS: OnceLock<Settings> = OnceLock::new();

#[derive(Default, Debug)]
struct Settings {
    kills: Vec<Kill>,
    delta: Option<u64>,
    segment: Option<u64>,
}

#[derive(Debug)]
struct Kill {
    place: Place,
    /// Visits left until the end; the visit that brings it to 0 is the last.
    left: AtomicU64,
}

/// Reads the environment. Call once, before anything else runs.
///
/// # Errors
/// A text for the operator when a variable cannot be read.
pub fn arm_from_env() -> Result<(), String> {
    let read = |name: &str| std::env::var(name).unwrap_or_default();
    let (places, sizes) = (read(PLACES), read(SIZES));
    if places.is_empty() && sizes.is_empty() {
        return Ok(());
    }
    let settings = parse(&places, &sizes)?;
    let armed = !settings.kills.is_empty();
    let _ = SETTINGS.set(settings);
    ARMED.store(armed, Ordering::Relaxed);
    Ok(())
}

fn parse(places: &str, sizes: &str) -> Result<Settings, String> {
    let mut settings = Settings::default();
    for one in places.split(',').filter(|one| !one.is_empty()) {
        let wrong = || format!("{PLACES} has {one:?}: a place, =kill: and a count from 1 are wanted");
        let (name, count) = one.split_once("=kill:").ok_or_else(wrong)?;
        let place = Place::ALL.iter().copied().find(|place| place.name() == name).ok_or_else(wrong)?;
        let left = count.parse().ok().filter(|left| *left > 0).ok_or_else(wrong)?;
        settings.kills.push(Kill { place, left: AtomicU64::new(left) });
    }
    for one in sizes.split(',').filter(|one| !one.is_empty()) {
        let wrong = || format!("{SIZES} has {one:?}: delta= or segment= and a number of bytes from 4096 are wanted");
        let (name, bytes) = one.split_once('=').ok_or_else(wrong)?;
        let bytes = bytes.parse().ok().filter(|bytes| *bytes >= 4096).ok_or_else(wrong)?;
        match name {
            "delta" => settings.delta = Some(bytes),
            "segment" => settings.segment = Some(bytes),
            _ => return Err(wrong()),
        }
    }
    Ok(settings)
}

/// Bytes at which a test wants the delta frozen.
#[must_use]
pub fn delta_bytes() -> Option<u64> {
    SETTINGS.get()?.delta
}

/// Bytes that a test wants the log's first segments to have.
#[must_use]
pub fn segment_bytes() -> Option<u64> {
    SETTINGS.get()?.segment
}

/// Whether a test will end the process at this place.
#[inline]
#[must_use]
pub fn is_armed(place: Place) -> bool {
    ARMED.load(Ordering::Relaxed) && SETTINGS.get().is_some_and(|settings| settings.kills.iter().any(|kill| kill.place == place))
}

/// Visits a place.
#[inline]
pub fn visit(place: Place) {
    if ARMED.load(Ordering::Relaxed) {
        visit_armed(place);
    }
}

#[cold]
fn visit_armed(place: Place) {
    let kills = SETTINGS.get().map_or(&[][..], |settings| &settings.kills);
    for kill in kills.iter().filter(|kill| kill.place == place) {
        if kill.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            end();
        }
    }
}

/// Ends the process at once: no destructor, no flush, no signal handler runs.
#[expect(unsafe_code, reason = "one system call on this very process")]
fn end() -> ! {
    // SAFETY: the call takes two numbers and touches no memory of ours.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    // The signal is on its way to all threads; this one does nothing more.
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_each_can_be_armed() {
        for (i, place) in Place::ALL.iter().enumerate() {
            assert!(Place::ALL[..i].iter().all(|other| other.name() != place.name()), "{} is there twice", place.name());
            let settings = parse(&format!("{}=kill:2", place.name()), "").expect("a known place");
            assert_eq!((settings.kills[0].place, settings.kills[0].left.load(Ordering::Relaxed)), (*place, 2));
        }
    }

    #[test]
    fn a_misspelt_setting_stops_the_start() {
        for places in ["wal-after-wrote=kill:1", "wal-after-write=kill:0", "wal-after-write", "wal-after-write=stop:1"] {
            assert!(parse(places, "").is_err(), "{places}");
        }
        for sizes in ["delta=12", "delta", "block=65536", "segment=many"] {
            assert!(parse("", sizes).is_err(), "{sizes}");
        }
    }

    #[test]
    fn sizes_are_read() {
        let settings = parse("", "delta=65536,segment=131072").expect("two sizes");
        assert_eq!((settings.delta, settings.segment), (Some(65536), Some(131_072)));
    }
}
