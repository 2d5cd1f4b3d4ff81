//! `move-leader`: gives leadership to another member. Only the leader can, so it is looked for among the endpoints.

use quorate_client::Config;
use quorate_client::proto::etcdserverpb::{MoveLeaderRequest, StatusRequest};

use crate::context::{Context, client};
use crate::failure::{self, Done};
use crate::notation;

/// Runs the command.
pub async fn run(mut cx: Context) -> Done {
    if cx.args().len() != 1 {
        return Err(failure::bad_args("move-leader command needs 1 argument"));
    }
    let target_id = notation::parse_uint(&cx.text(0), 16).map_err(failure::bad_args)?;
    let (config, printer) = cx.open()?;
    for endpoint in &config.endpoints {
        let client = client(Config { endpoints: vec![endpoint.clone()], ..config.clone() }).await?;
        let status = client.status(StatusRequest {}).await?;
        if status.header.is_some_and(|header| header.member_id == status.leader) {
            let answer = client.move_leader(MoveLeaderRequest { target_id }).await?;
            return printer.move_leader(&answer, status.leader, target_id);
        }
    }
    Err(failure::bad_args(format!("no leader endpoint given at [{}]", config.endpoints.join(" "))))
}
