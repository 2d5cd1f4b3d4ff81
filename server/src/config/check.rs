//! Raw settings into a [`Config`]: every rule that spans a value's range or several flags. In: [`Settings`]. Out: the
//! configuration and warnings, or the first rule broken. Pure; the order of warnings is the order of the checks.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::cluster::join;
use super::error::{ConfigError, Origin, Warning};
use super::model::{AllowList, AutoCompaction, ClusterState, Config, Keepalive};
use super::settings::Settings;
use super::table::{self, Effect};
use super::url::{ListenUrl, Url};
use super::value::show_duration;
use super::{auth, gates, log, tls};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const DEFAULT_QUOTA_BYTES: u64 = 2 * GIB;
/// The size above which etcd advises against a larger quota.
const ETCD_ADVISED_QUOTA_BYTES: u64 = 8 * GIB;
/// The size above which etcd advises against larger requests.
const ADVISED_REQUEST_BYTES: u64 = 10 * MIB;
/// A gRPC message and its overhead must stay within what clients can count with 32 signed bits.
const MAX_REQUEST_BYTES: u64 = (1 << 31) - 1 - 512 * KIB;
const MAX_ELECTION_MS: u64 = 50_000;
const MIN_PEER_TIMEOUT: Duration = Duration::from_secs(5);
const DOWNGRADE_CHECK: Duration = Duration::from_secs(5);
const MIN_WATCH_PROGRESS: Duration = Duration::from_millis(100);
/// Below this the fixed cost of threads and buffers leaves nothing for data.
const MIN_MEMORY_BYTES: u64 = 64 * MIB;

