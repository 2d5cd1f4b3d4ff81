//! A leader and learners that this test plays: they have no log, want a snapshot, and take none.

use super::tests::SETTINGS;
use super::*;
use crate::env::clock::ManualClock;
use quorate_proto::entry::{Put, command::Op};
use quorate_proto::state::{Member, MemberChangeKind};
use raft::Storage as _;
use raft::eraftpb::MessageType;

#[derive(Default)]
struct Sent(Mutex<Vec<Message>>);

impl PeerSink for Sent {
    fn send(&self, messages: Vec<Message>) {
        self.0.lock().extend(messages);
    }

    fn forward(&self, _: MemberId, _: Vec<bytes::Bytes>) {}
}

/// The leader, 7, and what it sent.
struct World {
    node: SteppedNode,
    sent: Arc<Sent>,
    time: Arc<ManualClock>,
    now: Duration,
    written: usize,
    /// Learners that answer nothing.
    silent: Vec<u64>,
}

impl World {
    /// A leader that has written and checkpointed enough to have forgotten the beginning of its log.
    fn new(catch_up_entries: u64) -> Self {
        let settings = SteppedSettings { catch_up_entries, ..SETTINGS };
        let disk = MemDisk::new(1);
        let members = vec![Member { id: 7, ..Default::default() }];
        disk.found(&settings, &Founding { cluster_id: 1, member_id: 7, members, ..Default::default() }).expect("it is founded");
        let (sent, time) = (Arc::<Sent>::default(), Arc::<ManualClock>::default());
        let identity = Identity { cluster: 1, member: 7 };
        let (clock, life) = (Clock::manual(time.clone()), Life { number: 1, seed: 5 });
        let node = SteppedNode::start(&disk, &settings, identity, life, clock, sent.clone(), |_| Box::new(())).expect("it starts");
        let mut world = Self { node, sent, time, now: Duration::ZERO, written: 0, silent: Vec::new() };
        world.step(true);
        (0..60).for_each(|_| world.write());
        assert!(world.first() > 10, "the log begins at {}", world.first());
        world
    }

    fn first(&self) -> u64 {
        self.node.main.lock().driver.store().first_index().expect("a log")
    }

    /// Moves everything that can move, the keeper only if it may.
    fn step(&mut self, keeper: bool) {
        for _ in 0..40 {
            self.node.step_loop(100);
            self.node.step_apply();
            if keeper {
                self.node.step_keeper();
            }
            self.node.step_log();
        }
    }

    fn write(&mut self) {
        self.written += 1;
        let value = format!("{:0100}", self.written);
        let put = Put { key: "k".into(), value: value.into(), ..Default::default() };
        drop(self.node.propose(Command { op: Some(Op::Put(put)) }).expect("it is taken"));
        self.step(true);
    }

    fn add_learner(&mut self, id: u64, keeper: bool) {
        let member = Member { id, learner: true, peer_urls: vec![format!("http://127.0.0.1:{id}")], ..Default::default() };
        let mut change = MemberChange { member: Some(member), ..Default::default() };
        change.set_kind(MemberChangeKind::AddLearner);
        let mut waiting = self.node.change_members(change).expect("it is taken");
        self.step(keeper);
        assert!(matches!(waiting.poll(), Some(Answered::Applied(answer)) if answer.result.is_ok()), "{id} is a learner");
    }

    /// One heartbeat, which the learners answer, as they do appends, out of empty logs. The snapshots that were sent meanwhile.
    fn beat(&mut self, keeper: bool) -> Vec<Message> {
        self.now += SETTINGS.heartbeat;
        self.time.set(self.now, self.now);
        self.node.tick();
        self.step(keeper);
        let mut snapshots = Vec::new();
        for m in std::mem::take(&mut *self.sent.0.lock()) {
            if self.silent.contains(&m.to) {
                continue;
            }
            let mut answer = Message { from: m.to, to: 7, term: m.term, context: m.context.clone(), ..Default::default() };
            match m.get_msg_type() {
                MessageType::MsgHeartbeat => answer.set_msg_type(MessageType::MsgHeartbeatResponse),
                MessageType::MsgAppend => {
                    answer.set_msg_type(MessageType::MsgAppendResponse);
                    (answer.index, answer.reject) = (m.index, true);
                }
                MessageType::MsgSnapshot => {
                    snapshots.push(m);
                    continue;
                }
                _ => continue,
            }
            self.node.handle().peer_messages(vec![answer]).expect("it is taken");
        }
        self.step(keeper);
        snapshots
    }
}

