//! Proves that the messages have the wire form of package `eraftpb`: bytes worked out by hand from the field numbers,
//! read and written; and that what does not fit is refused or read as documented.

use std::fmt::Debug;

use bytes::Bytes;
use protobuf::Message as _;
use raft_proto::prelude::*;
use raft_proto::{ConfChangeI, conf_state_eq, new_conf_change_single, parse_conf_change, stringify_conf_change};

/// The message encodes to exactly these bytes, they decode to the message, and both ways of measuring agree.
#[track_caller]
fn check<M: prost::Message + Default + PartialEq + Debug>(message: M, golden: &[u8]) {
    assert_eq!(message.encode_to_vec(), golden);
    assert_eq!(M::decode(golden).unwrap(), message);
    assert_eq!(message.compute_size() as usize, golden.len());
    assert_eq!(message.write_to_bytes().unwrap(), golden);
    let mut merged = M::default();
    merged.merge_from_bytes(golden).unwrap();
    assert_eq!(merged, message);
}

fn metadata() -> SnapshotMetadata {
    let mut metadata = SnapshotMetadata::default();
    metadata.set_conf_state(ConfState::from(([1], [])));
    metadata.set_index(7);
    metadata.set_term(3);
    metadata
}

#[test]
fn hard_state() {
    check(HardState { term: 300, vote: 2, commit: 1 }, b"\x08\xac\x02\x10\x02\x18\x01");
    check(HardState::default(), b"");
}

#[test]
fn entry_keeps_field_order_by_number() {
    let mut entry = Entry { term: 1, index: 2, sync_log: true, ..Entry::default() };
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    entry.set_data(Bytes::from_static(b"ab"));
    entry.set_context(Bytes::from_static(b"c"));
    check(entry, b"\x08\x02\x10\x01\x18\x02\x22\x02ab\x28\x01\x32\x01c");
}

#[test]
fn conf_state_is_packed_and_read_unpacked_too() {
    let state = ConfState {
        voters: vec![1, 2, 300],
        learners: vec![4],
        voters_outgoing: vec![1],
        learners_next: vec![5],
        auto_leave: true,
    };
    check(state, b"\x0a\x04\x01\x02\xac\x02\x12\x01\x04\x1a\x01\x01\x22\x01\x05\x28\x01");

    let mut unpacked = ConfState::default();
    unpacked.merge_from_bytes(b"\x08\x01\x08\x02").unwrap();
    assert_eq!(unpacked.get_voters(), [1, 2]);
}

#[test]
fn snapshot_and_metadata() {
    check(metadata(), b"\x0a\x03\x0a\x01\x01\x10\x07\x18\x03");
    let snapshot = Snapshot { data: Bytes::from_static(b"s"), metadata: Some(metadata()) };
    assert!(!snapshot.is_empty());
    check(snapshot, b"\x0a\x01s\x12\x09\x0a\x03\x0a\x01\x01\x10\x07\x18\x03");
    assert!(Snapshot::default().is_empty());
}