/// Makes the configuration.
pub(super) fn config(s: &Settings, find_host: fn() -> Option<IpAddr>, warnings: &mut Vec<Warning>) -> Result<Config, ConfigError> {
    effects(s, warnings)?;
    let (heartbeat_interval, election_timeout) = raft_timing(s)?;
    let listen_peer_urls = listen(s, "listen-peer-urls")?;
    let listen_client_urls = listen(s, "listen-client-urls")?;
    let listen_client_http_urls = listen(s, "listen-client-http-urls")?;
    let listen_metrics_urls = listen(s, "listen-metrics-urls")?;
    check_doors(&listen_client_urls, &listen_client_http_urls)?;
    let mut advertise_peer_urls = advertise(s, "initial-advertise-peer-urls")?;
    let mut advertise_client_urls = advertise(s, "advertise-client-urls")?;
    if s.origin("listen-client-urls").is_some_and(|origin| origin != Origin::File) && !s.is_set("advertise-client-urls") {
        return Err(ConfigError::refused("advertise-client-urls", "is required when --listen-client-urls is set explicitly"));
    }

    name_host("initial-advertise-peer-urls", &mut advertise_peer_urls, &listen_peer_urls, find_host, warnings)?;
    name_host("advertise-client-urls", &mut advertise_client_urls, &listen_client_urls, find_host, warnings)?;

    let doors = [&listen_peer_urls, &listen_client_urls, &listen_client_http_urls, &listen_metrics_urls];
    let tls_bounds = tls::bounds(s, doors.into_iter().flatten().any(|url| url.scheme().is_tls()), warnings)?;
    let client_urls: Vec<&ListenUrl> = listen_client_urls.iter().chain(&listen_client_http_urls).collect();
    let client_tls = tls::client(s, &client_urls, warnings)?;
    // Plain metrics beside TLS clients are usual, so only TLS ones are looked at.
    if listen_metrics_urls.iter().any(|url| url.scheme().is_tls()) && client_tls.server.is_none() && !client_tls.auto {
        let reason = "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url";
        return Err(ConfigError::refused("listen-metrics-urls", reason));
    }
    let peer_tls = tls::peer(s, &listen_peer_urls.iter().collect::<Vec<_>>(), warnings)?;

    let name = s.text("name").to_owned();
    if name == "default" {
        warnings.push(Warning::note(
            "name",
            "members that share the default name cannot be told apart; set a name of its own for each",
        ));
    }
    let initial_cluster = initial_cluster(s, &name, &advertise_peer_urls);
    let unsafe_no_fsync = s.bool("unsafe-no-fsync")?;
    if unsafe_no_fsync {
        warnings.push(Warning::warn("unsafe-no-fsync", "acknowledged writes are lost when the machine stops"));
    }
    let force_new_cluster = s.bool("force-new-cluster")?;
    if force_new_cluster {
        warnings.push(Warning::warn("force-new-cluster", "the other members are forgotten; take the flag off for the next start"));
    }

    Ok(Config {
        data_dir: s.path("data-dir").unwrap_or_else(|| PathBuf::from(format!("{name}.etcd"))),
        name,
        wal_dir: s.path("wal-dir"),
        snapshot_count: or_default(s.uint("snapshot-count")?, 10_000),
        snapshot_catchup_entries: or_default(s.uint("snapshot-catchup-entries")?, 5_000),
        heartbeat_interval,
        election_timeout,
        initial_election_tick_advance: s.bool("initial-election-tick-advance")?,
        pre_vote: s.bool("pre-vote")?,
        peer_read_timeout: floor(s, "raft-read-timeout", MIN_PEER_TIMEOUT, warnings)?,
        peer_write_timeout: floor(s, "raft-write-timeout", MIN_PEER_TIMEOUT, warnings)?,
        listen_peer_urls,
        listen_client_urls,
        listen_client_http_urls,
        listen_metrics_urls,
        advertise_peer_urls,
        advertise_client_urls,
        socket_reuse_port: s.bool("socket-reuse-port")?,
        socket_reuse_address: s.bool("socket-reuse-address")?,
        initial_cluster,
        initial_cluster_state: if s.text("initial-cluster-state") == "existing" {
            ClusterState::Existing
        } else {
            ClusterState::New
        },
        initial_cluster_token: s.text("initial-cluster-token").to_owned(),
        strict_reconfig_check: s.bool("strict-reconfig-check")?,
        max_learners: at_most(s.int("max-learners")?, "max-learners")?,
        force_new_cluster,
        quota_bytes: quota(s, warnings)?,
        max_txn_ops: txn_ops(s, warnings)?,
        max_request_bytes: request_bytes(s, warnings)?,
        max_concurrent_streams: u32::try_from(s.uint("max-concurrent-streams")?).ok().filter(|n| *n != 0 && *n != u32::MAX),
        keepalive_min_time: off_at_zero(s.duration("grpc-keepalive-min-time")?),
        keepalive: keepalive(s)?,
        tls: tls_bounds,
        client_tls,
        peer_tls,
        cors: allow_list(s, "cors"),
        host_whitelist: allow_list(s, "host-whitelist"),
        auth_token: auth::token(s)?,
        bcrypt_cost: bcrypt_cost(s, warnings)?,
        auto_compaction: auto_compaction(s.text("auto-compaction-mode"), s.text("auto-compaction-retention"), warnings)?,
        compaction_batch_limit: batch_limit(s)?,
        compaction_sleep_interval: off_at_zero(s.duration("compaction-sleep-interval")?).unwrap_or(Duration::from_millis(10)),
        watch_progress_notify_interval: watch_progress(s, warnings)?,
        corrupt_check_interval: off_at_zero(s.duration("corrupt-check-time")?),
        compact_hash_check_interval: off_at_zero(s.duration("compact-hash-check-time")?)
            .ok_or_else(|| ConfigError::refused("compact-hash-check-time", "must be >0 (set to 0s)"))?,
        downgrade_check_interval: if s.is_negative("downgrade-check-time") {
            Some(DOWNGRADE_CHECK)
        } else {
            off_at_zero(s.duration("downgrade-check-time")?)
        },
        warning_apply_duration: s.duration("warning-apply-duration")?,
        warning_unary_request_duration: match s.duration("warning-unary-request-duration")? {
            Duration::ZERO if !s.is_negative("warning-unary-request-duration") => Duration::from_millis(300),
            least => least,
        },
        grpc_gateway: s.bool("enable-grpc-gateway")?,
        extensive_metrics: metrics(s, warnings),
        log: log::settings(s)?,
        features: gates::settle(s.text("feature-gates"), warnings)?,
        unsafe_no_fsync,
        memory_limit_bytes: memory_limit(s)?,
        boot_ticket: s.path("boot-ticket"),
        snapshot_rate_bytes_per_second: Some(s.bytes("snapshot-rate")?).filter(|rate| *rate > 0),
    })
}

