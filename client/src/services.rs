//! One method per unary RPC, and the server streams that need no steering.
//!
//! In and out are the protocol's own messages. Each line of the tables below names the RPC, its messages, and whether it may be
//! sent again ([`Retry`]).

use quorate_proto::backup::{self, backup_client::BackupClient};
use quorate_proto::etcdserverpb::{
    self as pb, auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient,
};
use quorate_proto::health::{self, health_client::HealthClient};
use quorate_proto::v3electionpb::{self as election, election_client::ElectionClient};
use quorate_proto::v3lockpb::{self as lock, lock_client::LockClient};
use tonic::{Request, Streaming};

use crate::client::{Client, Retry};
use crate::error::Result;

macro_rules! unary {
    ($stub:ident { $( $(#[$doc:meta])* $name:ident => $method:ident($request:ty) -> $answer:ty, $retry:ident; )* }) => {
        impl Client {
            $(
                $(#[$doc])*
                pub async fn $name(&self, request: $request) -> Result<$answer> {
                    self.unary(request, Retry::$retry, |channel, limits, request| async move {
                        $stub::new(channel)
                            .max_encoding_message_size(limits.send)
                            .max_decoding_message_size(limits.receive)
                            .$method(request)
                            .await
                    })
                    .await
                }
            )*
        }
    };
}

unary! { KvClient {
    /// Reads a key or a range of keys.
    range => range(pb::RangeRequest) -> pb::RangeResponse, Reads;
    /// Writes one key.
    put => put(pb::PutRequest) -> pb::PutResponse, Writes;
    /// Deletes a key or a range of keys.
    delete_range => delete_range(pb::DeleteRangeRequest) -> pb::DeleteRangeResponse, Writes;
    /// Compares, then does one of two lists of operations, all or nothing.
    txn => txn(pb::TxnRequest) -> pb::TxnResponse, Writes;
    /// Forgets what was superseded before a revision.
    compact => compact(pb::CompactionRequest) -> pb::CompactionResponse, Writes;
} }

unary! { LeaseClient {
    /// Makes a lease; id 0 lets the server choose one.
    lease_grant => lease_grant(pb::LeaseGrantRequest) -> pb::LeaseGrantResponse, Writes;
    /// Ends a lease and deletes its keys.
    lease_revoke => lease_revoke(pb::LeaseRevokeRequest) -> pb::LeaseRevokeResponse, Reads;
    /// How long a lease has left; TTL -1 when there is no such lease.
    lease_time_to_live => lease_time_to_live(pb::LeaseTimeToLiveRequest) -> pb::LeaseTimeToLiveResponse, Reads;
    /// All leases.
    lease_leases => lease_leases(pb::LeaseLeasesRequest) -> pb::LeaseLeasesResponse, Reads;
} }

unary! { ClusterClient {
    /// Adds a member, voting or learning.
    member_add => member_add(pb::MemberAddRequest) -> pb::MemberAddResponse, Writes;
    /// Removes a member for good.
    member_remove => member_remove(pb::MemberRemoveRequest) -> pb::MemberRemoveResponse, Writes;
    /// Changes a member's peer addresses.
    member_update => member_update(pb::MemberUpdateRequest) -> pb::MemberUpdateResponse, Writes;
    /// The members; linearizable when asked.
    member_list => member_list(pb::MemberListRequest) -> pb::MemberListResponse, Reads;
    /// Makes a learner vote.
    member_promote => member_promote(pb::MemberPromoteRequest) -> pb::MemberPromoteResponse, Writes;
} }

unary! { MaintenanceClient {
    /// Lists, raises or clears alarms.
    alarm => alarm(pb::AlarmRequest) -> pb::AlarmResponse, Reads;
    /// The state of the one member that answers.
    status => status(pb::StatusRequest) -> pb::StatusResponse, Reads;
    /// Asks the member that answers to give free space back.
    defragment => defragment(pb::DefragmentRequest) -> pb::DefragmentResponse, Writes;
    /// Hash of everything a member stores.
    hash => hash(pb::HashRequest) -> pb::HashResponse, Reads;
    /// Hash of the key space up to a revision, equal on all members.
    hash_kv => hash_kv(pb::HashKvRequest) -> pb::HashKvResponse, Reads;
    /// Gives leadership to another voter; only the leader can.
    move_leader => move_leader(pb::MoveLeaderRequest) -> pb::MoveLeaderResponse, Writes;
    /// Checks, starts or cancels a downgrade.
    downgrade => downgrade(pb::DowngradeRequest) -> pb::DowngradeResponse, Writes;
} }

unary! { AuthClient {
    /// Switches authentication on.
    auth_enable => auth_enable(pb::AuthEnableRequest) -> pb::AuthEnableResponse, Writes;
    /// Switches authentication off.
    auth_disable => auth_disable(pb::AuthDisableRequest) -> pb::AuthDisableResponse, Writes;
    /// Whether authentication is on, and its revision.
    auth_status => auth_status(pb::AuthStatusRequest) -> pb::AuthStatusResponse, Reads;
    /// Exchanges a password for a token. The client does this by itself when it has a password.
    authenticate => authenticate(pb::AuthenticateRequest) -> pb::AuthenticateResponse, Writes;
    /// Adds a user.
    user_add => user_add(pb::AuthUserAddRequest) -> pb::AuthUserAddResponse, Writes;
    /// A user's roles.
    user_get => user_get(pb::AuthUserGetRequest) -> pb::AuthUserGetResponse, Reads;
    /// All users.
    user_list => user_list(pb::AuthUserListRequest) -> pb::AuthUserListResponse, Reads;
    /// Deletes a user.
    user_delete => user_delete(pb::AuthUserDeleteRequest) -> pb::AuthUserDeleteResponse, Writes;
    /// Changes a user's password.
    user_change_password => user_change_password(pb::AuthUserChangePasswordRequest) -> pb::AuthUserChangePasswordResponse, Writes;
    /// Gives a role to a user.
    user_grant_role => user_grant_role(pb::AuthUserGrantRoleRequest) -> pb::AuthUserGrantRoleResponse, Writes;
    /// Takes a role from a user.
    user_revoke_role => user_revoke_role(pb::AuthUserRevokeRoleRequest) -> pb::AuthUserRevokeRoleResponse, Writes;
    /// Adds a role.
    role_add => role_add(pb::AuthRoleAddRequest) -> pb::AuthRoleAddResponse, Writes;
    /// A role's permissions.
    role_get => role_get(pb::AuthRoleGetRequest) -> pb::AuthRoleGetResponse, Reads;
    /// All roles.
    role_list => role_list(pb::AuthRoleListRequest) -> pb::AuthRoleListResponse, Reads;
    /// Deletes a role.
    role_delete => role_delete(pb::AuthRoleDeleteRequest) -> pb::AuthRoleDeleteResponse, Writes;
    /// Gives a role a permission.
    role_grant_permission => role_grant_permission(pb::AuthRoleGrantPermissionRequest) -> pb::AuthRoleGrantPermissionResponse, Writes;
    /// Takes a permission from a role.
    role_revoke_permission => role_revoke_permission(pb::AuthRoleRevokePermissionRequest) -> pb::AuthRoleRevokePermissionResponse, Writes;
} }

unary! { LockClient {
    /// Waits for a lock that the server keeps. Mind the time limit: it includes the wait.
    server_lock => lock(lock::LockRequest) -> lock::LockResponse, Writes;
    /// Gives such a lock back.
    server_unlock => unlock(lock::UnlockRequest) -> lock::UnlockResponse, Reads;
} }

unary! { ElectionClient {
    /// Waits to be elected, by the server's own recipe. Mind the time limit: it includes the wait.
    server_campaign => campaign(election::CampaignRequest) -> election::CampaignResponse, Writes;
    /// Changes the leader's value.
    server_proclaim => proclaim(election::ProclaimRequest) -> election::ProclaimResponse, Writes;
    /// Who leads.
    server_leader => leader(election::LeaderRequest) -> election::LeaderResponse, Reads;
    /// Gives leadership up.
    server_resign => resign(election::ResignRequest) -> election::ResignResponse, Reads;
} }

unary! { BackupClient {
    /// Tells a member that it may forget what has been copied.
    backup_stored => stored(backup::StoredRequest) -> backup::StoredResponse, Reads;
} }

unary! { HealthClient {
    /// gRPC's health question about one service; the empty name asks about the server.
    health => check(health::HealthCheckRequest) -> health::HealthCheckResponse, Reads;
} }

macro_rules! server_stream {
    ($( $(#[$doc:meta])* $stub:ident: $name:ident => $method:ident($request:ty) -> $answer:ty; )*) => {
        impl Client {
            $(
                $(#[$doc])*
                pub async fn $name(&self, request: $request) -> Result<Streaming<$answer>> {
                    self.open(|channel, limits| {
                        let request = self.dress(Request::new(request.clone()));
                        async move {
                            $stub::new(channel)
                                .max_encoding_message_size(limits.send)
                                .max_decoding_message_size(limits.receive)
                                .$method(request)
                                .await
                        }
                    })
                    .await
                }
            )*
        }
    };
}

server_stream! {
    /// A range in chunks; header, count and more come with the last one.
    KvClient: range_stream => range_stream(pb::RangeRequest) -> pb::RangeStreamResponse;
    /// A member's state as a file, in pieces; the last 32 bytes are the SHA-256 of those before.
    MaintenanceClient: snapshot => snapshot(pb::SnapshotRequest) -> pb::SnapshotResponse;
    /// Leaders of an election, by the server's own recipe.
    ElectionClient: server_observe => observe(election::LeaderRequest) -> election::LeaderResponse;
    /// The history from a revision on, as it grows.
    BackupClient: backup_deltas => deltas(backup::DeltasRequest) -> backup::Delta;
    /// Changes of gRPC's health answer.
    HealthClient: health_watch => watch(health::HealthCheckRequest) -> health::HealthCheckResponse;
}