#[test]
fn message_with_every_field() {
    let mut message = Message {
        to: 2,
        from: 1,
        term: 5,
        log_term: 4,
        index: 9,
        commit: 8,
        reject: true,
        reject_hint: 6,
        request_snapshot: 11,
        deprecated_priority: 1,
        commit_term: 4,
        priority: -1,
        ..Message::default()
    };
    message.set_msg_type(MessageType::MsgAppend);
    message.set_entries(vec![Entry { term: 5, index: 10, data: Bytes::from_static(b"x"), ..Entry::default() }]);
    message.set_snapshot(Snapshot { data: Bytes::from_static(b"s"), metadata: Some(metadata()) });
    message.set_context(Bytes::from_static(b"r"));
    check(
        message,
        b"\x08\x03\x10\x02\x18\x01\x20\x05\x28\x04\x30\x09\
          \x3a\x07\x10\x05\x18\x0a\x22\x01x\
          \x40\x08\
          \x4a\x0e\x0a\x01s\x12\x09\x0a\x03\x0a\x01\x01\x10\x07\x18\x03\
          \x50\x01\x58\x06\x62\x01r\x68\x0b\x70\x01\x78\x04\
          \x80\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    );
}

#[test]
fn conf_changes() {
    let mut v1 = ConfChange { id: 7, node_id: 3, context: Bytes::from_static(b"k"), ..ConfChange::default() };
    v1.set_change_type(ConfChangeType::RemoveNode);
    check(v1.clone(), b"\x08\x07\x10\x01\x18\x03\x22\x01k");

    let v2 = v1.clone().into_v2();
    assert_eq!(v1.as_v2().as_ref(), &v2);
    assert_eq!(v1.as_v1(), Some(&v1));
    assert_eq!(v2.as_v1(), None);
    check(v2, b"\x12\x04\x08\x01\x10\x03\x1a\x01k");

    let mut joint = ConfChangeV2 { changes: parse_conf_change("l4 v5").unwrap(), ..ConfChangeV2::default() };
    joint.set_transition(ConfChangeTransition::Explicit);
    joint.set_context(Bytes::from_static(b"z"));
    check(joint, b"\x08\x02\x12\x04\x08\x02\x10\x04\x12\x02\x10\x05\x1a\x01z");
    check(new_conf_change_single(4, ConfChangeType::AddLearnerNode), b"\x08\x02\x10\x04");
}

/// The table of raft: when a change is joint, who leaves, and which change is the leaving one.
#[test]
fn joint_or_simple() {
    let change = |transition: ConfChangeTransition, text| ConfChangeV2 {
        transition: transition.into(),
        changes: parse_conf_change(text).unwrap(),
        ..ConfChangeV2::default()
    };
    use ConfChangeTransition::{Auto, Explicit, Implicit};
    assert_eq!(change(Auto, "v1").enter_joint(), None);
    assert_eq!(change(Auto, "v1 r2").enter_joint(), Some(true));
    assert_eq!(change(Implicit, "v1").enter_joint(), Some(true));
    assert_eq!(change(Explicit, "v1").enter_joint(), Some(false));
    assert!(change(Auto, "").leave_joint());
    assert!(!change(Explicit, "").leave_joint());
    assert!(!change(Auto, "v1").leave_joint());
}

#[test]
fn change_text_both_ways_and_faults() {
    let text = "v1 l2 r18446744073709551615";
    assert_eq!(stringify_conf_change(&parse_conf_change(text).unwrap()), text);
    assert_eq!(parse_conf_change("  ").unwrap(), []);
    for bad in ["x1", "v", "v1 r-2", "é3", "l18446744073709551616"] {
        assert!(parse_conf_change(bad).is_err(), "{bad}");
    }
}

#[test]
fn conf_states_compare_as_sets() {
    let a = ConfState::from(([1, 2, 3], [4]));
    assert!(conf_state_eq(&a, &ConfState::from((vec![3, 1, 2], vec![4]))));
    assert!(!conf_state_eq(&a, &ConfState::from((vec![1, 2], vec![4]))));
    assert!(!conf_state_eq(&a, &ConfState { auto_leave: true, ..a.clone() }));
}

/// An enum number from a later version reads as the zero value and goes back out as it came in.
#[test]
fn unknown_enum_number_survives() {
    let mut entry = Entry::default();
    entry.merge_from_bytes(b"\x08\x09").unwrap();
    assert_eq!(entry.get_entry_type(), EntryType::EntryNormal);
    assert_eq!(entry.write_to_bytes().unwrap(), b"\x08\x09");
}

#[test]
fn malformed_bytes_are_an_error_that_raft_carries() {
    let fault = ConfChange::default().merge_from_bytes(b"\x22\x05ab").unwrap_err();
    assert_eq!(fault.to_string(), "message does not decode");
    assert!(std::error::Error::source(&fault).is_some());
    assert!(matches!(raft::Error::from(fault), raft::Error::CodecError(_)));
}

/// A decode from `Bytes` lends the payload out of the input, and `take_` moves it: no copy on the way.
#[test]
fn payload_is_not_copied() {
    let entry = Entry { data: Bytes::from(vec![7; 1024]), ..Entry::default() };
    let wire = Bytes::from(entry.write_to_bytes().unwrap());
    let mut read: Entry = prost::Message::decode(wire.clone()).unwrap();
    let data = read.take_data();
    assert!(wire.as_ptr_range().contains(&data.as_ptr()));
    assert_eq!(data.len(), 1024);
    assert!(read.get_data().is_empty());
}

/// An absent message reads as its default, and reading it does not make it present.
#[test]
fn absent_messages() {
    let mut message = Message::default();
    assert_eq!(message.get_snapshot().get_metadata().get_conf_state(), &ConfState::default());
    assert!(!message.has_snapshot());
    assert_eq!(message.take_snapshot(), Snapshot::default());
    message.mut_snapshot().mut_metadata().mut_conf_state().mut_voters().push(1);
    assert!(message.has_snapshot() && message.get_snapshot().get_metadata().has_conf_state());
    message.clear_snapshot();
    assert!(!message.has_snapshot());
}
