//! Proves that the published raft runs on these messages: members in one thread, every message encoded and decoded on
//! its way, the order of effects of async ready. No clock: members tick only where a test says so.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use raft::prelude::*;
use raft::storage::MemStorage;
use raft::{GetEntriesContext, ReadState, StateRole};
use raft_proto::{conf_state_eq, parse_conf_change};

struct Member {
    node: RawNode<MemStorage>,
    applied: Vec<Bytes>,
    reads: Vec<ReadState>,
    snapshots: usize,
}

impl Member {
    fn new(id: u64, storage: MemStorage) -> Member {
        let config = Config {
            id,
            election_tick: 10,
            heartbeat_tick: 1,
            max_size_per_msg: 1 << 20,
            pre_vote: true,
            check_quorum: true,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, storage, &logger).unwrap();
        Member { node, applied: Vec::new(), reads: Vec::new(), snapshots: 0 }
    }

    /// Carries out every effect that waits, and returns the messages to deliver.
    fn drain(&mut self) -> Vec<Message> {
        let mut out = Vec::new();
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            out.extend(ready.take_messages());
            self.reads.extend(ready.take_read_states());
            let snapshot = ready.snapshot().clone();
            {
                let mut store = self.node.store().wl();
                if !snapshot.is_empty() {
                    store.apply_snapshot(snapshot.clone()).unwrap();
                    self.snapshots += 1;
                }
                store.append(ready.entries()).unwrap();
                if let Some(state) = ready.hs() {
                    store.set_hardstate(state.clone());
                }
            }
            let after_sync = ready.take_persisted_messages();
            let committed = ready.take_committed_entries();
            let number = ready.number();
            self.node.advance_append_async(ready);
            self.node.on_persist_ready(number);
            out.extend(after_sync);
            if !snapshot.is_empty() {
                self.node.advance_apply_to(snapshot.get_metadata().index);
            }
            for entry in committed {
                let index = entry.index;
                self.apply(entry);
                self.node.advance_apply_to(index);
            }
        }
        out
    }

    fn apply(&mut self, mut entry: Entry) {
        let state = match entry.get_entry_type() {
            EntryType::EntryNormal => {
                if !entry.data.is_empty() {
                    self.applied.push(entry.take_data());
                }
                return;
            }
            EntryType::EntryConfChange => self.node.apply_conf_change(&ConfChange::decode(entry.take_data()).unwrap()).unwrap(),
            EntryType::EntryConfChangeV2 => self.node.apply_conf_change(&ConfChangeV2::decode(entry.take_data()).unwrap()).unwrap(),
        };
        self.node.store().wl().set_conf_state(state);
    }

    fn conf(&self) -> ConfState {
        self.node.raft.prs().conf().to_conf_state()
    }
}

struct Cluster(BTreeMap<u64, Member>);

impl Cluster {
    /// Three voters with the same empty log, member 1 leads.
    fn new() -> Cluster {
        let members =
            [1, 2, 3].map(|id| (id, Member::new(id, MemStorage::new_with_conf_state((vec![1, 2, 3], Vec::<u64>::new())))));
        let mut cluster = Cluster(members.into());
        cluster.at(1).node.campaign().unwrap();
        cluster.settle();
        cluster.check_leader(1);
        cluster
    }

    fn at(&mut self, id: u64) -> &mut Member {
        self.0.get_mut(&id).unwrap()
    }

    /// Delivers until no member has anything left to say.
    fn settle(&mut self) {
        loop {
            let messages: Vec<Message> = self.0.values_mut().flat_map(Member::drain).collect();
            if messages.is_empty() {
                return;
            }
            for message in messages {
                let wire = Bytes::from(message.encode_to_vec());
                assert_eq!(wire.len(), message.encoded_len());
                let read = Message::decode(wire.clone()).unwrap();
                assert_eq!(read, message);
                assert_eq!(read.encode_to_vec(), wire);
                if let Some(member) = self.0.get_mut(&read.to) {
                    // A member that a change removed may still answer, and raft refuses the answer of a stranger.
                    match member.node.step(read) {
                        Ok(()) | Err(raft::Error::StepPeerNotFound) => {}
                        Err(e) => panic!("step: {e}"),
                    }
                }
            }
        }
    }

    /// Followers learn the last commit index with the next heartbeat.
    fn heartbeat(&mut self, leader: u64) {
        self.at(leader).node.ping();
        self.settle();
    }

