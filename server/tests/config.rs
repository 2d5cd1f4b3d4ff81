//! The configuration as an operator meets it: a command line, an environment or a file goes in; a configuration, a
//! warning or an error with its exit code comes out. All cases go through `check`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use quorate::config::{
    AllowList, AuthToken, AutoCompaction, Config, ConfigError, Effect, FirstStart, JwtMethod, Kind, Level, LogLevel, LogOutput,
    Parsed, TlsVersion, Warning, flags, flags_markdown, help_text, version_text,
};

/// Where this host is reached, by its default route.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

type Env<'a> = &'a [(&'a str, &'a str)];

fn parse(args: &[&str], env: Env<'_>, file: Option<&str>) -> Result<Parsed, ConfigError> {
    Config::from_env_and_args(
        args.iter().map(OsString::from),
        env.iter().map(|(key, value)| (OsString::from(key), OsString::from(value))),
        |_| file.map(str::to_owned).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)),
        || Some(HOST.into()),
    )
}

fn run(args: &[&str], env: Env<'_>, file: Option<&str>) -> (Config, Vec<Warning>) {
    match parse(args, env, file) {
        Ok(Parsed::Run(config, warnings)) => (*config, warnings),
        other => panic!("{args:?} {env:?}: {other:?}"),
    }
}

/// What a case expects.
enum Expect<'a> {
    /// The configuration satisfies this.
    Holds(fn(&Config) -> bool),
    /// A warning about this setting holds this text.
    Warns(&'a str, &'a str),
    /// Exit code, and a text in the error.
    Fails(u8, &'a str),
}

use Expect::{Fails, Holds, Warns};

