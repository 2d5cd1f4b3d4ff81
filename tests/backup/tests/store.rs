//! Backups from the first write to the last restore, in a folder and on a real server of the S3 protocol.

use std::path::Path;

use backup_tests::{Follower, Place, S3, Server, loopback, server};
use quorate_client::proto::etcdserverpb as pb;

const FOLDER: &str = "lab/ns/kv/uid/";

fn named(name: &str) -> String {
    format!("{FOLDER}{name}.snapshot")
}

/// A backup by the agent; its words.
fn backup(place: &Place, source: &Server, name: &str, further: &[String]) -> serde_json::Value {
    let own = [
        format!("--object={}", named(name)),
        format!("--endpoint={}", source.endpoint),
        "--schedule=nightly".to_string(),
        "--prune-deltas".to_string(),
    ];
    place.run("backup", &[&own, further].concat()).unwrap()
}

/// A restore by the agent into a folder.
fn restore(place: &Place, object: &str, data_dir: &Path, further: &[&str]) -> Result<serde_json::Value, String> {
    let mut arguments = vec![
        format!("--object={object}"),
        format!("--data-dir={}", data_dir.display()),
        "--name=one".to_string(),
        format!("--peer-url={}", loopback()),
        "--token=again".to_string(),
        format!("--server={}", server().display()),
    ];
    arguments.extend(further.iter().map(ToString::to_string));
    place.run("restore", &arguments)
}

/// The look at a source that a restore in place begins with; it makes nothing.
fn look(place: &Place, object: &str, further: &[&str]) -> Result<serde_json::Value, String> {
    let mut arguments = vec![format!("--object={object}")];
    arguments.extend(further.iter().map(ToString::to_string));
    place.run("look", &arguments)
}

/// The proof of a backup by the agent.
fn verify(
    place: &Place,
    words: &serde_json::Value,
    name: &str,
    scratch: &Path,
    further: &[&str],
) -> Result<serde_json::Value, String> {
    proof(place, words, name, scratch, further).map_err(|(_, words)| words)
}

/// The same; with why it failed comes the exit code.
fn proof(
    place: &Place,
    words: &serde_json::Value,
    name: &str,
    scratch: &Path,
    further: &[&str],
) -> Result<serde_json::Value, (Option<i32>, String)> {
    let mut arguments = vec![
        format!("--object={}", named(name)),
        format!("--scratch={}", scratch.display()),
        format!("--server={}", server().display()),
    ];
    for (flag, field) in [("revision", "revision"), ("hash", "hash"), ("compacted", "compacted"), ("keys", "keys")] {
        arguments.push(format!("--expect-{flag}={}", words[field]));
    }
    arguments.extend(further.iter().map(ToString::to_string));
    place.try_run("verify", &arguments)
}

