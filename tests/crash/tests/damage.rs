//! Damaged, foreign, busy and unreadable data directories: refused before anything is served, with a message that helps and an exit
//! code of its own, and with every byte as it was.

use bytes::Bytes;
use crash_tests::load::{Ask, Client, End};
use crash_tests::server::{Server, Start};
use crash_tests::tree::{self, Node, Tree};
use rand::Rng;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

const IN_USE: i32 = 3;
const DAMAGED: i32 = 4;
const DISK: i32 = 5;
const KEYS: u32 = 300;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn key(number: u32) -> Bytes {
    format!("key-{number:04}").into()
}

fn value(number: u32) -> Bytes {
    let mut value = format!("value of {number} ").into_bytes();
    value.extend((0..700u32).map(|i| (i.wrapping_mul(number.wrapping_add(77)) >> 3) as u8));
    value.into()
}

/// A member that wrote some keys, in rows and in the log, and died.
fn member(clean: bool) -> tempfile::TempDir {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start(&Start::at(&scratch.path().join("data")).small());
    runtime().block_on(async {
        let mut client = Client::connect(&server.endpoint).await.expect("it serves");
        for number in 0..KEYS {
            let end = client.ask(&Ask::Put { key: key(number), value: value(number), lease: 0 }).await;
            assert!(matches!(end, End::Answered(_)), "{end:?}");
        }
    });
    if clean {
        assert!(server.stop().success());
    } else {
        server.kill();
    }
    scratch
}

/// Starts on a folder that must be refused: nothing changes, and the message holds all `words`.
fn refused(start: &Start, code: i32, words: &[&str]) {
    let before = tree::read(&start.data_dir).expect("readable");
    refused_somewhere(start, code, words);
    let after = tree::read(&start.data_dir).expect("readable");
    let changed = tree::differences(&before, &after);
    assert!(changed.is_empty(), "a refused start changed {changed:?}");
}

fn refused_somewhere(start: &Start, code: i32, words: &[&str]) {
    let mut server = Server::spawn(start);
    let status: ExitStatus = match server.wait_ready() {
        Ok(()) => panic!("it serves, though it should say {words:?}"),
        Err(status) => status,
    };
    let log = server.log();
    assert_eq!(status.code(), Some(code), "the log:\n{log}");
    for word in words {
        assert!(log.contains(word), "the log does not say {word:?}:\n{log}");
    }
}

/// Every key has its value; a read may fail, but never lie.
fn every_key_or_an_error(start: &Start) -> u32 {
    let server = Server::start(start);
    runtime().block_on(async {
        let mut client = Client::connect(&server.endpoint).await.expect("it serves");
        let mut errors = 0;
        for number in 0..KEYS {
            match client.ask(&Ask::Read { key: key(number) }).await {
                End::Answered(answer) => {
                    let pair = answer.pair.unwrap_or_else(|| panic!("key {number} is gone without a word"));
                    assert_eq!(pair.value, value(number), "key {number} has another value");
                }
                End::Refused(_) | End::Unanswered(_) => errors += 1,
            }
        }
        errors
    })
}

/// Files of the member whose name ends so, largest first.
fn files(data: &Path, folder: &str, end: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = std::fs::read_dir(data.join(folder))
        .expect("a member's folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(end))
        .map(|path| (std::fs::metadata(&path).expect("a file").len(), path))
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let mut segments = files(data, "member/wal", ".wal");
    segments.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seg-")));
    segments.sort();
    segments
}

fn flip(path: &Path, offset: usize, bit: u8) {
    let mut bytes = std::fs::read(path).expect("readable");
    bytes[offset] ^= 1 << bit;
    std::fs::write(path, bytes).expect("writable");
}

fn cut(path: &Path, size: u64) {
    std::fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(size)).expect("writable");
}

/// The folder as it was, for the next piece of damage.
fn restore(data: &Path, tree: &Tree) {
    std::fs::remove_dir_all(data).expect("removable");
    tree::write(data, tree).expect("writable");
}

/// A flipped bit in a segment's header or in a record that was durable is refused by file and offset.
#[test]
fn a_flipped_bit_in_the_log() {
    let scratch = member(true);
    let data = scratch.path().join("data");
    let whole = tree::read(&data).expect("readable");
    let mut chance = crash_tests::chance(1, "bits of the log");
    for number in 0..segments(&data).len() {
        let path = segments(&data)[number].clone();
        let used = used(&std::fs::read(&path).expect("readable"));
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        for offset in [5, 20, chance.random_range(4096..used), chance.random_range(4096..used)] {
            flip(&path, offset, chance.random_range(0..8));
            let start = Start::at(&data).small();
            refused(&start, DAMAGED, &[&name, "at offset ", "remove it from the cluster", "add it again"]);
            restore(&data, &whole);
        }
    }
    assert_eq!(every_key_or_an_error(&Start::at(&data).small()), 0);
}