/// Says which flags change nothing, and refuses those whose meaning must not be dropped in silence.
fn effects(s: &Settings, warnings: &mut Vec<Warning>) -> Result<(), ConfigError> {
    if s.text("discovery-fallback") == "proxy" && s.origin("discovery-fallback") != Some(Origin::File) {
        let reason = "the v2 proxy is gone, so discovery cannot fall back to it; use exit";
        return Err(ConfigError::refused("discovery-fallback", reason));
    }
    for name in s.names() {
        match table::find(name).map(|flag| flag.effect) {
            // Whoever asks for something else than the default wants to know that it is not to be had.
            Some(Effect::None(why)) if s.differs(name) => warnings.push(Warning::warn(name, format!("has no effect: {why}"))),
            Some(Effect::None(why)) => warnings.push(Warning::note(name, format!("has no effect: {why}"))),
            Some(Effect::Honoured) if s.is_negative(name) => warnings.push(Warning::warn(name, negative(name))),
            Some(Effect::Refused(why)) if !s.text(name).is_empty() => return Err(ConfigError::refused(name, why)),
            _ => {}
        }
    }
    Ok(())
}

/// What a duration below zero is taken for: what etcd makes of it, unless that is a loop without rest.
fn negative(name: &str) -> &'static str {
    match name {
        "warning-unary-request-duration" | "warning-apply-duration" => "below zero, so everything is logged as slow",
        "downgrade-check-time" => "below zero; the default is used",
        "watch-progress-notify-interval" => "below zero; the least value is used",
        _ => "below zero, which counts as 0",
    }
}

fn raft_timing(s: &Settings) -> Result<(Duration, Duration), ConfigError> {
    let heartbeat = s.uint("heartbeat-interval")?;
    let election = s.uint("election-timeout")?;
    for (flag, ms) in [("heartbeat-interval", heartbeat), ("election-timeout", election)] {
        if ms == 0 {
            return Err(ConfigError::refused(flag, "must be >0 (set to 0ms)"));
        }
    }
    const FLAG: &str = "election-timeout";
    if election > MAX_ELECTION_MS {
        return Err(ConfigError::refused(
            FLAG,
            format!("{election}ms is too long, and should be set less than {MAX_ELECTION_MS}ms"),
        ));
    }
    if heartbeat.saturating_mul(5) > election {
        let reason = format!("{election}ms should be at least 5 times as long as --heartbeat-interval ({heartbeat}ms)");
        return Err(ConfigError::refused(FLAG, reason));
    }
    Ok((Duration::from_millis(heartbeat), Duration::from_millis(election)))
}

fn listen(s: &Settings, flag: &str) -> Result<Vec<ListenUrl>, ConfigError> {
    let urls = s.urls(flag)?;
    urls.into_iter().map(|url| ListenUrl::new(url).map_err(|reason| ConfigError::refused(flag, reason))).collect()
}

/// HTTP-only listeners cannot share an address with gRPC ones: the point of them is to be apart.
fn check_doors(client: &[ListenUrl], http_only: &[ListenUrl]) -> Result<(), ConfigError> {
    match http_only.iter().find(|url| client.iter().any(|other| other.url().address() == url.url().address())) {
        Some(url) => Err(ConfigError::refused(
            "listen-client-http-urls",
            format!("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}"),
        )),
        None => Ok(()),
    }
}

fn advertise(s: &Settings, flag: &str) -> Result<Vec<Url>, ConfigError> {
    let urls = s.urls(flag)?;
    for url in &urls {
        url.check_advertised().map_err(|reason| {
            ConfigError::refused(flag, format!("{:?} must name hosts that others can reach ({reason})", join(&urls)))
        })?;
    }
    Ok(urls)
}

/// Where the default is to be advertised, which is localhost, and the first listener has all addresses of IPv4, others are told one by which they can
/// reach this machine, if it has one.
fn name_host(
    flag: &str,
    advertised: &mut [Url],
    listeners: &[ListenUrl],
    find_host: fn() -> Option<IpAddr>,
    warnings: &mut Vec<Warning>,
) -> Result<(), ConfigError> {
    let default = table::find(flag).map_or("", |f| f.default);
    let ([url], Some(("0.0.0.0", port))) = (advertised, listeners.first().and_then(|l| l.url().host_port())) else { return Ok(()) };
    if url.to_string() != default {
        return Ok(());
    }
    let Some(host) = find_host() else { return Ok(()) };
    let host = SocketAddr::new(host, port);
    *url = Url::parse(&format!("{}://{host}", url.scheme().as_str())).map_err(|reason| ConfigError::refused(flag, reason))?;
    warnings.push(Warning::note(flag, format!("{url} is advertised in place of localhost, by the default route of this host")));
    Ok(())
}

