//! Any message as JSON, from its encoding and the descriptors of the protocol.
//!
//! The form is what Go's encoding/json makes of the generated Go types: fields in the order of the .proto file under their
//! proto names, zero values left out, numbers as numbers, enums as numbers, bytes in base64.

use std::collections::HashMap;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use crate::failure::{self, Done};

/// The messages of the protocol by full name.
pub struct Schema {
    messages: HashMap<String, DescriptorProto>,
    /// Show ids of members and clusters as texts in hexadecimal, also when they are zero.
    hex_ids: bool,
}

/// A field as it stands on the wire.
enum Raw {
    Varint(u64),
    Bytes(Bytes),
}

impl Schema {
    /// Reads the descriptors that are built into the protocol crate.
    pub fn new(hex_ids: bool) -> Self {
        let files = FileDescriptorSet::decode(quorate_proto::DESCRIPTORS).unwrap_or_default();
        let mut messages = HashMap::new();
        for file in files.file {
            let package = file.package().to_string();
            for message in file.message_type {
                messages.insert(format!("{package}.{}", message.name()), message);
            }
        }
        Self { messages, hex_ids }
    }

    /// Appends the message as a JSON object.
    pub fn object(&self, name: &str, encoded: &[u8], out: &mut String) -> Done {
        out.push('{');
        self.members(name, encoded, out)?;
        out.push('}');
        Ok(())
    }

    /// Appends the message's fields without the braces.
    pub fn members(&self, name: &str, encoded: &[u8], out: &mut String) -> Done {
        let message = self.messages.get(name).ok_or_else(|| failure::error(format!("no descriptor of {name}")))?;
        let mut fields = read(encoded).ok_or_else(|| failure::error(format!("unreadable {name}")))?;
        let mut comma = "";
        for field in &message.field {
            let values = fields.remove(&field.number()).unwrap_or_default();
            let id = self.hex_ids && is_id(name, field.name());
            let list = field.label() == Label::Repeated;
            if values.is_empty() && !id && !(self.hex_ids && list && field.name() == "members") {
                continue;
            }
            write!(out, "{comma}\"{}\":", field.name()).expect("writing to a string");
            comma = ",";
            if list {
                out.push('[');
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    self.value(field, value, out)?;
                }
                out.push(']');
            } else if id {
                let value = if let Some(Raw::Varint(value)) = values.last() { *value } else { 0 };
                write!(out, "\"{value:x}\"").expect("writing to a string");
            } else if let Some(value) = values.last() {
                self.value(field, value, out)?;
            }
        }
        Ok(())
    }

    fn value(&self, field: &FieldDescriptorProto, value: &Raw, out: &mut String) -> Done {
        match (field.r#type(), value) {
            (Type::Message, Raw::Bytes(bytes)) => return self.object(field.type_name().trim_start_matches('.'), bytes, out),
            (Type::String, Raw::Bytes(bytes)) => text(&String::from_utf8_lossy(bytes), out),
            (_, Raw::Bytes(bytes)) => write!(out, "\"{}\"", STANDARD.encode(bytes)).expect("writing to a string"),
            (Type::Bool, Raw::Varint(value)) => out.push_str(if *value == 0 { "false" } else { "true" }),
            (Type::Uint64 | Type::Uint32, Raw::Varint(value)) => write!(out, "{value}").expect("writing to a string"),
            (_, Raw::Varint(value)) => write!(out, "{}", *value as i64).expect("writing to a string"),
        }
        Ok(())
    }
}

fn is_id(message: &str, field: &str) -> bool {
    matches!((message, field), ("etcdserverpb.ResponseHeader", "cluster_id" | "member_id") | ("etcdserverpb.Member", "ID"))
}

fn read(mut encoded: &[u8]) -> Option<HashMap<i32, Vec<Raw>>> {
    let mut fields: HashMap<i32, Vec<Raw>> = HashMap::new();
    while encoded.has_remaining() {
        let (number, wire_type) = decode_key(&mut encoded).ok()?;
        let value = match wire_type {
            WireType::Varint => Raw::Varint(decode_varint(&mut encoded).ok()?),
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut encoded).ok()?).ok()?;
                let (value, rest) = encoded.split_at_checked(length)?;
                encoded = rest;
                Raw::Bytes(Bytes::copy_from_slice(value))
            }
            // The protocol's answers hold no other kinds.
            _ => return None,
        };
        fields.entry(i32::try_from(number).ok()?).or_default().push(value);
    }
    Some(fields)
}

/// Appends a JSON string, with the characters escaped that Go escapes.
pub fn text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(out, "\\u{:04x}", c as u32).expect("writing to a string");
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use quorate_proto::etcdserverpb::{MemberListResponse, RangeResponse, ResponseHeader};
    use quorate_proto::mvccpb::KeyValue;

    use super::*;

    /// Zero fields are left out, bytes are base64, order is the .proto file's; with hex ids the ids stay whatever they are.
    #[test]
    fn objects() {
        let pair = KeyValue { key: "k".into(), mod_revision: -1, value: "\u{ff}".into(), ..KeyValue::default() };
        let header = Some(ResponseHeader { cluster_id: u64::MAX, ..ResponseHeader::default() });
        let answer = RangeResponse { header, kvs: vec![(&pair).into()], more: true, count: 0 };
        let mut schema = Schema::new(false);
        let mut out = String::new();
        schema.object("etcdserverpb.RangeResponse", &answer.encode_to_vec(), &mut out).unwrap();
        assert_eq!(
            out,
            r#"{"header":{"cluster_id":18446744073709551615},"kvs":[{"key":"aw==","mod_revision":-1,"value":"w78="}],"more":true}"#
        );
        schema.hex_ids = true;
        out.clear();
        let list = MemberListResponse { header, members: Vec::new() };
        schema.object("etcdserverpb.MemberListResponse", &list.encode_to_vec(), &mut out).unwrap();
        assert_eq!(out, r#"{"header":{"cluster_id":"ffffffffffffffff","member_id":"0"},"members":[]}"#);
    }

    /// Texts are escaped for JSON inside HTML, as Go does it.
    #[test]
    fn texts() {
        let mut out = String::new();
        text("a<\u{1}\"é", &mut out);
        assert_eq!(out, r#""a\u003c\u0001\"é""#);
    }
}
