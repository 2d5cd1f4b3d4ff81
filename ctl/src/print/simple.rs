//! `-w simple`: lines for people, and for the many scripts that read them.

use quorate_client::{FROM_KEY_END, prefix_end};
use quorate_proto::RawKv;
use quorate_proto::authpb::{self, permission::Type};
use quorate_proto::etcdserverpb::{self as pb, AlarmType, response_op::Response};

use super::{From, Health, Printer, line, table, unreadable, write};
use crate::failure::Done;

/// The printer.
pub struct Simple {
    pub hex: bool,
}

impl Simple {
    /// A pair on two lines, or its value on one.
    fn pair(&self, pair: &RawKv, value_only: bool, out: &mut Vec<u8>) -> Done {
        let pair = pair.decode().map_err(unreadable)?;
        if !value_only {
            self.bytes(&pair.key, out);
        }
        self.bytes(&pair.value, out);
        Ok(())
    }

    fn bytes(&self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.hex {
            bytes.iter().for_each(|byte| out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()));
        } else {
            out.extend_from_slice(bytes);
        }
        out.push(b'\n');
    }

    fn range(&self, answer: &pb::RangeResponse, values_only: bool, out: &mut Vec<u8>) -> Done {
        answer.kvs.iter().try_for_each(|pair| self.pair(pair, values_only, out))
    }

    fn deleted(&self, answer: &pb::DeleteRangeResponse, out: &mut Vec<u8>) -> Done {
        out.extend_from_slice(format!("{}\n", answer.deleted).as_bytes());
        answer.prev_kvs.iter().try_for_each(|pair| self.pair(pair, false, out))
    }

    fn stored(&self, answer: &pb::PutResponse, out: &mut Vec<u8>) -> Done {
        out.extend_from_slice(b"OK\n");
        answer.prev_kv.iter().try_for_each(|pair| self.pair(pair, false, out))
    }
}

fn rows(rows: Vec<Vec<String>>) -> Done {
    rows.iter().try_for_each(|row| line(row.join(", ")))
}

fn cluster(header: Option<&pb::ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.cluster_id)
}

/// One permission on a line of its own, in the notation of intervals.
fn permission(permission: &authpb::Permission, out: &mut Vec<u8>) {
    let (key, end) = (&permission.key, &permission.range_end);
    out.push(b'\t');
    if end.is_empty() {
        out.extend_from_slice(key);
    } else {
        let end_text: &[u8] = if end == FROM_KEY_END { b"<open ended>" } else { end };
        out.extend_from_slice(&[b"[", &key[..], b", ", end_text].concat());
        if end != FROM_KEY_END {
            out.push(b')');
        }
        if !key.is_empty() && prefix_end(key) == **end {
            out.extend_from_slice(&[b" (prefix ", &key[..], b")"].concat());
        }
    }
    out.push(b'\n');
}

