//! How answers look: one printer per output format.
//!
//! In: the protocol's own messages. Out: bytes on stdout, the same that etcdctl writes for the same answer.
//!
//! A printer has a method per kind of answer. What it does not say otherwise goes to [`Printer::message`], which the formats
//! that can show any message implement and the others refuse.

mod fields;
mod json;
mod protobuf;
mod schema;
mod simple;
mod table;

use std::io::{self, Write};

use prost::Message;
use quorate_proto::etcdserverpb as pb;

use crate::failure::{self, Done};

/// One endpoint's answer to a health check.
pub struct Health {
    /// The endpoint.
    pub endpoint: String,
    /// No error, no alarm.
    pub healthy: bool,
    /// How long it took; empty when it never began.
    pub took: String,
    /// What is wrong; empty when nothing is.
    pub error: String,
}

/// One endpoint and its answer.
pub type From<T> = (String, T);

macro_rules! plain {
    ($( $name:ident($answer:ident $(, $extra:ident: $extra_type:ty)*); )*) => {
        $(
            /// Shows this answer.
            fn $name(&self, answer: &pb::$answer $(, $extra: $extra_type)*) -> Done {
                $( let _ = $extra; )*
                self.message(concat!("etcdserverpb.", stringify!($answer)), &answer.encode_to_vec())
            }
        )*
    };
}

/// One output format.
pub trait Printer {
    /// The format's name.
    fn name(&self) -> &'static str;

    /// Shows any message, given by its full name and encoding.
    fn message(&self, name: &str, encoded: &[u8]) -> Done {
        let _ = (name, encoded);
        self.refuse()
    }

    /// The error for what this format cannot show.
    fn refuse(&self) -> Done {
        Err(failure::bad_feature(format!("{} not supported as output format", self.name())))
    }

    /// Whether this is the format for people, which adds explanations.
    fn is_simple(&self) -> bool {
        false
    }

    /// Shows a range; `values_only` leaves keys out where the format can.
    fn get(&self, answer: &pb::RangeResponse, values_only: bool) -> Done {
        let _ = values_only;
        self.message("etcdserverpb.RangeResponse", &encode(answer))
    }

    /// Shows hashes of the key space.
    fn endpoint_hash_kv(&self, answers: &[From<pb::HashKvResponse>]) -> Done {
        let _ = answers;
        self.refuse()
    }

    /// Shows health checks.
    fn endpoint_health(&self, answers: &[Health]) -> Done {
        let _ = answers;
        self.refuse()
    }

    /// Shows members' status.
    fn endpoint_status(&self, answers: &[From<pb::StatusResponse>]) -> Done {
        let _ = answers;
        self.refuse()
    }

    plain! {
        put(PutResponse);
        del(DeleteRangeResponse);
        txn(TxnResponse);
        watch(WatchResponse);
        grant(LeaseGrantResponse);
        revoke(LeaseRevokeResponse, id: i64);
        keep_alive(LeaseKeepAliveResponse);
        time_to_live(LeaseTimeToLiveResponse, keys: bool);
        leases(LeaseLeasesResponse);
        member_add(MemberAddResponse);
        member_remove(MemberRemoveResponse, id: u64);
        member_update(MemberUpdateResponse, id: u64);
        member_promote(MemberPromoteResponse, id: u64);
        member_list(MemberListResponse);
        alarm(AlarmResponse);
        move_leader(MoveLeaderResponse, from: u64, to: u64);
        downgrade(DowngradeResponse, step: &str);
        role_add(AuthRoleAddResponse, role: &str);
        role_get(AuthRoleGetResponse, role: &str);
        role_delete(AuthRoleDeleteResponse, role: &str);
        role_list(AuthRoleListResponse);
        role_grant_permission(AuthRoleGrantPermissionResponse, role: &str);
        role_revoke_permission(AuthRoleRevokePermissionResponse, role: &str, key: &[u8], end: &[u8]);
        user_add(AuthUserAddResponse, user: &str);
        user_get(AuthUserGetResponse, user: &str);
        user_list(AuthUserListResponse);
        user_delete(AuthUserDeleteResponse, user: &str);
        user_change_password(AuthUserChangePasswordResponse);
        user_grant_role(AuthUserGrantRoleResponse, user: &str, role: &str);
        user_revoke_role(AuthUserRevokeRoleResponse, user: &str, role: &str);
        auth_status(AuthStatusResponse);
    }
}

/// The printer of that name.
pub fn printer(name: &str, hex: bool) -> Option<Box<dyn Printer>> {
    Some(match name {
        "simple" => Box::new(simple::Simple { hex }),
        "fields" => Box::new(fields::Fields { hex }),
        "json" => Box::new(json::Json::new(hex)),
        "protobuf" => Box::new(protobuf::Protobuf),
        "table" => Box::new(table::Table),
        _ => return None,
    })
}

/// Writes to stdout at once: watches are read line by line by other programs.
pub fn write(bytes: impl AsRef<[u8]>) -> Done {
    let mut out = io::stdout().lock();
    out.write_all(bytes.as_ref())?;
    out.flush()?;
    Ok(())
}

/// Writes a line to stdout.
pub fn line(text: impl AsRef<[u8]>) -> Done {
    write([text.as_ref(), b"\n"].concat())
}

fn encode(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

fn unreadable(error: prost::DecodeError) -> failure::Failure {
    failure::error(format!("unreadable answer: {error}"))
}