/// The list as given, or this member alone under its peer URLs.
fn initial_cluster(s: &Settings, name: &str, advertised: &[Url]) -> String {
    match s.text("initial-cluster") {
        "" => advertised.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(","),
        given => given.to_owned(),
    }
}

fn quota(s: &Settings, warnings: &mut Vec<Warning>) -> Result<Option<u64>, ConfigError> {
    const FLAG: &str = "quota-backend-bytes";
    Ok(match u64::try_from(s.int(FLAG)?) {
        Err(_) => {
            warnings.push(Warning::note(FLAG, "no quota: the data may grow until the disk is full"));
            None
        }
        Ok(0) => Some(DEFAULT_QUOTA_BYTES),
        Ok(bytes) => {
            if bytes > ETCD_ADVISED_QUOTA_BYTES {
                warnings.push(Warning::note(FLAG, "above the 8 GiB that etcd advises, which is fine for this store"));
            }
            Some(bytes)
        }
    })
}

fn txn_ops(s: &Settings, warnings: &mut Vec<Warning>) -> Result<usize, ConfigError> {
    const FLAG: &str = "max-txn-ops";
    match s.uint(FLAG)? {
        0 => {
            warnings.push(Warning::warn(FLAG, "every transaction with an operation or a comparison is refused"));
            Ok(0)
        }
        ops => positive(ops, u64::from(u32::MAX), FLAG),
    }
}

fn request_bytes(s: &Settings, warnings: &mut Vec<Warning>) -> Result<usize, ConfigError> {
    const FLAG: &str = "max-request-bytes";
    let bytes = s.uint(FLAG)?;
    if bytes > ADVISED_REQUEST_BYTES {
        warnings.push(Warning::warn(FLAG, format!("{bytes} is above the 10 MiB advised; large requests delay all others")));
    }
    if bytes > MAX_REQUEST_BYTES {
        warnings.push(Warning::warn(FLAG, format!("lowered to {MAX_REQUEST_BYTES}, above which no gRPC client can send")));
    }
    positive(bytes.min(MAX_REQUEST_BYTES), MAX_REQUEST_BYTES, FLAG)
}

fn keepalive(s: &Settings) -> Result<Option<Keepalive>, ConfigError> {
    let interval = off_at_zero(s.duration("grpc-keepalive-interval")?);
    let timeout = off_at_zero(s.duration("grpc-keepalive-timeout")?);
    Ok(interval.zip(timeout).map(|(interval, timeout)| Keepalive { interval, timeout }))
}

fn allow_list(s: &Settings, flag: &str) -> AllowList {
    let words: BTreeSet<String> = s.list(flag).into_iter().collect();
    if words.is_empty() || words.contains("*") { AllowList::All } else { AllowList::Only(words) }
}

fn bcrypt_cost(s: &Settings, warnings: &mut Vec<Warning>) -> Result<u32, ConfigError> {
    const FLAG: &str = "bcrypt-cost";
    let cost = s.uint(FLAG)?;
    Ok(match u32::try_from(cost) {
        Ok(cost @ 4..=31) => cost,
        _ => {
            warnings.push(Warning::warn(FLAG, format!("{cost} is not within 4 to 31; 10 is used")));
            10
        }
    })
}

