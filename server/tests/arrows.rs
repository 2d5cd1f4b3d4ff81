//! The arrows of ARCHITECTURE.md, read off the sources: which room knows which, and what stays inside one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Left knows right. `types` and the standard library are everybody's.
const ARROWS: &[(&str, &[&str])] = &[
    ("api", &["mvcc", "node", "state", "telemetry", "watch"]),
    ("base", &[]),
    ("compactor", &["config", "node"]),
    ("config", &["env"]),
    ("door", &[]),
    ("env", &[]),
    ("gateway", &["door", "telemetry"]),
    ("lease", &["base", "env", "mvcc"]),
    ("main", &["config", "env", "membership", "node", "offline", "serve", "telemetry"]),
    ("membership", &["api", "config", "env", "node", "peer", "state"]),
    ("mvcc", &["base", "env"]),
    ("node", &["base", "env", "lease", "mvcc", "queue", "snapshot", "state", "wal"]),
    ("offline", &["config", "env", "membership", "node", "serve", "snapshot", "telemetry"]),
    ("peer", &["lease", "node", "snapshot", "telemetry"]),
    ("queue", &[]),
    (
        "serve",
        &[
            "api",
            "base",
            "compactor",
            "config",
            "door",
            "env",
            "gateway",
            "membership",
            "mvcc",
            "node",
            "peer",
            "snapshot",
            "space",
            "state",
            "telemetry",
            "watch",
        ],
    ),
    ("snapshot", &["base", "env", "mvcc"]),
    ("space", &["node"]),
    ("state", &["base", "env", "lease", "mvcc"]),
    ("telemetry", &["door"]),
    ("types", &[]),
    ("wal", &["env", "queue"]),
    ("watch", &["env", "mvcc"]),
];

/// Names that are spoken in these rooms only.
const SECRETS: &[(&str, &[&str])] =
    &[("RawNode", &["node"]), ("etcdserverpb", &["api", "gateway", "membership"]), ("rocksdb::", &["base"])];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Room, file and text of each source, without its tests and comments.
fn rooms() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).expect("below the root").display().to_string();
        if name.contains("tests") || name == "lib.rs" {
            return None;
        }
        let room = name.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_string();
        let text = std::fs::read_to_string(&path).expect("a source");
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let code: Vec<&str> = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        Some((room, name, code.join("\n")))
    };
    files.into_iter().filter_map(read).collect()
}

/// The rooms named after `crate::`, one or a list in braces.
fn named(text: &str) -> BTreeSet<String> {
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut out = BTreeSet::new();
    for rest in text.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => drop(out.insert(word(rest))),
            Some(list) => {
                let mut depth = 0;
                let mut item = String::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => drop(out.insert(word(std::mem::take(&mut item).trim()))),
                        _ if depth == 0 => item.push(c),
                        _ => {}
                    }
                }
                out.insert(word(item.trim()));
            }
        }
    }
    out
}

/// No room knows one that it should not, and the table names no arrow that is not there.
#[test]
fn arrows_are_those_of_the_table() {
    let table: BTreeMap<&str, BTreeSet<&str>> = ARROWS.iter().map(|(room, to)| (*room, to.iter().copied().collect())).collect();
    let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (room, file, text) in &rooms() {
        let (room, allowed) =
            table.get_key_value(room.as_str()).unwrap_or_else(|| panic!("{file}: {room} is no room of the table"));
        for to in named(text) {
            let Some((to, _)) = table.get_key_value(to.as_str()) else { continue };
            if to == room || *to == "types" {
                continue;
            }
            assert!(allowed.contains(to), "{file}: {room} must not know {to}");
            seen.entry(room).or_default().insert(to);
        }
    }
    for (room, to) in &table {
        // The program names its library by the crate's name, not by `crate::`.
        if *room != "main" {
            assert_eq!(seen.get(room).unwrap_or(&BTreeSet::new()), to, "{room}");
        }
    }
}

/// Raft's node, clients' protobuf and RocksDB stay where they belong.
#[test]
fn secrets_stay_in_their_rooms() {
    for (room, file, text) in rooms() {
        for (name, rooms) in SECRETS {
            assert!(!text.contains(name) || rooms.contains(&room.as_str()), "{file} names {name}");
        }
    }
}