/// Bytes of a segment that hold records: what follows is zero.
fn used(bytes: &[u8]) -> usize {
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("a header");
    // The closing mark itself is a witness, not data: stay before it.
    end.saturating_sub(64).max(4100)
}

/// A shortened segment is refused, wherever it is cut.
#[test]
fn a_truncated_log() {
    let scratch = member(true);
    let data = scratch.path().join("data");
    let whole = tree::read(&data).expect("readable");
    for path in segments(&data) {
        let size = std::fs::metadata(&path).expect("a file").len();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        for to in [0, 100, 5000.min(size / 2), size - 1] {
            cut(&path, to);
            refused(&Start::at(&data).small(), DAMAGED, &[&name, "at offset ", "add it again"]);
            restore(&data, &whole);
        }
    }
}

/// A flipped bit in a table of rows is refused by file and offset, or lies where no row is, and then every row is as it was.
#[test]
fn a_flipped_bit_in_a_table() {
    let scratch = member(true);
    let data = scratch.path().join("data");
    let whole = tree::read(&data).expect("readable");
    let mut chance = crash_tests::chance(2, "bits of tables");
    let (mut refusals, mut harmless) = (0, 0);
    for path in files(&data, "member/db", ".sst") {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let size = std::fs::metadata(&path).expect("a file").len() as usize;
        // The first block of rows, somewhere, and the footer.
        for (offset, certain) in [(10, true), (chance.random_range(0..size), false), (size - 3, true)] {
            let bit = chance.random_range(0..8);
            flip(&path, offset, bit);
            let serves = Server::spawn(&Start::at(&data).small()).wait_ready().is_ok();
            restore(&data, &whole);
            flip(&path, offset, bit);
            if serves {
                assert!(!certain, "a flipped bit at {offset} of {name} was not noticed");
                assert_eq!(every_key_or_an_error(&Start::at(&data).small()), 0);
                harmless += 1;
            } else {
                refused(&Start::at(&data).small(), DAMAGED, &[&name, "add it again"]);
                refusals += 1;
            }
            restore(&data, &whole);
        }
    }
    println!("{refusals} refused, {harmless} harmless");
    assert!(refusals > 0);
}

/// A shortened or missing table, and a missing catalogue.
#[test]
fn a_truncated_table() {
    let scratch = member(true);
    let data = scratch.path().join("data");
    let whole = tree::read(&data).expect("readable");
    for path in files(&data, "member/db", ".sst") {
        let size = std::fs::metadata(&path).expect("a file").len();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        for to in [0, size / 2, size - 1] {
            cut(&path, to);
            refused(&Start::at(&data).small(), DAMAGED, &[&name, "add it again"]);
            restore(&data, &whole);
        }
        std::fs::remove_file(&path).expect("removable");
        refused(&Start::at(&data).small(), DAMAGED, &[&name, "add it again"]);
        restore(&data, &whole);
    }
    std::fs::remove_file(data.join("member/db/CURRENT")).expect("removable");
    refused(&Start::at(&data).small(), DAMAGED, &["CURRENT", "add it again"]);
}

/// The file that says whose data this is.
#[test]
fn a_damaged_identity() {
    let scratch = member(false);
    let data = scratch.path().join("data");
    let whole = tree::read(&data).expect("readable");
    let path = data.join("member/identity");
    let size = std::fs::metadata(&path).expect("a file").len();
    for offset in [0, size as usize / 2, size as usize - 2] {
        flip(&path, offset, 0);
        refused(&Start::at(&data).small(), DAMAGED, &["identity", "add it again"]);
        restore(&data, &whole);
    }
    cut(&path, size / 2);
    refused(&Start::at(&data).small(), DAMAGED, &["identity", "add it again"]);
    restore(&data, &whole);
    std::fs::remove_file(&path).expect("removable");
    refused(&Start::at(&data).small(), DAMAGED, &["identity"]);
}

/// A second process on the same folder.
#[test]
fn a_folder_in_use() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let data = scratch.path().join("data");
    let first = Server::start(&Start::at(&data));
    refused_somewhere(&Start::at(&data), IN_USE, &["in use by another process"]);
    runtime().block_on(async {
        let mut client = Client::connect(&first.endpoint).await.expect("the first serves on");
        let end = client.ask(&Ask::Put { key: key(1), value: value(1), lease: 0 }).await;
        assert!(matches!(end, End::Answered(_)), "{end:?}");
    });
}