/// A plain number counts hours (periodic) or revisions; anything else is a duration, of which the revision mode takes the
/// nanoseconds for revisions, as etcd does.
fn auto_compaction(mode: &str, retention: &str, warnings: &mut Vec<Warning>) -> Result<AutoCompaction, ConfigError> {
    const FLAG: &str = "auto-compaction-retention";
    let periodic = match mode {
        "periodic" => true,
        "revision" => false,
        "" => return Err(ConfigError::refused("auto-compaction-mode", "undefined auto-compaction-mode")),
        other => return Err(ConfigError::refused("auto-compaction-mode", format!("unknown auto-compaction-mode {other:?}"))),
    };
    let retention = if retention.is_empty() { "0" } else { retention };
    let refuse = |reason: String| ConfigError::refused(FLAG, format!("{retention:?}: {reason}"));
    let count = retention.strip_prefix('+').unwrap_or(retention).parse::<u64>().ok();
    match (periodic, count) {
        (_, Some(0)) => Ok(AutoCompaction::Off),
        (true, Some(hours)) => match hours.checked_mul(3600) {
            Some(seconds) if seconds <= i64::MAX as u64 / 1_000_000_000 => {
                Ok(AutoCompaction::Periodic(Duration::from_secs(seconds)))
            }
            _ => Err(refuse("too many hours".to_owned())),
        },
        (true, None) => match super::value::parse_duration(retention).map_err(refuse)? {
            Duration::ZERO => Ok(AutoCompaction::Off),
            time => Ok(AutoCompaction::Periodic(time)),
        },
        (false, Some(revisions)) if revisions <= i64::MAX as u64 => Ok(AutoCompaction::Revision(revisions)),
        (false, Some(_)) => Err(refuse("expected a number of revisions".to_owned())),
        (false, None) => match super::value::parse_duration(retention).map_err(refuse)? {
            Duration::ZERO => Ok(AutoCompaction::Off),
            time => {
                let revisions = u64::try_from(time.as_nanos()).unwrap_or(i64::MAX as u64);
                let message = format!("{retention:?} is a duration and the mode counts revisions: {revisions} of them are kept");
                warnings.push(Warning::warn(FLAG, message));
                Ok(AutoCompaction::Revision(revisions))
            }
        },
    }
}

fn batch_limit(s: &Settings) -> Result<usize, ConfigError> {
    const FLAG: &str = "compaction-batch-limit";
    match s.int(FLAG)? {
        0 => Ok(1000),
        limit => usize::try_from(limit).map_err(|_| ConfigError::refused(FLAG, format!("must not be negative (set to {limit})"))),
    }
}

fn watch_progress(s: &Settings, warnings: &mut Vec<Warning>) -> Result<Duration, ConfigError> {
    const FLAG: &str = "watch-progress-notify-interval";
    if s.duration(FLAG)?.is_zero() && !s.is_negative(FLAG) {
        return Ok(Duration::from_secs(600));
    }
    floor(s, FLAG, MIN_WATCH_PROGRESS, warnings)
}

fn floor(s: &Settings, flag: &str, least: Duration, warnings: &mut Vec<Warning>) -> Result<Duration, ConfigError> {
    let given = s.duration(flag)?;
    if given >= least {
        return Ok(given);
    }
    warnings.push(Warning::warn(flag, format!("{} raised to the least value, {}", show_duration(given), show_duration(least))));
    Ok(least)
}

fn metrics(s: &Settings, warnings: &mut Vec<Warning>) -> bool {
    match s.text("metrics") {
        "extensive" => true,
        "basic" | "" => false,
        other => {
            warnings.push(Warning::warn("metrics", format!("unknown level {other:?}; basic is used")));
            false
        }
    }
}

fn memory_limit(s: &Settings) -> Result<Option<u64>, ConfigError> {
    match s.bytes("memory-limit")? {
        0 => Ok(None),
        bytes if bytes < MIN_MEMORY_BYTES => {
            Err(ConfigError::refused("memory-limit", format!("{bytes} bytes is below the least the server can run in, 64MiB")))
        }
        bytes => Ok(Some(bytes)),
    }
}

fn positive(value: u64, max: u64, flag: &str) -> Result<usize, ConfigError> {
    match usize::try_from(value) {
        Ok(n) if n > 0 && value <= max => Ok(n),
        _ => Err(ConfigError::refused(flag, format!("must be within 1 to {max} (set to {value})"))),
    }
}

fn at_most(value: i64, flag: &str) -> Result<u32, ConfigError> {
    u32::try_from(value).map_err(|_| ConfigError::refused(flag, format!("must be within 0 to {} (set to {value})", u32::MAX)))
}

fn or_default(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}

fn off_at_zero(d: Duration) -> Option<Duration> {
    Some(d).filter(|d| !d.is_zero())
}