/// Everything that was backed up comes back: a full backup, every revision that deltas lead to, and a time between; a proof holds, a
/// false one is refused; old backups go with their deltas and foreign objects stay; damage and gaps are told by name.
async fn whole_life(place: &Place, dir: &Path) {
    let source = Server::start(&dir.join("source")).await;
    let lease = source.client.lease_grant(pb::LeaseGrantRequest { ttl: 5000, id: 77 }).await.unwrap().id;
    for n in 0..300 {
        source.put(&format!("key-{:03}", n % 100), &format!("value {n} {}", "x".repeat(30_000))).await;
    }
    let first = backup(place, &source, "first", &[]);
    assert_eq!(
        (first["revision"].as_i64(), first["keys"].as_i64(), first["schedule"].as_str()),
        (Some(301), Some(100), Some("nightly"))
    );
    let follower = Follower::start(place, FOLDER, &[&source.endpoint], &dir.join("agent.log"));
    let page = follower.until(|page| page["coveredMs"].as_i64() > Some(0)).await;
    assert_eq!(page["since"].as_i64(), Some(301));

    let mut states = Vec::new();
    for n in 0..20 {
        let revision = source.put(&format!("later-{}", n % 7), &n.to_string()).await;
        if n % 6 == 5 {
            let request = pb::DeleteRangeRequest { key: format!("later-{}", n % 3).into(), ..Default::default() };
            source.client.delete_range(request).await.unwrap();
        }
        if n == 10 {
            // A compaction does not wait for the interval: the agent hurries.
            source.client.compact(pb::CompactionRequest { revision, physical: true }).await.unwrap();
        }
        states.push((revision, jiff::Timestamp::now()));
        if n % 5 == 4 {
            follower.until(|page| page["revision"].as_i64() >= Some(revision)).await;
        }
    }
    let held = pb::PutRequest { key: "held".into(), value: "by a lease".into(), lease, ..Default::default() };
    let last = source.client.put(held).await.unwrap().header.unwrap().revision;
    follower.until(|page| page["revision"].as_i64() == Some(last)).await;

    // Another agent goes on where the first one ended.
    follower.stop();
    source.put("between agents", "1").await;
    let follower = Follower::start(place, FOLDER, &[&source.endpoint], &dir.join("agent.log"));
    let page = follower.until(|page| page["revision"].as_i64() == Some(last + 1)).await;
    assert_eq!(page["since"].as_i64(), Some(301), "a restart of the agent makes no gap: {page}");

    for (at, (revision, _)) in states.iter().enumerate().filter(|(at, _)| at % 4 == 3) {
        if *revision < states[10].0 {
            // The source does not know this state any more; the store does.
            let dir = dir.join(format!("compacted-{at}"));
            let words = restore(place, &named("first"), &dir, &[&format!("--revision={revision}")]).unwrap();
            assert_eq!(words["revision"].as_i64(), Some(*revision));
            continue;
        }
        let dir = dir.join(format!("at-{at}"));
        let words = restore(place, &named("first"), &dir, &[&format!("--revision={revision}")]).unwrap();
        assert_eq!((words["revision"].as_i64(), words["full"].as_str()), (Some(*revision), Some(named("first").as_str())));
        let again = Server::start(&dir).await;
        assert!(again.all(0).await == source.all(*revision).await, "the state at revision {revision}");
    }
    let newest = dir.join("newest");
    assert_eq!(restore(place, FOLDER, &newest, &[]).unwrap()["revision"].as_i64(), Some(last + 1));
    let again = Server::start(&newest).await;
    assert!(again.all(0).await == source.all(0).await);
    let left = again.client.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: lease, keys: true }).await.unwrap();
    assert_eq!((left.granted_ttl, left.keys), (5000, vec!["held".into()]));
    let time = states[14].1;
    let words = restore(place, &named("first"), &dir.join("time"), &[&format!("--time={time}")]).unwrap();
    let reached = words["revision"].as_i64().unwrap();
    assert!((301..=states[15].0).contains(&reached), "{reached} at {time}");

    assert_eq!(look(place, &named("first"), &[]).unwrap()["full"].as_str(), Some(named("first").as_str()));
    assert!(look(place, FOLDER, &[]).unwrap()["deltas"].as_i64() > Some(0));
    assert!(look(place, &named("first"), &["--revision=999999"]).unwrap_err().contains("end at revision"));
    let words = look(place, &named("never"), &[]).unwrap_err();
    assert!(words.contains("there is no object") && words.contains(&named("never")), "{words}");

    verify(place, &first, "first", &dir.join("scratch"), &["--chain"]).unwrap();
    let mut false_words = first.clone();
    false_words["hash"] = 1.into();
    assert!(verify(place, &false_words, "first", &dir.join("scratch"), &[]).unwrap_err().contains("HashKV"));
    assert!(restore(place, &named("first"), &dir.join("beyond"), &["--revision=999999"]).unwrap_err().contains("end at revision"));

    // The next backup supersedes the first; what leads on from the first goes, what is somebody else's stays.
    std::fs::write(place.files.join(FOLDER).join("deltas/notes.txt"), "mine").unwrap();
    let words = backup(place, &source, "second", &[format!("--delete={}", named("first"))]);
    assert_eq!(words["deleted"][0].as_str(), Some(named("first").as_str()));
    let revision = source.put("after", "second").await;
    follower.until(|page| page["revision"].as_i64() == Some(revision)).await;
    follower.stop();
    let left = place.objects();
    assert!(!left.iter().any(|name| name.contains("first")) && left.iter().any(|name| name.ends_with("notes.txt")), "{left:?}");
    let segments: Vec<_> = left.iter().filter(|name| name.ends_with(".segment")).collect();
    assert!((1..=3).contains(&segments.len()), "{left:?}");
    let words = restore(place, FOLDER, &dir.join("second"), &[]).unwrap();
    assert_eq!(words["revision"].as_i64(), Some(revision));

    let victim = segments.last().unwrap();
    let path = place.files.join(victim);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let target = format!("--revision={revision}");
    let words = restore(place, &named("second"), &dir.join("damaged"), &[&target]).unwrap_err();
    assert!(words.contains(victim.as_str()), "{words}");
    assert!(!dir.join("damaged").exists());
    assert!(look(place, &named("second"), &[&target]).unwrap_err().contains(victim.as_str()));
    assert!(look(place, &named("second"), &[]).is_ok(), "the full backup alone is whole");
    let full = place.files.join(named("second"));
    let good = std::fs::read(&full).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(&full, bad).unwrap();
    assert!(look(place, &named("second"), &[]).unwrap_err().contains(&named("second")));
    std::fs::write(&full, &good[..good.len() - 1]).unwrap();
    assert!(look(place, &named("second"), &[]).unwrap_err().contains(&named("second")));
    std::fs::write(&full, good).unwrap();
    std::fs::remove_file(&path).unwrap();
    let words = restore(place, &named("second"), &dir.join("gone"), &[&target]).unwrap_err();
    assert!(words.contains("the deltas end at") || words.contains("are missing"), "{words}");
}

