//! `etcdserverpb.Auth`, as it stands while authentication is off.
//!
//! Authentication cannot be turned on yet: there are no users, so `AuthEnable` answers what etcd answers without a root user, signing in answers
//! that authentication is not enabled, and turning off changes nothing. Managing users and roles is not implemented and says so.

use std::sync::Arc;

use quorate_proto::etcdserverpb as pb;
use tonic::{Request, Response, Status};

use super::{Door, Method, door::Learner, status::Refusal};

/// The auth revision of a store that never had a user, as etcd reports it.
pub const FIRST_AUTH_REVISION: u64 = 1;

/// The service.
pub struct Auth(pub Arc<Door>);

fn refuses<M>(_: &M) -> Learner {
    Learner::Refuses
}

macro_rules! unimplemented_methods {
    ($($method:ident, $name:ident, $request:ident, $response:ident;)*) => {
        #[tonic::async_trait]
        impl pb::auth_server::Auth for Auth {
            async fn auth_enable(&self, request: Request<pb::AuthEnableRequest>) -> Result<Response<pb::AuthEnableResponse>, Status> {
                self.0
                    .unary(Method::AuthEnable, request, refuses, |_| async {
                        self.0.barrier().await?;
                        Err(Refusal::RootUserNotExist.into())
                    })
                    .await
            }

            async fn auth_disable(&self, request: Request<pb::AuthDisableRequest>) -> Result<Response<pb::AuthDisableResponse>, Status> {
                self.0
                    .unary(Method::AuthDisable, request, refuses, |_| async {
                        self.0.barrier().await?;
                        Ok(pb::AuthDisableResponse { header: Some(self.0.header_now()) })
                    })
                    .await
            }

            async fn auth_status(&self, request: Request<pb::AuthStatusRequest>) -> Result<Response<pb::AuthStatusResponse>, Status> {
                self.0
                    .unary(Method::AuthStatus, request, refuses, |_| async {
                        self.0.barrier().await?;
                        Ok(pb::AuthStatusResponse {
                            header: Some(self.0.header_now()),
                            enabled: false,
                            auth_revision: FIRST_AUTH_REVISION,
                        })
                    })
                    .await
            }

            async fn authenticate(&self, request: Request<pb::AuthenticateRequest>) -> Result<Response<pb::AuthenticateResponse>, Status> {
                self.0
                    .unary(Method::Authenticate, request, refuses, |_| async {
                        self.0.barrier().await?;
                        Err(Refusal::AuthNotEnabled.into())
                    })
                    .await
            }

            $(async fn $method(&self, request: Request<pb::$request>) -> Result<Response<pb::$response>, Status> {
                self.0
                    .unary(Method::$name, request, refuses, |_| async {
                        Err(Status::unimplemented("quorate: users and roles are not supported yet"))
                    })
                    .await
            })*
        }
    };
}

unimplemented_methods! {
    user_add, UserAdd, AuthUserAddRequest, AuthUserAddResponse;
    user_get, UserGet, AuthUserGetRequest, AuthUserGetResponse;
    user_list, UserList, AuthUserListRequest, AuthUserListResponse;
    user_delete, UserDelete, AuthUserDeleteRequest, AuthUserDeleteResponse;
    user_change_password, UserChangePassword, AuthUserChangePasswordRequest, AuthUserChangePasswordResponse;
    user_grant_role, UserGrantRole, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse;
    user_revoke_role, UserRevokeRole, AuthUserRevokeRoleRequest, AuthUserRevokeRoleResponse;
    role_add, RoleAdd, AuthRoleAddRequest, AuthRoleAddResponse;
    role_get, RoleGet, AuthRoleGetRequest, AuthRoleGetResponse;
    role_list, RoleList, AuthRoleListRequest, AuthRoleListResponse;
    role_delete, RoleDelete, AuthRoleDeleteRequest, AuthRoleDeleteResponse;
    role_grant_permission, RoleGrantPermission, AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse;
    role_revoke_permission, RoleRevokePermission, AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse;
}