impl Printer for Simple {
    fn name(&self) -> &'static str {
        "simple"
    }

    fn is_simple(&self) -> bool {
        true
    }

    fn get(&self, answer: &pb::RangeResponse, values_only: bool) -> Done {
        let mut out = Vec::new();
        self.range(answer, values_only, &mut out)?;
        write(out)
    }

    fn put(&self, answer: &pb::PutResponse) -> Done {
        let mut out = Vec::new();
        self.stored(answer, &mut out)?;
        write(out)
    }

    fn del(&self, answer: &pb::DeleteRangeResponse) -> Done {
        let mut out = Vec::new();
        self.deleted(answer, &mut out)?;
        write(out)
    }

    fn txn(&self, answer: &pb::TxnResponse) -> Done {
        let mut out = if answer.succeeded { b"SUCCESS\n".to_vec() } else { b"FAILURE\n".to_vec() };
        for response in &answer.responses {
            out.push(b'\n');
            match &response.response {
                Some(Response::ResponseRange(range)) => self.range(range, false, &mut out)?,
                Some(Response::ResponsePut(put)) => self.stored(put, &mut out)?,
                Some(Response::ResponseDeleteRange(delete)) => self.deleted(delete, &mut out)?,
                other => out.extend_from_slice(format!("unexpected response {other:?}\n").as_bytes()),
            }
        }
        write(out)
    }

    fn watch(&self, answer: &pb::WatchResponse) -> Done {
        let mut out = Vec::new();
        for event in &answer.events {
            out.extend_from_slice(event.r#type().as_str_name().as_bytes());
            out.push(b'\n');
            if let Some(previous) = &event.prev_kv {
                self.pair(previous, false, &mut out)?;
            }
            self.pair(&event.kv.clone().unwrap_or_default(), false, &mut out)?;
        }
        write(out)
    }

    fn grant(&self, answer: &pb::LeaseGrantResponse) -> Done {
        line(format!("lease {:016x} granted with TTL({}s)", answer.id, answer.ttl))
    }

    fn revoke(&self, _: &pb::LeaseRevokeResponse, id: i64) -> Done {
        line(format!("lease {id:016x} revoked"))
    }

    fn keep_alive(&self, answer: &pb::LeaseKeepAliveResponse) -> Done {
        line(format!("lease {:016x} keepalived with TTL({})", answer.id, answer.ttl))
    }

    fn time_to_live(&self, answer: &pb::LeaseTimeToLiveResponse, keys: bool) -> Done {
        if answer.granted_ttl == 0 && answer.ttl == -1 {
            return line(format!("lease {:016x} already expired", answer.id));
        }
        let mut out =
            format!("lease {:016x} granted with TTL({}s), remaining({}s)", answer.id, answer.granted_ttl, answer.ttl).into_bytes();
        if keys {
            out.extend_from_slice(b", attached keys([");
            out.extend_from_slice(&answer.keys.join(&b' '));
            out.extend_from_slice(b"])");
        }
        line(out)
    }

    fn leases(&self, answer: &pb::LeaseLeasesResponse) -> Done {
        line(format!("found {} leases", answer.leases.len()))?;
        answer.leases.iter().try_for_each(|lease| line(format!("{:016x}", lease.id)))
    }

    fn alarm(&self, answer: &pb::AlarmResponse) -> Done {
        for alarm in &answer.alarms {
            let mut parts = Vec::new();
            if alarm.member_id != 0 {
                parts.push(format!("memberID:{}", alarm.member_id));
            }
            match AlarmType::try_from(alarm.alarm) {
                Ok(AlarmType::None) => {}
                Ok(kind) => parts.push(format!("alarm:{}", kind.as_str_name())),
                Err(_) => parts.push(format!("alarm:{}", alarm.alarm)),
            }
            line(parts.join(" "))?;
        }
        Ok(())
    }

    fn member_add(&self, answer: &pb::MemberAddResponse) -> Done {
        let member = answer.member.clone().unwrap_or_default();
        let role = if member.is_learner { " as learner " } else { " " };
        line(format!("Member {:16x} added{role}to cluster {:16x}", member.id, cluster(answer.header.as_ref())))
    }

    fn member_remove(&self, answer: &pb::MemberRemoveResponse, id: u64) -> Done {
        line(format!("Member {id:16x} removed from cluster {:16x}", cluster(answer.header.as_ref())))
    }

    fn member_update(&self, answer: &pb::MemberUpdateResponse, id: u64) -> Done {
        line(format!("Member {id:16x} updated in cluster {:16x}", cluster(answer.header.as_ref())))
    }

    fn member_promote(&self, answer: &pb::MemberPromoteResponse, id: u64) -> Done {
        line(format!("Member {id:16x} promoted in cluster {:16x}", cluster(answer.header.as_ref())))
    }

    fn member_list(&self, answer: &pb::MemberListResponse) -> Done {
        rows(table::member_rows(answer))
    }

    fn endpoint_health(&self, answers: &[Health]) -> Done {
        for health in answers {
            if health.error.is_empty() {
                line(format!("{} is healthy: successfully committed proposal: took = {}", health.endpoint, health.took))?;
            } else {
                eprintln!("{} is unhealthy: failed to commit proposal: {}", health.endpoint, health.error);
            }
        }
        Ok(())
    }

    fn endpoint_status(&self, answers: &[From<pb::StatusResponse>]) -> Done {
        rows(table::status_rows(answers))
    }

    fn endpoint_hash_kv(&self, answers: &[From<pb::HashKvResponse>]) -> Done {
        rows(table::hash_rows(answers))
    }

    fn move_leader(&self, _: &pb::MoveLeaderResponse, from: u64, to: u64) -> Done {
        line(format!("Leadership transferred from {from:x} to {to:x}"))
    }

    fn downgrade(&self, answer: &pb::DowngradeResponse, step: &str) -> Done {
        line(format!("Downgrade {step} success, cluster version {}", answer.version))
    }

    fn role_add(&self, _: &pb::AuthRoleAddResponse, role: &str) -> Done {
        line(format!("Role {role} created"))
    }

    fn role_get(&self, answer: &pb::AuthRoleGetResponse, role: &str) -> Done {
        let mut out = format!("Role {role}\n").into_bytes();
        let everything =
            [authpb::Permission { perm_type: Type::Readwrite as i32, range_end: FROM_KEY_END.into(), ..Default::default() }];
        let permissions = if role == "root" && answer.perm.is_empty() { &everything[..] } else { &answer.perm[..] };
        for (heading, kind) in [("KV Read:\n", Type::Read), ("KV Write:\n", Type::Write)] {
            out.extend_from_slice(heading.as_bytes());
            let fitting = permissions.iter().filter(|permission| [kind, Type::Readwrite].contains(&permission.perm_type()));
            fitting.for_each(|fitting| permission(fitting, &mut out));
        }
        write(out)
    }

    fn role_delete(&self, _: &pb::AuthRoleDeleteResponse, role: &str) -> Done {
        line(format!("Role {role} deleted"))
    }

    fn role_list(&self, answer: &pb::AuthRoleListResponse) -> Done {
        answer.roles.iter().try_for_each(line)
    }

    fn role_grant_permission(&self, _: &pb::AuthRoleGrantPermissionResponse, role: &str) -> Done {
        line(format!("Role {role} updated"))
    }

    fn role_revoke_permission(&self, _: &pb::AuthRoleRevokePermissionResponse, role: &str, key: &[u8], end: &[u8]) -> Done {
        let role = role.as_bytes();
        let what = match end {
            b"" => [b"key ", key].concat(),
            FROM_KEY_END => [b"range [", key, b", <open ended>"].concat(),
            end => [b"range [", key, b", ", end, b")"].concat(),
        };
        line([b"Permission of ", &what[..], b" is revoked from role ", role].concat())
    }

    fn user_add(&self, _: &pb::AuthUserAddResponse, user: &str) -> Done {
        line(format!("User {user} created"))
    }

    fn user_get(&self, answer: &pb::AuthUserGetResponse, user: &str) -> Done {
        let roles: String = answer.roles.iter().map(|role| format!(" {role}")).collect();
        line(format!("User: {user}\nRoles:{roles}"))
    }

    fn user_list(&self, answer: &pb::AuthUserListResponse) -> Done {
        answer.users.iter().try_for_each(line)
    }

    fn user_delete(&self, _: &pb::AuthUserDeleteResponse, user: &str) -> Done {
        line(format!("User {user} deleted"))
    }

    fn user_change_password(&self, _: &pb::AuthUserChangePasswordResponse) -> Done {
        line("Password updated")
    }

    fn user_grant_role(&self, _: &pb::AuthUserGrantRoleResponse, user: &str, role: &str) -> Done {
        line(format!("Role {role} is granted to user {user}"))
    }

    fn user_revoke_role(&self, _: &pb::AuthUserRevokeRoleResponse, user: &str, role: &str) -> Done {
        line(format!("Role {role} is revoked from user {user}"))
    }

    fn auth_status(&self, answer: &pb::AuthStatusResponse) -> Done {
        line(format!("Authentication Status: {}\nAuthRevision: {}", answer.enabled, answer.auth_revision))
    }
}
