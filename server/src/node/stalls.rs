//! A member on a log whose disk stands still, with real threads: what it does meanwhile, and that it goes on afterwards.

use super::start::tests::settings;
use super::*;
use crate::env::files::{DataFile, FileLock, Files, OpenMode, RealFiles};
use crate::types::MemberId;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use quorate_proto::state::Member;
use raft::eraftpb::{Entry, Message, MessageType};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What anything here waits for at most.
const PATIENCE: Duration = Duration::from_secs(20);

/// Shut, no sync returns.
#[derive(Default)]
struct Latch {
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Latch {
    fn set(&self, shut: bool) {
        *self.shut.lock() = shut;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut shut = self.shut.lock();
        while *shut {
            self.opened.wait(&mut shut);
        }
    }
}

/// The system's files, whose syncs wait on a latch.
struct Latched(Arc<Latch>);

struct LatchedFile(Arc<dyn DataFile>, Arc<Latch>);

impl Files for Latched {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DataFile>> {
        Ok(Arc::new(LatchedFile(RealFiles.open(path, mode)?, self.0.clone())))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFiles.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealFiles.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFiles.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealFiles.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        RealFiles.lock(path)
    }
}

impl DataFile for LatchedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.1.pass();
        self.0.sync()
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn preallocate(&self, size: u64) -> io::Result<()> {
        self.0.preallocate(size)
    }
}

/// What the member sent last, for the leader that this test plays.
#[derive(Default)]
struct Heard {
    /// The context of the newest heartbeat that was answered.
    heartbeat: Vec<u8>,
    /// The last entry that it says is durable.
    durable: u64,
}

#[derive(Default)]
struct Leader {
    heard: Mutex<Heard>,
    changed: Condvar,
}

impl PeerSink for Leader {
    fn send(&self, messages: Vec<Message>) {
        let mut heard = self.heard.lock();
        for m in messages {
            match m.get_msg_type() {
                MessageType::MsgHeartbeatResponse => heard.heartbeat = m.context.to_vec(),
                MessageType::MsgAppendResponse if !m.reject => heard.durable = heard.durable.max(m.index),
                _ => {}
            }
        }
        self.changed.notify_all();
    }

    fn forward(&self, _: MemberId, _: Vec<Bytes>) {}
}

impl Leader {
    fn hears(&self, holds: impl Fn(&Heard) -> bool) -> bool {
        let until = Instant::now() + PATIENCE;
        let mut heard = self.heard.lock();
        while !holds(&heard) {
            if self.changed.wait_until(&mut heard, until).timed_out() {
                return false;
            }
        }
        true
    }

    /// Sends an entry of term 2 at `index`.
    fn append(&self, node: &NodeHandle, index: u64) {
        let term = if index == 2 { 1 } else { 2 };
        let mut message = message(MessageType::MsgAppend);
        (message.index, message.log_term, message.commit) = (index - 1, term, index - 1);
        message.set_entries(vec![Entry { index, term: 2, ..Default::default() }]);
        node.peer_messages(vec![message]).expect("the inbox takes it");
    }

    /// Sends a heartbeat; whether it is answered.
    fn beat(&self, node: &NodeHandle, number: u64) -> bool {
        let mut message = message(MessageType::MsgHeartbeat);
        message.context = Bytes::copy_from_slice(&number.to_be_bytes());
        node.peer_messages(vec![message]).is_ok() && self.hears(|h| h.heartbeat == number.to_be_bytes())
    }
}

fn message(kind: MessageType) -> Message {
    let mut message = Message { from: 8, to: 7, term: 2, ..Default::default() };
    message.set_msg_type(kind);
    message
}

/// A follower whose log stands still while its leader goes on sending answers every heartbeat, takes a bounded part of the entries,
/// and takes the rest when the disk is back. It stops when asked to.
#[test]
fn a_follower_outlives_a_log_that_stands_still() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings = NodeSettings {
        heartbeat: Duration::from_secs(1),
        // The leader of this test never fails; a slow machine must not make an election of it.
        election: Duration::from_secs(1000),
        ..settings(dir.path())
    };
    let members = [7, 8, 9].map(|id| Member { id, ..Default::default() }).to_vec();
    let founding = Founding { cluster_id: 1, member_id: 7, members, ..Default::default() };
    let latch = Arc::<Latch>::default();
    let opened = Opened::open(settings, Some(&founding), Arc::new(Latched(latch.clone()))).expect("it opens");
    let leader = Arc::<Leader>::default();
    let node = opened.run(leader.clone(), Box::new(())).expect("it runs");
    let handle = node.handle().clone();
    // The second answer says that the loop knows the term to be written, too.
    assert!(leader.beat(&handle, 0) && leader.beat(&handle, 1), "the term is written and answered");

    latch.set(true);
    let sent = 3000;
    for index in 2..sent {
        leader.append(&handle, index);
        assert!(leader.beat(&handle, index), "no answer to a heartbeat after entry {index}");
    }
    let taken = handle.status().last_index;
    assert!((100..sent - 1000).contains(&taken), "{taken} entries were taken");

    latch.set(false);
    assert!(leader.hears(|h| h.durable == taken), "the log goes on");
    for index in taken + 1..sent {
        leader.append(&handle, index);
        assert!(leader.hears(|h| h.durable >= index), "entry {index} is not taken");
    }
    // Nobody waits for a log that stands still.
    node.stop();
}