/// A learner that refuses every snapshot, with one always on its way, does not keep the leader's log from being purged.
#[test]
fn who_takes_no_snapshot_keeps_no_log() {
    let mut world = World::new(10);
    world.add_learner(8, true);
    let (mut held, mut offers, before) = (None, 0, world.first());
    for _ in 0..300 {
        for snapshot in world.beat(true) {
            offers += 1;
            held = world.node.announced_view(snapshot.get_snapshot().get_metadata().index);
            assert!(held.is_some(), "what is offered is there");
            world.node.handle().report_snapshot(8, false);
        }
        world.write();
    }
    assert!(offers > 100, "{offers} offers were made");
    let last = world.node.handle().status().last_index;
    assert!(world.first() > before + 150, "the log begins at {}, as at {before} before; it ends at {last}", world.first());
    drop(held);
}

/// A view that was made while a member was added does not know it, and is not offered: the next one is.
#[test]
fn a_view_from_before_a_change_of_members_is_not_offered() {
    let mut world = World::new(10);
    world.add_learner(8, true);
    // The learner wants a snapshot; the view is asked of the keeper, which does not come to it. Nobody asks again: the learner goes.
    while !world.node.main.lock().view_is_asked() {
        assert!(world.beat(false).is_empty());
        assert!(world.now < Duration::from_secs(60), "no view was ever asked for");
    }
    world.silent.push(8);
    (0..40).for_each(|_| drop(world.beat(false)));
    world.add_learner(9, false);
    let knows = |m: &Message| m.get_snapshot().get_metadata().get_conf_state().learners.contains(&9);
    let mut offered = Vec::new();
    for _ in 0..20 {
        offered.extend(world.beat(true));
    }
    assert!(offered.iter().any(|m| m.to == 9), "{} offers", offered.len());
    assert!(offered.iter().all(knows), "an offer that its receiver refuses");
}

/// A checkpoint of entries that raft was not yet told are applied takes none away that raft still looks at: an election would meet the
/// gap.
#[test]
fn nothing_is_forgotten_that_raft_has_not_passed() {
    let mut world = World::new(0);
    let before = world.first();
    for _ in 0..400 {
        // Word of what was applied is not sent while the loop has no use for it.
        world.node.handle.0.applied_wanted.store(false, std::sync::atomic::Ordering::SeqCst);
        if !world.node.apply_has_work() {
            let put = Put { key: "k".into(), value: vec![7; 600].into(), ..Default::default() };
            drop(world.node.propose(Command { op: Some(Op::Put(put)) }).expect("it is taken"));
        }
        {
            let mut main = world.node.main.lock();
            while let Ok(input) = main.inbox.try_recv() {
                main.take(input);
                let applied = main.driver.applied_index();
                assert!(main.driver.store().first_index().expect("a log") <= applied + 1);
            }
            main.work();
        }
        world.node.step_apply();
        world.node.step_keeper();
        world.node.step_log();
    }
    assert!(world.first() > before + 20);
}

/// Of forwarded proposals those that are none, or have no command that this build knows, do not get into an entry; the others do.
#[test]
fn what_is_no_proposal_is_not_forwarded_into_an_entry() {
    use prost::Message as _;
    let mut world = World::new(10);
    let before = world.node.handle().store().revision();
    let put = Put { key: "f".into(), value: "1".into(), ..Default::default() };
    let sound =
        quorate_proto::entry::Proposal { origin: 8, command: Some(Command { op: Some(Op::Put(put)) }), ..Default::default() };
    let unknown = quorate_proto::entry::Proposal { origin: 8, command: Some(Command::default()), ..Default::default() };
    let proposals = [b"\xff\xff".to_vec(), unknown.encode_to_vec(), Vec::new(), sound.encode_to_vec()];
    world.node.handle().forwarded(proposals.map(Into::into).to_vec()).expect("the leader takes them");
    world.step(true);
    assert_eq!(world.node.handle().store().revision(), before + 1);
}