/// Another program's folder stays as it is.
#[test]
fn a_foreign_folder() {
    let etcd: Tree = [
        ("member", Node::Dir),
        ("member/snap", Node::Dir),
        ("member/snap/db", Node::File(vec![7; 16384])),
        ("member/wal", Node::Dir),
        ("member/wal/0000000000000000-0000000000000000.wal", Node::File(vec![0; 4096])),
    ]
    .map(|(path, node)| (PathBuf::from(path), node))
    .into();
    let files: Tree =
        [("PG_VERSION", Node::File(b"17\n".to_vec())), ("base", Node::Dir)].map(|(path, node)| (PathBuf::from(path), node)).into();
    for (tree, word) in [(etcd, "identity"), (files, "not this program's")] {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let data = scratch.path().join("data");
        tree::write(&data, &tree).expect("writable");
        refused(&Start::at(&data), DAMAGED, &[word, "data"]);
    }
    // What a fresh volume holds is nobody's.
    let scratch = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(scratch.path().join("lost+found")).expect("a folder");
    drop(Server::start(&Start::at(scratch.path())));
}

/// Another member's log under this member's name.
#[test]
fn a_log_of_another_member() {
    let (ours, other) = (member(false), tempfile::tempdir().expect("a temporary folder"));
    let theirs = other.path().join("data");
    drop(Server::start(&Start::at(&theirs).with(&["--initial-cluster-token", "another"])));
    let data = ours.path().join("data");
    std::fs::remove_dir_all(data.join("member/wal")).expect("removable");
    let log = tree::read(&theirs.join("member/wal")).expect("readable");
    tree::write(&data.join("member/wal"), &log).expect("writable");
    refused(&Start::at(&data).small(), DAMAGED, &["belongs to cluster"]);
}

/// A file where the folder should be, and a folder that may not be read.
#[test]
fn an_unreadable_folder() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let file = scratch.path().join("file");
    std::fs::write(&file, b"not a folder").expect("writable");
    refused_somewhere(&Start::at(&file), DISK, &["the data directory", "file"]);

    let id = std::process::Command::new("id").arg("-u").output().expect("id runs");
    if id.stdout.trim_ascii() != b"0" {
        println!("not root: the rest needs a second user");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let closed = member(false);
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    // Everybody may pass through the temporary folder; nobody but root may enter the data.
    mode(closed.path(), 0o755);
    mode(&closed.path().join("data"), 0o000);
    let start = Start { user: Some(65534), ..Start::at(&closed.path().join("data")) };
    refused_somewhere(&start, DISK, &["ermission denied", "data"]);
}

/// The log that a member needs is gone with its disk, or another place is named for it: said so, and nothing begins anew in its stead.
#[test]
fn a_log_that_is_not_there() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let (data, wal) = (scratch.path().join("data"), scratch.path().join("log"));
    let place = wal.to_string_lossy().into_owned();
    let start = Start::at(&data).small().with(&["--wal-dir", &place]);
    assert!(Server::start(&start).stop().success());
    let words = ["is expected in ", "is its disk mounted", "add it again"];
    // The flag is forgotten.
    refused(&Start::at(&data).small(), DAMAGED, &words);
    // The disk is there, and empty.
    std::fs::rename(&wal, scratch.path().join("aside")).expect("movable");
    refused(&start, DAMAGED, &words);
    std::fs::create_dir(&wal).expect("a folder");
    refused(&start, DAMAGED, &words);
    std::fs::remove_dir_all(&wal).expect("removable");
    std::fs::rename(scratch.path().join("aside"), &wal).expect("movable");
    assert!(Server::start(&start).stop().success(), "nothing was lost meanwhile");
}

/// Whatever the folder's own permissions are, other users can read neither rows nor log; what an older build left open is closed.
#[test]
fn nobody_else_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("ours");
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let (data, wal) = (scratch.path().join("data"), scratch.path().join("log"));
    std::fs::create_dir(&data).expect("a folder");
    open(&data);
    let start = Start::at(&data).small().with(&["--wal-dir", &wal.to_string_lossy()]);
    let mut server = Server::start(&start);
    assert_eq!((mode(&data.join("member")), mode(&wal)), (0o700, 0o700));
    for file in files(&wal, "", ".wal") {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    assert!(server.log().contains("the data directory is open to other users"), "{}", server.log());
    assert!(server.stop().success());
    open(&data.join("member"));
    open(&wal);
    assert!(Server::start(&start).stop().success());
    assert_eq!((mode(&data.join("member")), mode(&wal)), (0o700, 0o700));
}