    fn propose(&mut self, leader: u64, payloads: &[Bytes]) {
        let mut message = Message { from: leader, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(payloads.iter().map(|data| Entry { data: data.clone(), ..Entry::default() }).collect());
        self.at(leader).node.step(message).unwrap();
        self.settle();
        self.heartbeat(leader);
    }

    fn change(&mut self, leader: u64, transition: ConfChangeTransition, text: &str) {
        let change =
            ConfChangeV2 { transition: transition.into(), changes: parse_conf_change(text).unwrap(), ..ConfChangeV2::default() };
        self.at(leader).node.propose_conf_change(Vec::new(), change).unwrap();
        self.settle();
        self.heartbeat(leader);
    }

    #[track_caller]
    fn check_leader(&self, id: u64) {
        let leaders: Vec<u64> = self.0.iter().filter(|(_, m)| m.node.raft.state == StateRole::Leader).map(|(id, _)| *id).collect();
        assert_eq!(leaders, [id]);
    }
}

#[test]
fn elect_by_ticks() {
    let mut cluster = Cluster::new();
    // Member 1 falls silent: its messages are dropped with it.
    cluster.0.remove(&1);
    for _ in 0..20 * 10 {
        for member in cluster.0.values_mut() {
            member.node.tick();
        }
        cluster.settle();
        if cluster.0.values().any(|m| m.node.raft.state == StateRole::Leader) {
            return;
        }
    }
    panic!("two of three members elected nobody");
}

#[test]
fn replicate_a_payload_without_copy_on_the_leader() {
    let mut cluster = Cluster::new();
    let big = Bytes::from(vec![0x5a; 1024]);
    let small = Bytes::from_static(b"second of the same message");
    cluster.propose(1, &[big.clone(), small.clone()]);
    for member in cluster.0.values() {
        assert_eq!(member.applied, [big.clone(), small.clone()]);
    }
    // The leader's log and its apply hold the very bytes that were proposed.
    let leader = cluster.at(1);
    assert_eq!(leader.applied[0].as_ptr(), big.as_ptr());
    let last = leader.node.store().last_index().unwrap();
    let log = leader.node.store().entries(last - 1, last + 1, None, GetEntriesContext::empty(false)).unwrap();
    assert_eq!(log[0].data.as_ptr(), big.as_ptr());
}

#[test]
fn read_index_on_leader_and_follower() {
    let mut cluster = Cluster::new();
    cluster.propose(1, &[Bytes::from_static(b"x")]);
    let commit = cluster.at(1).node.raft.raft_log.committed;
    for id in [1, 2] {
        let context = vec![0xff, id as u8];
        cluster.at(id).node.read_index(context.clone());
        cluster.settle();
        assert_eq!(cluster.at(id).reads, [ReadState { index: commit, request_ctx: context }]);
    }
}

#[test]
fn learner_gets_a_snapshot_then_entries() {
    let mut cluster = Cluster::new();
    cluster.propose(1, &[Bytes::from_static(b"before")]);
    // The first entries are gone from the leader's log, so an empty member can only begin with a snapshot.
    let applied = cluster.at(1).node.raft.raft_log.applied;
    cluster.at(1).node.store().wl().compact(applied).unwrap();
    cluster.0.insert(4, Member::new(4, MemStorage::new()));
    cluster.change(1, ConfChangeTransition::Auto, "l4");
    cluster.at(1).node.report_snapshot(4, SnapshotStatus::Finish);
    cluster.propose(1, &[Bytes::from_static(b"after")]);

    let expected = ConfState::from(([1, 2, 3], [4]));
    assert!(cluster.0.values().all(|m| conf_state_eq(&m.conf(), &expected)));
    let learner = cluster.at(4);
    assert_eq!(learner.snapshots, 1);
    assert_eq!(learner.applied, [Bytes::from_static(b"after")]);
    assert!(!learner.node.raft.promotable());
}

#[test]
fn change_of_the_older_form() {
    let mut cluster = Cluster::new();
    let mut change = ConfChange { node_id: 3, ..ConfChange::default() };
    change.set_change_type(ConfChangeType::RemoveNode);
    cluster.at(1).node.propose_conf_change(b"why".to_vec(), change).unwrap();
    cluster.settle();
    assert!(conf_state_eq(&cluster.at(1).conf(), &ConfState::from(([1, 2], []))));
}

#[test]
fn joint_swap_left_by_hand() {
    let mut cluster = Cluster::new();
    cluster.0.insert(4, Member::new(4, MemStorage::new_with_conf_state((vec![1, 2, 3], Vec::<u64>::new()))));
    cluster.change(1, ConfChangeTransition::Explicit, "v4 r3");
    let joint = ConfState { voters_outgoing: vec![1, 2, 3], ..ConfState::from(([1, 2, 4], [])) };
    assert!(conf_state_eq(&cluster.at(1).conf(), &joint));
    assert!(conf_state_eq(&cluster.at(4).conf(), &joint));

    cluster.change(1, ConfChangeTransition::Auto, "");
    let plain = ConfState::from(([1, 2, 4], []));
    for id in [1, 2, 4] {
        assert!(conf_state_eq(&cluster.at(id).conf(), &plain), "member {id}");
    }
    cluster.propose(1, &[Bytes::from_static(b"after")]);
    assert_eq!(cluster.at(4).applied, [Bytes::from_static(b"after")]);
}

#[test]
fn joint_swap_left_by_raft() {
    let mut cluster = Cluster::new();
    cluster.0.insert(4, Member::new(4, MemStorage::new_with_conf_state((vec![1, 2, 3], Vec::<u64>::new()))));
    cluster.change(1, ConfChangeTransition::Auto, "v4 r3");
    assert!(conf_state_eq(&cluster.at(1).conf(), &ConfState::from(([1, 2, 4], []))));
}

#[test]
fn leader_transfer() {
    let mut cluster = Cluster::new();
    cluster.at(1).node.transfer_leader(2);
    cluster.settle();
    cluster.check_leader(2);
    cluster.propose(2, &[Bytes::from_static(b"x")]);
    assert!(cluster.0.values().all(|m| m.applied == [Bytes::from_static(b"x")]));
}