/// The exit code of a proof that finds the backup to be wrong.
const REFUTED: Option<i32> = Some(10);

/// A proof tells a backup that is wrong from a store that is out of reach, and finds a hole in the deltas; a restore names the hole and
/// gives nobody less than there is without a word, and begins with an older full backup where the newest cannot be used.
#[tokio::test]
async fn what_proofs_and_restores_find() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let place = Place::folder(&dir.join("store"));
    let source = Server::start(&dir.join("source")).await;
    source.put("a", "1").await;
    let first = backup(&place, &source, "first", &[]);
    let follower = Follower::start(&place, FOLDER, &[&source.endpoint], &dir.join("agent.log"));
    follower.until(|page| page["coveredMs"].as_i64() > Some(0)).await;
    let write = async |key: &str| {
        let revision = source.put(key, "x").await;
        follower.until(|page| page["revision"].as_i64() >= Some(revision)).await;
        revision
    };
    write("b").await;
    write("c").await;
    let second = backup(&place, &source, "second", &[]);
    let before: Vec<String> = place.objects().into_iter().filter(|name| name.ends_with(".segment")).collect();
    write("d").await;
    let reached = write("e").await;
    let last = write("f").await;
    // Whoever asks for a backup that was taken is told what it is; nothing is written over it.
    assert_eq!(backup(&place, &source, "second", &[]), second);

    let words = proof(&place, &second, "second", &dir.join("scratch"), &["--chain"]).unwrap();
    assert_eq!((words["chainRevision"].as_i64(), words["ledFrom"].as_str()), (Some(last), Some(named("first").as_str())));
    let words = proof(&place, &first, "first", &dir.join("scratch"), &["--chain"]).unwrap();
    assert_eq!((words["chainRevision"].as_i64(), words["ledFrom"].as_str()), (Some(last), None), "none is before it");
    let nowhere = Place {
        flags: vec!["--bucket=b".into(), format!("--s3-endpoint={}", loopback())],
        environment: vec![("AWS_ACCESS_KEY_ID", "a".into()), ("AWS_SECRET_ACCESS_KEY", "b".into())],
        ..Place::default()
    };
    let (code, words) = proof(&nowhere, &second, "second", &dir.join("scratch"), &[]).unwrap_err();
    assert!(code != REFUTED && words.starts_with("store: "), "{code:?} {words}");

    let manifest = place.files.join(named("second") + ".json");
    let hidden = dir.join("hidden");
    std::fs::rename(&manifest, &hidden).unwrap();
    let (code, words) = proof(&place, &second, "second", &dir.join("scratch"), &[]).unwrap_err();
    assert!(code == REFUTED && words.contains("no manifest"), "{code:?} {words}");
    std::fs::rename(&hidden, &manifest).unwrap();

    // The newest full backup is damaged: the one before it and all the deltas lead to the same.
    let full = place.files.join(named("second"));
    let good = std::fs::read(&full).unwrap();
    std::fs::write(&full, &good[..good.len() / 2]).unwrap();
    assert_eq!(proof(&place, &second, "second", &dir.join("scratch"), &[]).unwrap_err().0, REFUTED);
    let words = look(&place, FOLDER, &[]).unwrap();
    assert_eq!(words["passedOver"][0].as_str(), Some(named("second").as_str()));
    let target = dir.join("older");
    // What an earlier try has left behind is neither used nor left.
    std::fs::create_dir_all(target.with_extension("deltas")).unwrap();
    std::fs::write(target.with_extension("deltas").join("00000099.segment"), "of another time").unwrap();
    let words = restore(&place, FOLDER, &target, &[]).unwrap();
    assert_eq!((words["revision"].as_i64(), words["full"].as_str()), (Some(last), Some(named("first").as_str())));
    assert!(!target.with_extension("deltas").exists() && !target.with_extension("snapshot").exists());
    std::fs::write(target.with_extension("snapshot"), "of a try that was not heard").unwrap();
    restore(&place, FOLDER, &target, &[]).unwrap();
    assert!(!target.with_extension("snapshot").exists());
    assert!(Server::start(&target).await.all(0).await == source.all(0).await);
    assert!(restore(&place, &named("second"), &dir.join("named"), &[]).is_err(), "the one that was asked for is damaged");
    std::fs::write(&full, good).unwrap();

    // A file in the middle is gone.
    let after: Vec<String> =
        place.objects().into_iter().filter(|name| name.ends_with(".segment") && !before.contains(name)).collect();
    assert_eq!(after.len(), 3, "{after:?}");
    std::fs::remove_file(place.files.join(&after[1])).unwrap();
    for words in [restore(&place, FOLDER, &dir.join("holed"), &[]).unwrap_err(), look(&place, FOLDER, &[]).unwrap_err()] {
        assert!(words.contains(&format!("from revision {reached} to {reached} are missing")), "{words}");
        assert!(words.contains(&format!("revision {} can be asked for", reached - 1)), "{words}");
    }
    let (code, words) = proof(&place, &second, "second", &dir.join("scratch"), &["--chain"]).unwrap_err();
    assert!(code == REFUTED && words.contains("are missing"), "{code:?} {words}");
    let asked = format!("--revision={}", reached - 1);
    assert_eq!(restore(&place, FOLDER, &dir.join("asked"), &[&asked]).unwrap()["revision"].as_i64(), Some(reached - 1));
    follower.stop();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// A cluster whose disks were put back to an earlier state keeps its id, and gives the same revisions to other changes. Its deltas do not
