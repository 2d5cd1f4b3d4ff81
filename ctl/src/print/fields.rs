//! `-w fields`: every field on a line of its own, `"Name" : value`.

use quorate_proto::RawKv;
use quorate_proto::etcdserverpb::{self as pb, AlarmType, response_op::Response};

use super::{From, Health, Printer, unreadable, write};
use crate::failure::Done;
use crate::notation::quote;

/// The printer.
pub struct Fields {
    pub hex: bool,
}

/// Lines being collected.
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        self.0.push_str(&format!("\"{name}\" : {value}\n"));
    }

    fn gap(&mut self) {
        self.0.push('\n');
    }
}

impl Fields {
    /// An id of a member or cluster.
    fn id(&self, id: u64) -> String {
        if self.hex { format!("{id:x}") } else { id.to_string() }
    }

    fn lease(&self, id: i64) -> String {
        if self.hex { format!("{id:016x}") } else { id.to_string() }
    }

    /// Lines that begin with the header's.
    fn lines(&self, header: Option<&pb::ResponseHeader>) -> Lines {
        let mut lines = Lines(String::new());
        self.header(header, &mut lines);
        lines
    }

    fn header(&self, header: Option<&pb::ResponseHeader>, lines: &mut Lines) {
        let header = header.copied().unwrap_or_default();
        lines.add("ClusterID", self.id(header.cluster_id));
        lines.add("MemberID", self.id(header.member_id));
        if header.revision > 0 {
            lines.add("Revision", header.revision);
        }
        lines.add("RaftTerm", header.raft_term);
    }

    fn only_header(&self, header: Option<&pb::ResponseHeader>) -> Done {
        write(self.lines(header).0)
    }

    fn pair(&self, prefix: &str, pair: &RawKv, lines: &mut Lines) -> Done {
        let pair = pair.decode().map_err(unreadable)?;
        lines.add(&format!("{prefix}Key"), quote(&pair.key));
        lines.add(&format!("{prefix}CreateRevision"), pair.create_revision);
        lines.add(&format!("{prefix}ModRevision"), pair.mod_revision);
        lines.add(&format!("{prefix}Version"), pair.version);
        lines.add(&format!("{prefix}Value"), quote(&pair.value));
        lines.add(&format!("{prefix}Lease"), self.lease(pair.lease));
        Ok(())
    }

    fn range(&self, answer: &pb::RangeResponse, lines: &mut Lines) -> Done {
        self.header(answer.header.as_ref(), lines);
        answer.kvs.iter().try_for_each(|pair| self.pair("", pair, lines))?;
        lines.add("More", answer.more);
        lines.add("Count", answer.count);
        Ok(())
    }

    fn stored(&self, answer: &pb::PutResponse, lines: &mut Lines) -> Done {
        self.header(answer.header.as_ref(), lines);
        answer.prev_kv.iter().try_for_each(|pair| self.pair("Prev", pair, lines))
    }

    fn deleted(&self, answer: &pb::DeleteRangeResponse, lines: &mut Lines) -> Done {
        self.header(answer.header.as_ref(), lines);
        lines.add("Deleted", answer.deleted);
        answer.prev_kvs.iter().try_for_each(|pair| self.pair("Prev", pair, lines))
    }
}