/// The only caller of the parser: runs one case against what it expects.
fn check(args: &[&str], env: Env<'_>, expect: Expect<'_>) {
    let outcome = parse(args, env, None);
    match (expect, outcome) {
        (Holds(holds), Ok(Parsed::Run(config, _))) => assert!(holds(&config), "{args:?} {env:?}: {config:#?}"),
        (Warns(setting, text), Ok(Parsed::Run(_, warnings))) => {
            let found = warnings.iter().any(|w| w.setting == setting && w.message.contains(text));
            assert!(found, "{args:?} {env:?}: no warning {setting:?} {text:?} in {warnings:#?}");
        }
        (Fails(code, text), Err(error)) => {
            assert_eq!(error.exit_code(), code, "{args:?}: {error}");
            assert!(error.to_string().contains(text), "{args:?}: {error} lacks {text:?}");
        }
        (_, other) => panic!("{args:?} {env:?}: {other:?}"),
    }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn no_flags_give_etcd_s_defaults() {
    let (c, warnings) = run(&[], &[], None);
    assert_eq!(c.name, "default");
    assert_eq!(c.data_dir.to_str(), Some("default.etcd"));
    assert_eq!(c.initial_cluster, "default=http://localhost:2380");
    assert_eq!(c.initial_cluster_token, "etcd-cluster");
    assert_eq!((c.heartbeat_interval, c.election_timeout), (Duration::from_millis(100), secs(1)));
    assert_eq!((c.election_ticks(), c.request_timeout()), (10, secs(7)));
    assert_eq!((c.snapshot_count, c.snapshot_catchup_entries), (10_000, 5_000));
    assert_eq!((c.max_txn_ops, c.max_request_bytes, c.quota_bytes), (128, 1_572_864, Some(2 << 30)));
    assert_eq!((c.max_concurrent_streams, c.max_learners, c.bcrypt_cost), (None, 1, 10));
    assert_eq!(c.keepalive_min_time, Some(secs(5)));
    assert_eq!(c.keepalive.map(|k| (k.interval, k.timeout)), Some((secs(7200), secs(20))));
    assert_eq!(c.listen_client_urls.iter().map(ToString::to_string).collect::<Vec<_>>(), ["http://localhost:2379"]);
    assert_eq!(c.listen_peer_urls.iter().map(ToString::to_string).collect::<Vec<_>>(), ["http://localhost:2380"]);
    assert!(c.listen_client_http_urls.is_empty() && c.listen_metrics_urls.is_empty());
    assert!(c.pre_vote && c.strict_reconfig_check && c.initial_election_tick_advance && c.grpc_gateway);
    assert!(!c.extensive_metrics && !c.force_new_cluster && !c.unsafe_no_fsync);
    assert!(!c.client_tls.is_on() && !c.peer_tls.is_on());
    assert_eq!((c.tls.min, c.tls.max, c.tls.cipher_suites.len()), (TlsVersion::Tls12, TlsVersion::Tls13, 0));
    assert_eq!((&c.cors, &c.host_whitelist), (&AllowList::All, &AllowList::All));
    assert_eq!(c.auth_token, AuthToken::Simple { ttl: secs(300) });
    assert_eq!(c.auto_compaction, AutoCompaction::Off);
    assert_eq!((c.compaction_batch_limit, c.compaction_sleep_interval), (1000, Duration::from_millis(10)));
    assert_eq!(c.watch_progress_notify_interval, secs(600));
    assert_eq!((c.corrupt_check_interval, c.compact_hash_check_interval), (None, secs(60)));
    assert_eq!((c.downgrade_check_interval, c.warning_unary_request_duration), (Some(secs(5)), Duration::from_millis(300)));
    assert_eq!((c.log.level, c.log.outputs), (LogLevel::Info, vec![LogOutput::Stderr]));
    assert!(!c.features.compact_hash_check && !c.features.initial_corrupt_check);
    assert_eq!((c.memory_limit_bytes, c.snapshot_rate_bytes_per_second), (None, None));
    assert!(warnings.iter().all(|w| w.level == Level::Note), "{warnings:?}");
}

#[test]
fn kubeadm_s_command_line_means_what_it_says() {
    let args = [
        "--advertise-client-urls=https://10.0.0.7:2379",
        "--cert-file=/etc/kubernetes/pki/etcd/server.crt",
        "--client-cert-auth=true",
        "--data-dir=/var/lib/etcd",
        "--feature-gates=InitialCorruptCheck=true",
        "--initial-advertise-peer-urls=https://10.0.0.7:2380",
        "--initial-cluster=cp-1=https://10.0.0.7:2380",
        "--key-file=/etc/kubernetes/pki/etcd/server.key",
        "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.7:2379",
        "--listen-metrics-urls=http://127.0.0.1:2381",
        "--listen-peer-urls=https://10.0.0.7:2380",
        "--name=cp-1",
        "--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt",
        "--peer-client-cert-auth=true",
        "--peer-key-file=/etc/kubernetes/pki/etcd/peer.key",
        "--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
        "--snapshot-count=10000",
        "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
        "--watch-progress-notify-interval=5s",
    ];
    let (c, warnings) = run(&args, &[], None);
    // The one flag of it that is not needed here says so.
    assert_eq!(warnings.iter().map(|w| (w.level, w.setting.as_str())).collect::<Vec<_>>(), [(Level::Note, "snapshot-count")]);
    assert_eq!((c.name.as_str(), c.data_dir.to_str()), ("cp-1", Some("/var/lib/etcd")));
    assert_eq!(c.watch_progress_notify_interval, secs(5));
    assert!(c.features.initial_corrupt_check);
    assert_eq!(c.listen_client_urls.len(), 2);
    assert_eq!(c.listen_metrics_urls[0].to_string(), "http://127.0.0.1:2381");
    for tls in [&c.client_tls, &c.peer_tls] {
        assert!(tls.is_on() && tls.cert_auth && tls.require_client_cert && !tls.auto);
        assert_eq!(tls.trusted_ca.as_ref().and_then(|p| p.to_str()), Some("/etc/kubernetes/pki/etcd/ca.crt"));
    }
    let FirstStart::Form(boot) = c.first_start().expect("bootstrap") else { panic!("expected a new cluster") };
    assert_eq!((boot.members.len(), boot.members[0].id), (1, boot.local_id));

    let mut joining = args.to_vec();
    joining[6] = "--initial-cluster=cp-0=https://10.0.0.6:2380,cp-1=https://10.0.0.7:2380";
    joining.push("--initial-cluster-state=existing");
    let FirstStart::Join(members) = run(&joining, &[], None).0.first_start().expect("join") else { panic!("expected to join") };
    assert_eq!(members.keys().collect::<Vec<_>>(), ["cp-0", "cp-1"]);
}

#[test]
fn flags_are_written_as_go_reads_them() {
    for args in [&["--name=a"][..], &["--name", "a"], &["-name=a"], &["-name", "a"], &["--name=b", "--name", "a"]] {
        check(args, &[], Holds(|c| c.name == "a"));
    }
    check(&["--pre-vote=f"], &[], Holds(|c| !c.pre_vote));
    check(&["--force-new-cluster"], &[], Holds(|c| c.force_new_cluster));
    check(&["-force-new-cluster=T", "--"], &[], Holds(|c| c.force_new_cluster));
    check(&["--name", "--odd"], &[], Holds(|c| c.name == "--odd"));
    check(&["--name="], &[], Holds(|c| c.name.is_empty() && c.data_dir.to_str() == Some(".etcd")));
    check(&["--heartbeat-interval=0x32"], &[], Holds(|c| c.heartbeat_interval == Duration::from_millis(50)));
    check(&["--listen-peer-urls="], &[], Holds(|c| c.listen_peer_urls[0].to_string() == "http://localhost:2380"));
    check(
        &["--feature-gates=AllAlpha=true,CompactHashCheck=true", "--feature-gates=SetMemberLocalAddr=0"],
        &[],
        Holds(|c| c.features.initial_corrupt_check && !c.features.set_member_local_addr),
    );
    for (args, code, text) in [
        (&["--nmae=a"][..], 2, "did you mean --name?"),
        (&["--frobnicate"], 2, "unknown flag --frobnicate"),
        (&["--client-cert-allowed-cn=a"], 2, "unknown flag"),
        (&["--name"], 2, "--name needs a value"),
        (&["---name=a"], 2, "bad flag syntax"),
        (&["--=a"], 2, "bad flag syntax"),
        (&["--pre-vote=maybe"], 2, "invalid value \"maybe\" for --pre-vote"),
        (&["--pre-vote", "false"], 1, "\"false\" is not a valid flag"),
        (&["-"], 1, "not a valid flag"),
        (&["--", "x"], 1, "\"x\" is not a valid flag"),
        (&["gateway"], 1, "not part of this server"),
        (&["--max-txn-ops=-1"], 2, "whole number"),
        (&["--max-concurrent-streams=4294967296"], 2, "above 4294967295"),
        (&["--grpc-keepalive-timeout=20"], 2, "unit is missing"),
        (&["--corrupt-check-time=-1"], 2, "unit"),
        (&["--initial-cluster-state=old"], 2, "new, existing"),
        (&["--feature-gates=Nope=true"], 2, "unrecognized feature gate: Nope"),
        (&["--feature-gates=PriorityRequest"], 2, "missing bool value for PriorityRequest"),
        (&["--listen-peer-urls=localhost:2380"], 2, "scheme must be http"),
        (&["--memory-limit=lots"], 2, "MiB"),
    ] {
        check(args, &[], Fails(code, text));
    }
}

#[test]
fn every_flag_of_the_catalogue_takes_its_own_default() {
    for flag in flags().iter().filter(|f| !f.file_only && f.name != "version" && f.name != "config-file") {
        if matches!(flag.kind, Kind::Choices(_)) || flag.name == "listen-client-urls" {
            continue;
        }
        let arg = format!("--{}={}", flag.name, flag.default);
        let (_, warnings) = run(&[&arg], &[], None);
        let noted = warnings.iter().any(|w| w.setting == flag.name && w.message.starts_with("has no effect"));
        assert_eq!(noted, matches!(flag.effect, Effect::None(_)), "{arg}: {warnings:?}");
    }
    check(&["--v2-deprecation=write-only,gone"], &[], Warns("v2-deprecation", "no v2 store"));
}

#[test]
fn removed_flags_name_their_successor() {
    for (flag, text) in [
        ("--experimental-initial-corrupt-check=true", "--feature-gates=InitialCorruptCheck=true"),
        ("--experimental-watch-progress-notify-interval=5s", "use --watch-progress-notify-interval"),
        ("--experimental-peer-skip-client-san-verification", "use --peer-skip-client-san-verification"),
        ("--experimental-made-up", "no successor"),
        ("--enable-v2", "v2 API is gone"),
        ("--discovery=http://a", "--initial-cluster"),
        ("--log-output=stdout", "use --log-outputs"),
    ] {
        check(&[flag], &[], Fails(2, text));
    }
    for flag in ["--discovery-endpoints=a:1", "--discovery-srv=example.com", "--discovery-token=t"] {
        check(&[flag], &[], Fails(1, "list the members with --initial-cluster"));
    }
    check(&["--discovery-fallback=proxy"], &[], Fails(1, "v2 proxy is gone"));
    check(&["--discovery-fallback=exit"], &[], Warns("discovery-fallback", "no discovery client"));
}

#[test]
fn the_environment_fills_in_what_the_command_line_leaves_open() {
    check(&[], &[("ETCD_NAME", "e"), ("ETCD_PRE_VOTE", "false")], Holds(|c| c.name == "e" && !c.pre_vote));
    check(&["--name=f"], &[("ETCD_NAME", "e")], Holds(|c| c.name == "f"));
    check(&["--name=f"], &[("ETCD_NAME", "e")], Warns("ETCD_NAME", "shadowed by --name"));
    check(&[], &[("ETCD_NAME", "")], Holds(|c| c.name == "default"));
    check(&[], &[("ETCD_PORT", "tcp://10.0.0.1:2379")], Warns("ETCD_PORT", "unrecognized environment variable"));
    check(&[], &[("ETCD_VERSION", "3.7.3")], Warns("ETCD_VERSION", "command line only"));
    check(&[], &[("ETCD_EXPERIMENTAL_MAX_LEARNERS", "2")], Warns("ETCD_EXPERIMENTAL_MAX_LEARNERS", "use --max-learners"));
    check(&[], &[("ETCD_HEARTBEAT_INTERVAL", "x")], Fails(1, "invalid value \"x\" for ETCD_HEARTBEAT_INTERVAL (environment)"));
    check(&[], &[("QUORATE_MEMORY_LIMIT", "1GiB")], Holds(|c| c.memory_limit_bytes == Some(1 << 30)));
    check(&[], &[("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1")], Fails(1, "listen-client-urls is set explicitly"));
    check(&[], &[("PATH", "/bin"), ("ETCDCTL_API", "3")], Holds(|_| true));
}

#[test]
fn timing_and_limits_are_bounded() {
    check(&["--heartbeat-interval=0"], &[], Fails(1, "must be >0"));
    check(&["--election-timeout=0"], &[], Fails(1, "must be >0"));
    check(&["--heartbeat-interval=201"], &[], Fails(1, "at least 5 times"));
    check(&["--heartbeat-interval=18446744073709551615"], &[], Fails(1, "at least 5 times"));
    check(&["--heartbeat-interval=200"], &[], Holds(|c| c.election_ticks() == 5));
    check(&["--election-timeout=50000"], &[], Holds(|c| c.election_timeout == secs(50)));
    check(&["--election-timeout=50001"], &[], Fails(1, "too long"));
    check(&["--quota-backend-bytes=-1"], &[], Holds(|c| c.quota_bytes.is_none()));
    check(&["--quota-backend-bytes=8589934592"], &[], Holds(|c| c.quota_bytes == Some(8 << 30)));
    check(&["--quota-backend-bytes=107374182400"], &[], Warns("quota-backend-bytes", "fine for this store"));
    check(&["--max-txn-ops=0"], &[], Holds(|c| c.max_txn_ops == 0));
    check(&["--max-txn-ops=0"], &[], Warns("max-txn-ops", "is refused"));
    check(&["--max-txn-ops=4294967296"], &[], Fails(1, "must be within 1"));
    check(&["--max-request-bytes=10485761"], &[], Warns("max-request-bytes", "10 MiB"));
    check(&["--max-request-bytes=4294967296"], &[], Holds(|c| c.max_request_bytes == (1 << 31) - 1 - (512 << 10)));
    check(&["--max-request-bytes=4294967296"], &[], Warns("max-request-bytes", "lowered to"));
    check(&["--max-request-bytes=0"], &[], Fails(1, "must be within 1"));
    check(&["--max-learners=-1"], &[], Fails(1, "max-learners"));
    check(&["--max-concurrent-streams=0x10"], &[], Holds(|c| c.max_concurrent_streams == Some(16)));
    check(&["--grpc-keepalive-interval=0"], &[], Holds(|c| c.keepalive.is_none()));
    check(&["--grpc-keepalive-min-time=0s"], &[], Holds(|c| c.keepalive_min_time.is_none()));
    check(
        &["--watch-progress-notify-interval=10ms"],
        &[],
        Holds(|c| c.watch_progress_notify_interval == Duration::from_millis(100)),
    );
    check(
        &["--watch-progress-notify-interval=10ms"],
        &[],
        Warns("watch-progress-notify-interval", "10ms raised to the least value, 100ms"),
    );
    check(&["--watch-progress-notify-interval=0"], &[], Holds(|c| c.watch_progress_notify_interval == secs(600)));
    check(&["--raft-read-timeout=1s"], &[], Holds(|c| c.peer_read_timeout == secs(5)));
    check(&["--compact-hash-check-time=0s"], &[], Fails(1, "must be >0"));
    check(&["--compaction-batch-limit=-5"], &[], Fails(1, "must not be negative"));
    check(&["--memory-limit=1MiB"], &[], Fails(1, "64MiB"));
    check(&["--boot-ticket=/run/ticket.json"], &[], Holds(|c| c.boot_ticket.as_deref() == Some(Path::new("/run/ticket.json"))));
    check(&[], &[("QUORATE_BOOT_TICKET", "/t")], Holds(|c| c.boot_ticket.as_deref() == Some(Path::new("/t"))));
    check(&["--snapshot-rate=100MiB"], &[], Holds(|c| c.snapshot_rate_bytes_per_second == Some(100 << 20)));
    check(&["--bcrypt-cost=3"], &[], Warns("bcrypt-cost", "10 is used"));
    check(&["--feature-gates=LeaseCheckpointPersist=true"], &[], Fails(1, "requires the gate LeaseCheckpoint"));
}

#[test]
fn durations_below_zero_mean_what_etcd_makes_of_them() {
    check(&["--grpc-keepalive-interval=-1s"], &[], Holds(|c| c.keepalive.is_none()));
    check(&["--grpc-keepalive-interval", "-1s"], &[], Warns("grpc-keepalive-interval", "counts as 0"));
    check(&["--grpc-keepalive-min-time=-1s"], &[], Holds(|c| c.keepalive_min_time.is_none()));
    check(&["--warning-unary-request-duration=-5s"], &[], Holds(|c| c.warning_unary_request_duration.is_zero()));
    check(&["--warning-unary-request-duration=0"], &[], Holds(|c| c.warning_unary_request_duration == Duration::from_millis(300)));
    check(&["--downgrade-check-time=-1s"], &[], Holds(|c| c.downgrade_check_interval == Some(secs(5))));
    check(&["--corrupt-check-time=-1s"], &[], Holds(|c| c.corrupt_check_interval.is_none()));
    check(
        &["--watch-progress-notify-interval=-1s"],
        &[],
        Holds(|c| c.watch_progress_notify_interval == Duration::from_millis(100)),
    );
    check(&["--compact-hash-check-time=-1s"], &[], Fails(1, "must be >0"));
    check(&["--corrupt-check-time=--1s"], &[], Fails(2, "duration"));
}

#[test]
fn auto_compaction_reads_hours_durations_and_revisions() {
    let with = |mode: &str, retention: &str| {
        let args = [format!("--auto-compaction-mode={mode}"), format!("--auto-compaction-retention={retention}")];
        match parse(&[&args[0], &args[1]], &[], None) {
            Ok(Parsed::Run(c, _)) => Ok(c.auto_compaction),
            Err(e) => Err(e.to_string()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(with("periodic", "5"), Ok(AutoCompaction::Periodic(secs(5 * 3600))));
    assert_eq!(with("periodic", "5m"), Ok(AutoCompaction::Periodic(secs(300))));
    assert_eq!(with("periodic", "0"), Ok(AutoCompaction::Off));
    assert_eq!(with("periodic", "0s"), Ok(AutoCompaction::Off));
    assert_eq!(with("revision", "1000"), Ok(AutoCompaction::Revision(1000)));
    assert_eq!(with("revision", "0"), Ok(AutoCompaction::Off));
    assert_eq!(with("revision", ""), Ok(AutoCompaction::Off));
    assert_eq!(with("revision", "1h"), Ok(AutoCompaction::Revision(3_600_000_000_000)));
    for (mode, retention, text) in [
        ("revision", "many", "unit"),
        ("revision", "18446744073709551615", "number of revisions"),
        ("periodic", "soon", "unknown unit"),
        ("periodic", "9999999999999", "too many hours"),
        ("periodic", "-1", "unit"),
        ("", "1", "undefined"),
        ("weekly", "1", "unknown auto-compaction-mode \"weekly\""),
    ] {
        let reason = with(mode, retention).expect_err(retention);
        assert!(reason.contains(text), "{mode} {retention}: {reason}");
    }
}

#[test]
fn urls_follow_etcd_s_rules() {
    check(&["--listen-peer-urls=http://example.com:2380"], &[], Fails(1, "expected IP in URL for binding"));
    check(&["--listen-metrics-urls=http://metrics:2381"], &[], Fails(1, "expected IP"));
    check(&["--initial-advertise-peer-urls=http://:2380"], &[], Fails(1, "unexpected empty host"));
    check(
        &["--initial-advertise-peer-urls=https://a.example.com:2380"],
        &[],
        Holds(|c| c.initial_cluster == "default=https://a.example.com:2380"),
    );
    check(&["--listen-client-urls=http://0.0.0.0:2379"], &[], Fails(1, "listen-client-urls is set explicitly"));
    check(&["--listen-client-http-urls=http://localhost:2379"], &[], Fails(1, "cannot bind both"));
    check(&["--listen-client-http-urls=http://localhost:2381"], &[], Holds(|c| c.listen_client_http_urls.len() == 1));
    check(&["--cors=http://a:1,http://b:2"], &[], Holds(|c| c.cors.allows("http://b:2") && !c.cors.allows("http://c:3")));
    check(&["--host-whitelist=a,b"], &[], Holds(|c| c.host_whitelist == AllowList::Only(BTreeSet::from(["a".into(), "b".into()]))));
}

const HTTPS: [&str; 3] =
    ["--listen-client-urls=https://127.0.0.1:2379", "--advertise-client-urls=https://127.0.0.1:2379", "--name=a"];
const PAIR: [&str; 2] = ["--cert-file=c", "--key-file=k"];

#[test]
fn tls_settings_must_fit_together() {
    let check = |parts: &[&[&str]], expect: Expect<'_>| check(&parts.concat(), &[], expect);
    check(&[&HTTPS], Fails(1, "TLS key and cert (--cert-file, --key-file) must be provided"));
    check(&[&HTTPS, &PAIR], Holds(|c| c.client_tls.is_on() && !c.client_tls.require_client_cert));
    check(&[&HTTPS, &PAIR, &["--trusted-ca-file=ca"]], Holds(|c| c.client_tls.require_client_cert && !c.client_tls.cert_auth));
    check(&[&HTTPS, &PAIR, &["--client-cert-auth"]], Warns("client-cert-auth", "--trusted-ca-file is not given"));
    check(
        &[&HTTPS, &PAIR, &["--client-cert-auth"]],
        Holds(|c| c.client_tls.require_client_cert && c.client_tls.trusted_ca.is_none()),
    );
    check(&[&HTTPS, &["--auto-tls", "--client-cert-auth"]], Holds(|c| c.client_tls.auto && c.client_tls.require_client_cert));
    const PEERS: &[&str] = &["--listen-peer-urls=https://127.0.0.1:2380", "--peer-auto-tls", "--peer-client-cert-auth"];
    check(&[PEERS, &["--peer-trusted-ca-file=ca"]], Holds(|c| c.peer_tls.auto && !c.peer_tls.require_client_cert));
    check(&[PEERS, &["--peer-trusted-ca-file=ca"]], Holds(|c| c.peer_tls.trusted_ca.is_none() && !c.peer_tls.cert_auth));
    check(&[PEERS], Warns("peer-client-cert-auth", "ignored with --peer-auto-tls"));
    check(&[&HTTPS, &["--cert-file=c"]], Fails(1, "needs --key-file"));
    check(&[&["--cert-file=c"]], Holds(|c| !c.client_tls.is_on()));
    check(&[&["--cert-file=c"]], Warns("cert-file", "it needs --key-file as well"));
    check(&[&["--peer-key-file=k"]], Warns("peer-key-file", "it needs --peer-cert-file as well"));
    check(&[&PAIR], Warns("cert-file", "http://localhost:2379 is not TLS"));
    check(&[&["--client-cert-auth"]], Warns("client-cert-auth", "no client certificate is asked for"));
    check(&[&["--peer-client-cert-auth"]], Warns("peer-client-cert-auth", "http://localhost:2380"));
    check(&[&HTTPS, &["--auto-tls"]], Holds(|c| c.client_tls.auto && c.client_tls.is_on()));
    check(&[&HTTPS, &PAIR, &["--auto-tls"]], Warns("auto-tls", "ignored"));
    check(&[&HTTPS, &PAIR, &["--auto-tls"]], Holds(|c| !c.client_tls.auto));
    check(&[&HTTPS, &["--auto-tls", "--self-signed-cert-validity=0"]], Fails(1, "greater than 0"));
    check(&[&["--listen-peer-urls=https://127.0.0.1:2380"]], Fails(1, "--peer-cert-file"));
    check(&[&["--listen-metrics-urls=https://127.0.0.1:2381"]], Fails(1, "--cert-file"));
    let both: &[&str] = &["--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b"];
    check(
        &[both, &["--listen-peer-urls=https://127.0.0.1:2380", "--peer-cert-file=c", "--peer-key-file=k"]],
        Fails(1, "cannot be used together"),
    );
    check(&[both], Warns("peer-cert-allowed-cn", "both are ignored"));
    check(&[both], Holds(|c| c.peer_tls.allowed_cns.is_empty() && c.peer_tls.allowed_hostnames.is_empty()));
    check(&[&["--peer-cert-allowed-cn=a"]], Warns("peer-cert-allowed-cn", "nothing is checked"));
    check(&[&["--tls-min-version=TLS1.1"]], Fails(1, "unexpected TLS version \"TLS1.1\""));
    check(&[&["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"]], Fails(1, "greater than max"));
    let suites =
        "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305,TLS_RSA_WITH_AES_128_CBC_SHA";
    check(&[&[suites]], Holds(|c| c.tls.cipher_suites.iter().map(|s| s.code).eq([0xc02f, 0xcca8])));
    check(&[&[suites]], Warns("cipher-suites", "TLS_RSA_WITH_AES_128_CBC_SHA is too weak"));
    check(&[&[suites, "--tls-min-version=TLS1.3"]], Fails(1, "only TLS1.3 is enabled"));
    check(&[&["--cipher-suites=TLS_ROT13"]], Fails(1, "unexpected TLS cipher suite \"TLS_ROT13\""));
    check(&[&HTTPS, &PAIR, &["--cipher-suites=TLS_RSA_WITH_RC4_128_SHA"]], Fails(1, "none of the suites"));
    check(
        &[&HTTPS, &PAIR, &["--cipher-suites=TLS_AES_128_GCM_SHA256", "--tls-max-version=TLS1.2"]],
        Fails(1, "none of the suites"),
    );
    check(&[&["--cipher-suites=TLS_RSA_WITH_RC4_128_SHA"]], Warns("cipher-suites", "no listener speaks TLS"));
    check(&[&["--cipher-suites=TLS_RSA_WITH_RC4_128_SHA"]], Holds(|c| c.tls.cipher_suites.is_empty()));
}

#[test]
fn auth_tokens_and_logs_are_checked() {
    check(
        &["--auth-token=jwt,pub-key=p,priv-key=q,sign-method=ES256,ttl=10m"],
        &[],
        Holds(
            |c| matches!(&c.auth_token, AuthToken::Jwt { method: JwtMethod::Es256, public_key: Some(_), private_key: Some(_), ttl } if *ttl == secs(600)),
        ),
    );
    check(&["--auth-token-ttl=0"], &[], Holds(|c| c.auth_token == AuthToken::Simple { ttl: secs(300) }));
    check(&["--auth-token="], &[], Holds(|c| c.auth_token == AuthToken::None));
    for (value, text) in [
        ("jwt,pub-key=p", "needs sign-method"),
        ("jwt,sign-method=RS256", "pub-key or priv-key"),
        ("jwt,pub-key=p,sign-method=HS256", "HS method"),
        ("jwt,pub-key=p,sign-method=XX", "invalid auth method"),
        ("jwt,pub-key=p,pub-key=q,sign-method=RS256", "given twice"),
        ("jwt,pub-key", "not key=value"),
        ("paper", "unknown token type"),
    ] {
        check(&[&format!("--auth-token={value}")], &[], Fails(1, text));
    }
    check(&["--log-level=loud"], &[], Fails(1, "unrecognized level"));
    check(&["--log-format=xml"], &[], Fails(1, "unknown log format"));
    check(&["--logger=capnslog"], &[], Fails(1, "removed"));
    check(&["--log-outputs=default,stdout"], &[], Fails(1, "cannot be combined"));
    check(&["--log-outputs=stdout,/tmp/l"], &[], Holds(|c| c.log.outputs == [LogOutput::File("/tmp/l".into()), LogOutput::Stdout]));
    check(&["--log-outputs="], &[], Fails(1, "an output is empty"));
    check(&["--log-outputs=stdout,"], &[], Fails(1, "an output is empty"));
    check(&[], &[("ETCD_LOG_OUTPUTS", "")], Holds(|c| c.log.outputs == [LogOutput::Stderr]));
    check(&["--metrics=extensive"], &[], Holds(|c| c.extensive_metrics));
}

#[test]
fn log_rotation_needs_one_file_and_good_json() {
    let rotate = |outputs: &str, json: &str, expect: Expect<'_>| {
        let args = [format!("--log-outputs={outputs}"), format!("--log-rotation-config-json={json}")];
        check(&["--enable-log-rotation", &args[0], &args[1]], &[], expect);
    };
    let whole = |c: &Config| c.log.rotation.clone().map(|r| (r.max_bytes, r.max_age, r.max_backups, r.local_time, r.compress));
    let (c, _) = run(&["--enable-log-rotation", "--log-outputs=/l"], &[], None);
    assert_eq!(whole(&c), Some((100 << 20, None, 0, false, false)));
    let json = r#"{"MaxSize":1,"maxage":2,"maxbackups":3,"localtime":true,"compress":true,"colour":"red","filename":"x"}"#;
    let (c, _) = run(&["--enable-log-rotation", "--log-outputs=stderr,/l", "--log-rotation-config-json", json], &[], None);
    assert_eq!(whole(&c), Some((1 << 20, Some(secs(2 * 86_400)), 3, true, true)));
    assert_eq!(run(&["--log-outputs=/l"], &[], None).0.log.rotation, None);
    rotate("stderr", "{}", Fails(1, "requires a single file path"));
    rotate("/a,/b", "{}", Fails(1, "requires a single file path"));
    rotate("/a", "{bad", Fails(1, "improperly formatted"));
    rotate("/a", "[]", Fails(1, "expected a JSON object"));
    rotate("/a", r#"{"maxsize":"1"}"#, Fails(1, "maxsize must be a whole number"));
    rotate("/a", r#"{"maxsize":1.5}"#, Fails(1, "maxsize must be a whole number"));
    rotate("/a", r#"{"maxsize":18446744073709551615}"#, Fails(1, "maxsize is too large"));
    rotate("/a", r#"{"compress":1}"#, Fails(1, "compress must be true or false"));
    check(&["--log-rotation-config-json={bad"], &[], Holds(|c| c.log.rotation.is_none()));
}

#[test]
fn what_has_no_effect_is_warned_of_when_it_is_not_the_default() {
    for (arg, level) in [
        ("--snapshot-count=10000", Level::Note),
        ("--snapshot-count=0x2710", Level::Note),
        ("--snapshot-count=5000", Level::Warn),
        ("--enable-pprof", Level::Warn),
        ("--enable-pprof=false", Level::Note),
        ("--backend-batch-interval=0", Level::Note),
        ("--backend-batch-interval=10ms", Level::Warn),
        ("--distributed-tracing-address=collector:4317", Level::Warn),
        ("--feature-gates=LeaseCheckpoint=true", Level::Warn),
        ("--feature-gates=LeaseCheckpoint=false", Level::Note),
        ("--cluster-active-size", Level::Note),
    ] {
        let (_, warnings) = run(&["--name=a", arg], &[], None);
        let said: Vec<Level> = warnings.iter().filter(|w| w.message.contains("has no effect")).map(|w| w.level).collect();
        assert_eq!(said, [level], "{arg}: {warnings:#?}");
    }
}

#[test]
fn a_first_start_checks_the_member_list() {
    let start = |args: &[&str]| run(args, &[], None).0.first_start().map_err(|e| (e.exit_code(), e.to_string()));
    let FirstStart::Form(boot) = start(&[]).expect("default") else { panic!("expected a new cluster") };
    assert_eq!(format!("{:x} {:x}", boot.local_id, boot.cluster_id), "8e9e05c52164694d cdf818194e3a8c32");

    let list = "--initial-cluster=infra1=http://127.0.0.1:12380,infra2=http://127.0.0.1:22380,infra3=http://127.0.0.1:32380";
    let common = [list, "--initial-cluster-token=etcd-cluster-1", "--name=infra2"];
    let urls = ["--initial-advertise-peer-urls=http://127.0.0.1:22380"];
    let FirstStart::Form(boot) = start(&[&common[..], &urls[..]].concat()).expect("three") else {
        panic!("expected a new cluster")
    };
    assert_eq!(format!("{:x} {:x}", boot.local_id, boot.cluster_id), "91bc3c398fb3c146 ef37ad9dc622a7c4");
    assert_eq!(boot.members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["infra1", "infra2", "infra3"]);

    let two = "--initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2";
    let twice = start(&["--name=a", "--initial-cluster=a=http://127.0.0.1:2,a=http://127.0.0.1:1", two]);
    assert!(matches!(&twice, Ok(FirstStart::Form(b)) if b.members.len() == 1 && b.members[0].peer_urls.len() == 2), "{twice:?}");

    for (args, text) in [
        (&common[..], "missing from --initial-advertise-peer-urls"),
        (&["--initial-cluster=default=http://127.0.0.1:2380"], "missing from --initial-advertise-peer-urls"),
        (&["--name=x", list][..], "couldn't find local name \"x\""),
        (&["--name=a", "--initial-cluster=a=http://127.0.0.1:1", two], "missing from --initial-cluster"),
        (&["--initial-cluster=default=http://a:1,b=http://a:1"], "duplicate url http://a:1"),
        (&["--initial-cluster=default"], "not of the form name=url"),
        (&["--initial-cluster==http://a:1"], "no member name"),
        (&["--initial-cluster=default=a:1"], "scheme"),
        (&["--initial-cluster=,"], "is empty"),
    ] {
        let (code, reason) = start(args).expect_err(text);
        assert_eq!(code, 1);
        assert!(reason.contains(text), "{args:?}: {reason}");
    }
}

const FILE: &str = "
name: m1
data-dir: /data
wal-dir:
snapshot-count: 5000
heartbeat-interval: 50
listen-client-urls: https://127.0.0.1:2379
initial-cluster:
cors:
enable-pprof: true
proxy: 'off'
discovery-fallback: proxy
auto-compaction-retention: 1
watch-progress-notify-interval: 5000000000
corrupt-check-time: 1h
log-outputs: [stderr]
cipher-suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]
feature-gates: InitialCorruptCheck=true
socket-options:
  reuse-port: true
client-transport-security:
  cert-file: c
  key-file: k
  client-cert-auth: true
  trusted-ca-file: ca
  allowed-cn: [root, admin]
peer-transport-security:
  auto-tls: true
  bogus: 1
colour: red
";

#[test]
fn the_file_replaces_all_other_sources() {
    let (c, warnings) = run(&["--config-file=x.yml", "--name=flag"], &[("ETCD_DATA_DIR", "/env")], Some(FILE));
    assert_eq!((c.name.as_str(), c.data_dir.to_str(), c.wal_dir), ("m1", Some("/data"), None));
    assert_eq!((c.snapshot_count, c.heartbeat_interval), (5000, Duration::from_millis(50)));
    assert_eq!(c.initial_cluster, "m1=http://localhost:2380");
    assert_eq!(c.auto_compaction, AutoCompaction::Periodic(secs(3600)));
    assert_eq!((c.watch_progress_notify_interval, c.corrupt_check_interval), (secs(5), Some(secs(3600))));
    assert_eq!(c.tls.cipher_suites.len(), 2);
    assert!(c.features.initial_corrupt_check && c.socket_reuse_port);
    assert!(c.client_tls.cert_auth && c.peer_tls.auto);
    assert_eq!(c.client_tls.allowed_cns, ["root", "admin"]);
    for (setting, text) in [
        ("--name", "ignored, since all settings come from the config file \"x.yml\""),
        ("ETCD_DATA_DIR", "ignored, since"),
        ("proxy", "removed"),
        ("peer-transport-security.bogus", "unknown key"),
        ("colour", "unknown key"),
        ("enable-pprof", "no Go runtime"),
    ] {
        assert!(warnings.iter().any(|w| w.setting == setting && w.message.contains(text)), "{setting}: {warnings:#?}");
    }
    let (c, _) = run(&[], &[("ETCD_CONFIG_FILE", "y.yml")], Some(""));
    assert_eq!(c.name, "default");
}

#[test]
fn the_file_is_read_as_etcd_s_yaml_library_reads_it() {
    let read = |text: &str| run(&["--config-file=f"], &[], Some(text)).0;
    assert_eq!(read("\u{feff}name: m2\n").name, "m2");
    assert_eq!(read("name: first\n---\nname: second\n").name, "first");
    for (word, on) in [("yes", true), ("On", true), ("no", false), ("OFF", false), ("true", true), ("false", false)] {
        assert_eq!(read(&format!("pre-vote: {word}\n")).pre_vote, on, "{word}");
    }
    let c = read("quota-backend-bytes: 1e9\nwatch-progress-notify-interval: 5e9\nv2-deprecation: not-yet\n");
    assert_eq!((c.quota_bytes, c.watch_progress_notify_interval), (Some(1_000_000_000), secs(5)));
}

#[test]
fn bad_files_are_refused() {
    for (file, text) in [
        (None, "config file \"f\": cannot be read"),
        (Some("- a\n"), "expected a map"),
        (Some("a: [1"), "not valid YAML"),
        (Some("name: {a: 1}"), "invalid value"),
        (Some("pre-vote: sometimes"), "expected true or false"),
        (Some("client-transport-security: 5"), "must be a map"),
        (Some("listen-peer-urls: nowhere"), "scheme"),
        (Some("watch-progress-notify-interval: 0.5"), "expected duration"),
        (Some("name: a\nname: b\n"), "duplicate"),
        (Some("discovery-config: {token: t}"), "--initial-cluster"),
    ] {
        let error = parse(&["--config-file", "f"], &[], file).expect_err(text);
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains(text), "{file:?}: {error}");
    }
}

#[test]
fn help_version_and_table_come_from_the_catalogue() {
    assert_eq!(parse(&["--version"], &[], None), Ok(Parsed::ShowVersion));
    assert_eq!(parse(&["-h"], &[], None), Ok(Parsed::ShowHelp));
    assert_eq!(parse(&["--name=a", "--help"], &[], None), Ok(Parsed::ShowHelp));
    let version = version_text();
    let labels: Vec<&str> = version.lines().filter_map(|line| line.split(": ").next()).collect();
    assert_eq!(labels, ["etcd Version", "Git SHA", "Rust Version", "Rust OS/Arch", "Quorate Version"]);
    assert!(version.starts_with("etcd Version: 3.7.3\n"));
    let (help, table) = (help_text(), flags_markdown());
    for flag in flags().iter().filter(|f| f.kind != Kind::Ignored && !f.file_only) {
        assert!(help.contains(&format!("  --{}", flag.name)), "{}", flag.name);
        assert!(table.contains(&format!("| `--{}` |", flag.name)), "{}", flag.name);
    }
    let columns = |line: &str| line.replace("\\|", "").matches('|').count();
    assert!(table.lines().all(|line| columns(line) == 6), "{table}");
}

/// A listener that has all addresses and nothing said of where to reach it: the host's own is advertised, with the port listened on.
#[test]
fn advertised_host() {
    let urls = |urls: &[quorate::config::Url]| urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let (config, warnings) = run(&["--name=n1", "--listen-peer-urls=http://0.0.0.0:42380"], &[], None);
    assert_eq!(urls(&config.advertise_peer_urls), "http://192.0.2.7:42380");
    assert_eq!(config.initial_cluster, "n1=http://192.0.2.7:42380");
    assert_eq!(urls(&config.advertise_client_urls), "http://localhost:2379");
    assert!(warnings.iter().any(|w| w.setting == "initial-advertise-peer-urls" && w.message.contains("192.0.2.7")));
    for args in [&["--listen-peer-urls=http://127.0.0.1:42380"][..], &["--listen-peer-urls=http://[::]:42380"], &[]] {
        assert_eq!(urls(&run(args, &[], None).0.advertise_peer_urls), "http://localhost:2380");
    }
    let said = ["--listen-peer-urls=http://0.0.0.0:42380", "--initial-advertise-peer-urls=http://localhost:42380"];
    assert_eq!(urls(&run(&said, &[], None).0.advertise_peer_urls), "http://localhost:42380");
    let file = "listen-client-urls: http://0.0.0.0:42379\n";
    let (config, _) = run(&["--config-file=f"], &[], Some(file));
    assert_eq!(urls(&config.advertise_client_urls), "http://192.0.2.7:42379");
}