/// go on from those of the history that it left, whether it is behind them yet or has passed them, and a restore mixes nothing.
#[tokio::test]
async fn a_cluster_that_was_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let place = Place::folder(&dir.join("store"));
    let source = Server::start(&dir.join("source")).await;
    source.put("a", "1").await;
    drop(source);
    for earlier in ["behind", "beyond"] {
        copy(&dir.join("source"), &dir.join(earlier));
    }

    let source = Server::start(&dir.join("source")).await;
    backup(&place, &source, "left", &[]);
    let follower = Follower::start(&place, FOLDER, &[&source.endpoint], &dir.join("left.log"));
    follower.until(|page| page["coveredMs"].as_i64() > Some(0)).await;
    let mut left = 0;
    for n in 0..6 {
        left = source.put(&format!("left-{n}"), "x").await;
    }
    follower.until(|page| page["revision"].as_i64() == Some(left)).await;
    follower.stop();
    drop(source);

    for (earlier, writes) in [("behind", 2), ("beyond", 20)] {
        let source = Server::start(&dir.join(earlier)).await;
        let mut newest = 0;
        for n in 0..writes {
            newest = source.put(&format!("{earlier}-{n}"), "y").await;
        }
        assert_eq!(newest < left, earlier == "behind");
        let follower = Follower::start(&place, FOLDER, &[&source.endpoint], &dir.join(format!("{earlier}.log")));
        let page = follower.until(|page| page["coveredMs"].as_i64() > Some(0)).await;
        assert_eq!(page["since"].as_i64(), Some(newest), "{earlier}: a new run begins");
        backup(&place, &source, earlier, &[]);
        let mut last = 0;
        for n in 0..8 {
            last = source.put(&format!("{earlier}-after-{n}"), "z").await;
        }
        follower.until(|page| page["revision"].as_i64() == Some(last)).await;
        let restored = dir.join(format!("{earlier}-restored"));
        assert_eq!(restore(&place, FOLDER, &restored, &[]).unwrap()["revision"].as_i64(), Some(last), "{earlier}");
        assert!(Server::start(&restored).await.all(0).await == source.all(0).await, "{earlier}");
        follower.stop();
    }
}