impl Printer for Fields {
    fn name(&self) -> &'static str {
        "fields"
    }

    fn get(&self, answer: &pb::RangeResponse, _values_only: bool) -> Done {
        let mut lines = Lines(String::new());
        self.range(answer, &mut lines)?;
        write(lines.0)
    }

    fn put(&self, answer: &pb::PutResponse) -> Done {
        let mut lines = Lines(String::new());
        self.stored(answer, &mut lines)?;
        write(lines.0)
    }

    fn del(&self, answer: &pb::DeleteRangeResponse) -> Done {
        let mut lines = Lines(String::new());
        self.deleted(answer, &mut lines)?;
        write(lines.0)
    }

    fn txn(&self, answer: &pb::TxnResponse) -> Done {
        let mut lines = self.lines(answer.header.as_ref());
        lines.add("Succeeded", answer.succeeded);
        for response in &answer.responses {
            match &response.response {
                Some(Response::ResponseRange(range)) => self.range(range, &mut lines)?,
                Some(Response::ResponsePut(put)) => self.stored(put, &mut lines)?,
                Some(Response::ResponseDeleteRange(delete)) => self.deleted(delete, &mut lines)?,
                other => lines.add("Unknown", quote(format!("{other:?}").as_bytes())),
            }
        }
        write(lines.0)
    }

    fn watch(&self, answer: &pb::WatchResponse) -> Done {
        let mut lines = self.lines(answer.header.as_ref());
        for event in &answer.events {
            lines.add("Type", event.r#type().as_str_name());
            if let Some(previous) = &event.prev_kv {
                self.pair("Prev", previous, &mut lines)?;
            }
            self.pair("", &event.kv.clone().unwrap_or_default(), &mut lines)?;
        }
        write(lines.0)
    }

    fn grant(&self, answer: &pb::LeaseGrantResponse) -> Done {
        let mut lines = self.lines(answer.header.as_ref());
        lines.add("ID", self.lease(answer.id));
        lines.add("TTL", answer.ttl);
        write(lines.0)
    }

    fn revoke(&self, answer: &pb::LeaseRevokeResponse, _id: i64) -> Done {
        self.only_header(answer.header.as_ref())
    }

    fn keep_alive(&self, answer: &pb::LeaseKeepAliveResponse) -> Done {
        let mut lines = self.lines(answer.header.as_ref());
        lines.add("ID", self.lease(answer.id));
        lines.add("TTL", answer.ttl);
        write(lines.0)
    }

    fn time_to_live(&self, answer: &pb::LeaseTimeToLiveResponse, _keys: bool) -> Done {
        let mut lines = self.lines(answer.header.as_ref());
        lines.add("ID", self.lease(answer.id));
        lines.add("TTL", answer.ttl);
        lines.add("GrantedTTL", answer.granted_ttl);
        answer.keys.iter().for_each(|key| lines.add("Key", quote(key)));
        write(lines.0)
    }

    fn leases(&self, answer: &pb::LeaseLeasesResponse) -> Done {
        let mut lines = self.lines(answer.header.as_ref());
        answer.leases.iter().for_each(|lease| lines.add("ID", self.lease(lease.id)));
        write(lines.0)
    }

    fn member_list(&self, answer: &pb::MemberListResponse) -> Done {
        let mut lines = self.lines(answer.header.as_ref());
        for member in &answer.members {
            lines.add("ID", self.id(member.id));
            lines.add("Name", quote(member.name.as_bytes()));
            member.peer_urls.iter().for_each(|url| lines.add("PeerURL", quote(url.as_bytes())));
            member.client_urls.iter().for_each(|url| lines.add("ClientURL", quote(url.as_bytes())));
            lines.add("IsLearner", member.is_learner);
            lines.gap();
        }
        write(lines.0)
    }

    fn endpoint_health(&self, answers: &[Health]) -> Done {
        let mut lines = Lines(String::new());
        for health in answers {
            lines.add("Endpoint", quote(health.endpoint.as_bytes()));
            lines.add("Health", health.healthy);
            lines.add("Took", &health.took);
            lines.add("Error", &health.error);
            lines.gap();
        }
        write(lines.0)
    }

    fn endpoint_status(&self, answers: &[From<pb::StatusResponse>]) -> Done {
        let mut lines = Lines(String::new());
        for (endpoint, status) in answers {
            self.header(status.header.as_ref(), &mut lines);
            lines.add("Version", quote(status.version.as_bytes()));
            lines.add("StorageVersion", quote(status.storage_version.as_bytes()));
            lines.add("DBSize", status.db_size);
            lines.add("DBSizeInUse", status.db_size_in_use);
            lines.add("DBSizeQuota", status.db_size_quota);
            lines.add("Leader", status.leader);
            lines.add("IsLearner", status.is_learner);
            lines.add("RaftIndex", status.raft_index);
            lines.add("RaftAppliedIndex", status.raft_applied_index);
            lines.add("Errors", format!("[{}]", status.errors.join(" ")));
            lines.add("Endpoint", quote(endpoint.as_bytes()));
            let downgrade = status.downgrade_info.clone().unwrap_or_default();
            lines.add("DowngradeTargetVersion", quote(downgrade.target_version.as_bytes()));
            lines.add("DowngradeEnabled", downgrade.enabled);
            lines.gap();
        }
        write(lines.0)
    }

    fn endpoint_hash_kv(&self, answers: &[From<pb::HashKvResponse>]) -> Done {
        let mut lines = Lines(String::new());
        for (endpoint, answer) in answers {
            self.header(answer.header.as_ref(), &mut lines);
            lines.add("Endpoint", quote(endpoint.as_bytes()));
            lines.add("Hash", answer.hash);
            lines.add("HashRevision", answer.hash_revision);
            lines.gap();
        }
        write(lines.0)
    }

    fn alarm(&self, answer: &pb::AlarmResponse) -> Done {
        let mut lines = self.lines(answer.header.as_ref());
        for alarm in &answer.alarms {
            lines.add("MemberID", self.id(alarm.member_id));
            let kind = AlarmType::try_from(alarm.alarm).map_or(alarm.alarm.to_string(), |kind| kind.as_str_name().to_string());
            lines.add("AlarmType", kind);
            lines.gap();
        }
        write(lines.0)
    }

    fn role_add(&self, answer: &pb::AuthRoleAddResponse, _role: &str) -> Done {
        self.only_header(answer.header.as_ref())
    }

    fn role_get(&self, answer: &pb::AuthRoleGetResponse, _role: &str) -> Done {
        let mut lines = self.lines(answer.header.as_ref());
        for permission in &answer.perm {
            // Two spaces: etcdctl prints them, so readers expect them.
            lines.add("PermType", format!(" {}", permission.perm_type().as_str_name()));
            lines.add("Key", quote(&permission.key));
            lines.add("RangeEnd", quote(&permission.range_end));
        }
        write(lines.0)
    }

    fn role_delete(&self, answer: &pb::AuthRoleDeleteResponse, _role: &str) -> Done {
        self.only_header(answer.header.as_ref())
    }

    fn role_list(&self, answer: &pb::AuthRoleListResponse) -> Done {
        let mut lines = self.lines(answer.header.as_ref());
        let roles: String = answer.roles.iter().map(|role| format!(" {}", quote(role.as_bytes()))).collect();
        lines.0.push_str(&format!("\"Roles\" :{roles}\n"));
        write(lines.0)
    }

    fn role_grant_permission(&self, answer: &pb::AuthRoleGrantPermissionResponse, _role: &str) -> Done {
        self.only_header(answer.header.as_ref())
    }

    fn role_revoke_permission(&self, answer: &pb::AuthRoleRevokePermissionResponse, _: &str, _: &[u8], _: &[u8]) -> Done {
        self.only_header(answer.header.as_ref())
    }

    fn user_add(&self, answer: &pb::AuthUserAddResponse, _user: &str) -> Done {
        self.only_header(answer.header.as_ref())
    }

    fn user_change_password(&self, answer: &pb::AuthUserChangePasswordResponse) -> Done {
        self.only_header(answer.header.as_ref())
    }

    fn user_grant_role(&self, answer: &pb::AuthUserGrantRoleResponse, _user: &str, _role: &str) -> Done {
        self.only_header(answer.header.as_ref())
    }

    fn user_revoke_role(&self, answer: &pb::AuthUserRevokeRoleResponse, _user: &str, _role: &str) -> Done {
        self.only_header(answer.header.as_ref())
    }

    fn user_delete(&self, answer: &pb::AuthUserDeleteResponse, _user: &str) -> Done {
        self.only_header(answer.header.as_ref())
    }
}
