//! `endpoint`: health, status, hashkv; each endpoint is asked by itself.

use std::time::Instant;

use quorate_client::Config;
use quorate_client::proto::etcdserverpb::{AlarmRequest, AlarmType, HashKvRequest, MemberListRequest, RangeRequest, StatusRequest};

use crate::context::{Context, client};
use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, flag};
use crate::notation;
use crate::print::Health;

/// Flags of all three.
pub const FLAGS: &[Flag] = &[flag("cluster", Kind::Bool, "ask every member of the cluster instead of --endpoints")];
/// Flags of `hashkv`.
pub const HASH_FLAGS: &[Flag] = &[flag("rev", Kind::Int, "newest revision to hash (0: the newest there is)")];

/// `endpoint health`: each endpoint must answer a read and have no alarm. All are asked at the same time.
pub async fn health(mut cx: Context) -> Done {
    let (config, printer) = cx.open()?;
    let mut checks = tokio::task::JoinSet::new();
    for endpoint in endpoints(&cx, &config).await? {
        checks.spawn(check(Config { endpoints: vec![endpoint.clone()], ..config.clone() }, endpoint));
    }
    let answers = checks.join_all().await;
    printer.endpoint_health(&answers)?;
    match answers.iter().all(|health| health.error.is_empty()) {
        true => Ok(()),
        false => Err(failure::error("unhealthy cluster")),
    }
}

async fn check(config: Config, endpoint: String) -> Health {
    let client = match client(config).await {
        Ok(client) => client,
        Err(failure) => {
            return Health { endpoint, healthy: false, took: String::new(), error: failure.message.unwrap_or_default() };
        }
    };
    let start = Instant::now();
    let read = client.range(RangeRequest { key: "health".into(), ..RangeRequest::default() }).await;
    let took = notation::duration(start.elapsed());
    let error = match read {
        // Being refused by name is an answer from a working cluster too.
        Err(error) if !error.is_etcd("permission denied") => error.to_string(),
        _ => match client.alarm(AlarmRequest::default()).await {
            Ok(answer) if answer.alarms.is_empty() => String::new(),
            Ok(answer) => answer.alarms.iter().fold("Active Alarm(s): ".to_string(), |text, alarm| {
                let kind = match AlarmType::try_from(alarm.alarm) {
                    Ok(kind @ (AlarmType::Nospace | AlarmType::Corrupt)) => kind.as_str_name(),
                    _ => "UNKNOWN",
                };
                format!("{text}{kind} ")
            }),
            Err(_) => "Unable to fetch the alarm list".to_string(),
        },
    };
    Health { endpoint, healthy: error.is_empty(), took, error }
}

/// `endpoint status`.
pub async fn status(mut cx: Context) -> Done {
    let (config, printer) = cx.open()?;
    let mut answers = Vec::new();
    let mut failed = false;
    for endpoint in endpoints(&cx, &config).await? {
        let client = client(Config { endpoints: vec![endpoint.clone()], ..config.clone() }).await?;
        match client.status(StatusRequest {}).await {
            Ok(answer) => answers.push((endpoint, answer)),
            Err(error) => {
                eprintln!("Failed to get the status of endpoint {endpoint} ({error})");
                failed = true;
            }
        }
    }
    printer.endpoint_status(&answers)?;
    if failed { Err(failure::silent(1)) } else { Ok(()) }
}

/// `endpoint hashkv`.
pub async fn hash_kv(mut cx: Context) -> Done {
    let (config, printer) = cx.open()?;
    let revision = cx.flags.int("rev");
    let mut answers = Vec::new();
    let mut failed = None;
    for endpoint in endpoints(&cx, &config).await? {
        let client = client(Config { endpoints: vec![endpoint.clone()], ..config.clone() }).await?;
        match client.hash_kv(HashKvRequest { revision }).await {
            Ok(answer) => answers.push((endpoint, answer)),
            Err(error) => {
                eprintln!("Failed to get the hash of endpoint {endpoint} ({error})");
                failed = Some(error);
            }
        }
    }
    printer.endpoint_hash_kv(&answers)?;
    failed.map_or(Ok(()), |error| Err(failure::error(error)))
}

/// The endpoints to ask: as given, or with `--cluster` those that the members advertise.
pub async fn endpoints(cx: &Context, config: &Config) -> Done<Vec<String>> {
    if !cx.flags.bool("cluster") {
        return Ok(config.endpoints.clone());
    }
    let members = client(config.clone())
        .await?
        .member_list(MemberListRequest { linearizable: true })
        .await
        .map_err(|error| failure::error(format!("failed to fetch endpoints from etcd cluster member list: {error}")))?;
    Ok(members.members.into_iter().flat_map(|member| member.client_urls).collect())
}