/// What the last member said before it went is written, though its time has not come: nobody else has it.
#[tokio::test]
async fn the_last_words_of_a_member() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::folder(&dir.path().join("store"));
    let source = Server::start(&dir.path().join("source")).await;
    source.put("a", "1").await;
    let log = dir.path().join("agent.log");
    let follower = Follower::start_every(&place, FOLDER, &[&source.endpoint], &log, 3600);
    follower.until(|page| page["since"].as_i64() > Some(0)).await;
    let revision = source.put("a", "2").await;
    let sent = source.deltas_sent().await;
    // A message more than that of the write, and it is on its way.
    let began = std::time::Instant::now();
    while source.deltas_sent().await < sent + 2 {
        assert!(began.elapsed().as_secs() < 60, "the server sends nothing");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    drop(source);
    follower.until(|page| page["revision"].as_i64() == Some(revision)).await;
}

#[tokio::test]
async fn in_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    whole_life(&Place::folder(&dir.path().join("store")), dir.path()).await;
}

#[tokio::test]
async fn on_an_s3_server() {
    let dir = tempfile::tempdir().unwrap();
    let Some(s3) = S3::start(dir.path()) else {
        eprintln!("skipped: S3_SERVER names no server of the S3 protocol; tests/s3/build.sh builds one, with Go");
        return;
    };
    whole_life(&s3.place, dir.path()).await;
    let mut stranger = s3.place.clone();
    stranger.environment[1].1 = "not-the-secret".into();
    let words = look(&stranger, &named("second"), &[]).unwrap_err();
    assert!(words.contains("store: it refuses with SignatureDoesNotMatch"), "{words}");
}

/// With a key nothing in the store is in the clear, all of it works as before, and without the key nothing does.
#[tokio::test]
async fn encrypted() {
    let dir = tempfile::tempdir().unwrap();
    let keys = |name: &str, byte: &str| {
        let folder = dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("key"), byte.repeat(32)).unwrap();
        folder
    };
    let (right, wrong) = (keys("right", "0b"), keys("wrong", "0c"));
    let plain = Place::folder(&dir.path().join("store"));
    let sealed = plain.sealed(&right);
    whole_life(&sealed, dir.path()).await;
    let object = named("second");
    for name in plain.objects().iter().filter(|name| name.ends_with(".snapshot") || name.ends_with(".segment")) {
        let bytes = std::fs::read(plain.files.join(name)).unwrap();
        assert!(bytes.starts_with(b"QUORSEAL") && !bytes.windows(6).any(|window| window == b"later-"), "{name}");
    }
    let words = restore(&plain, &object, &dir.path().join("no-key"), &[]).unwrap_err();
    assert!(words.contains("is encrypted with key"), "{words}");
    let words = restore(&plain.sealed(&wrong), &object, &dir.path().join("wrong-key"), &[]).unwrap_err();
    assert!(words.contains("the keys at hand are"), "{words}");
    assert!(!dir.path().join("wrong-key").exists());
    assert!(look(&plain, &object, &[]).unwrap_err().contains("is encrypted with key"));
    assert!(look(&plain.sealed(&wrong), &object, &[]).unwrap_err().contains("the keys at hand are"));
    assert!(look(&sealed, &object, &[]).is_ok());
}
