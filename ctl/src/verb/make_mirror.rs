//! `make-mirror`: copies a prefix to another cluster, then follows its changes until stopped.
//!
//! Invariant: the changes of one revision reach the other cluster in one transaction, unless there are more than
//! `--max-txn-ops`.

use std::time::Duration;

use bytes::Bytes;
use quorate_client::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, request_op::Request,
};
use quorate_client::proto::mvccpb::event::EventType;
use quorate_client::{Client, Config, prefix_end};

use crate::context::{Context, client};
use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, flag};
use crate::{global, print};

/// Flags of the command.
pub const FLAGS: &[Flag] = &[
    flag("prefix", Kind::Text, "what to copy"),
    flag("rev", Kind::Int, "revision to start at; 0 copies what is there first"),
    flag("max-txn-ops", Kind::Uint, "most operations in one transaction").or("128"),
    flag("dest-prefix", Kind::Text, "prefix to have there in place of the prefix here"),
    flag("no-dest-prefix", Kind::Bool, "take the prefix off there"),
    flag("dest-cert", Kind::Text, "own TLS certificate file, for the other cluster"),
    flag("dest-key", Kind::Text, "key file to that certificate"),
    flag("dest-cacert", Kind::Text, "authorities to check the other cluster's servers against"),
    flag("dest-insecure-transport", Kind::Bool, "talk without TLS where nothing asks for it").or("true"),
    flag("dest-user", Kind::Text, "name[:password] to sign in with over there"),
    flag("dest-password", Kind::Text, "password to sign in with over there"),
];

/// Pairs to read at a time.
const PAGE: i64 = 1000;
/// How often to say how many changes were copied.
const REPORT: Duration = Duration::from_secs(30);

struct Mirror {
    from: Client,
    to: Client,
    prefix: Bytes,
    /// What stands there in place of the prefix.
    target: Bytes,
    copied: u64,
    max_ops: usize,
}

/// Runs the command; ends only with an error.
pub async fn run(mut cx: Context) -> Done {
    if cx.args().len() != 1 {
        return Err(failure::bad_args("make-mirror takes one destination argument"));
    }
    let flags = &cx.flags;
    let strip = flags.bool("no-dest-prefix");
    if strip && !flags.text("dest-prefix").is_empty() {
        return Err(failure::bad_args("`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one"));
    }
    let target = if strip || !flags.text("dest-prefix").is_empty() { flags.text("dest-prefix") } else { flags.text("prefix") };
    let target = Bytes::copy_from_slice(target.as_bytes());
    let prefix = Bytes::copy_from_slice(flags.text("prefix").as_bytes());
    let max_ops = usize::try_from(flags.uint("max-txn-ops")).unwrap_or(usize::MAX).max(1);
    let (config, _) = cx.open()?;
    let flags = &cx.flags;
    let mut tls = global::tls_files(flags.text("dest-cert"), flags.text("dest-key"), flags.text("dest-cacert"))?;
    if !flags.bool("dest-insecure-transport") {
        tls.get_or_insert_default();
    }
    let credentials = global::credentials(flags.text("dest-user"), flags.text("dest-password"), "", "Destination Password: ")?;
    let there = Config { endpoints: vec![cx.text(0)], tls, credentials, timeout: None, ..config.clone() };
    let mut mirror = Mirror {
        from: client(Config { timeout: None, ..config }).await?,
        to: client(there).await?,
        prefix,
        target,
        copied: 0,
        max_ops,
    };
    let start = match cx.flags.int("rev") {
        revision @ 1.. => revision,
        _ => mirror.copy().await? + 1,
    };
    mirror.follow(start).await
}

impl Mirror {
    /// Start and end of what is copied; an empty prefix means all keys.
    fn range(&self) -> (Bytes, Bytes) {
        match self.prefix.is_empty() {
            true => (Bytes::from_static(&[0]), Bytes::from_static(&[0])),
            false => (self.prefix.clone(), prefix_end(&self.prefix).into()),
        }
    }

    /// The key's name over there.
    fn renamed(&self, key: &[u8]) -> Bytes {
        match key.strip_prefix(self.prefix.as_ref()) {
            Some(rest) => [self.target.as_ref(), rest].concat().into(),
            None => Bytes::copy_from_slice(key),
        }
    }

    /// Copies what is there and gives the revision at which it was.
    async fn copy(&mut self) -> Done<i64> {
        let (mut key, range_end) = self.range();
        let mut revision = 0;
        loop {
            let page = RangeRequest { key, range_end: range_end.clone(), limit: PAGE, revision, ..RangeRequest::default() };
            let answer = self.from.range(page).await?;
            if revision == 0 {
                revision = answer.header.map_or(0, |header| header.revision);
            }
            let mut last = Bytes::new();
            for pair in &answer.kvs {
                let pair = pair.decode().map_err(failure::error)?;
                self.to.put(PutRequest { key: self.renamed(&pair.key), value: pair.value, ..PutRequest::default() }).await?;
                self.copied += 1;
                last = pair.key;
            }
            if !answer.more {
                return Ok(revision);
            }
            key = [last.as_ref(), &[0]].concat().into();
        }
    }

    async fn follow(&mut self, start_revision: i64) -> Done {
        let (key, range_end) = self.range();
        let mut watcher = self.from.watcher(WatchCreateRequest { key, range_end, start_revision, ..WatchCreateRequest::default() });
        let mut report = tokio::time::interval(REPORT);
        report.tick().await;
        loop {
            // `Watcher::next` keeps nothing that is lost when it is dropped between answers.
            let answer = tokio::select! {
                answer = watcher.next() => answer?,
                _ = report.tick() => {
                    print::line(self.copied.to_string())?;
                    continue;
                }
            };
            if answer.canceled && answer.compact_revision != 0 {
                return Err(failure::error("etcdserver: mvcc: required revision has been compacted"));
            }
            if answer.canceled {
                return Err(failure::error(format!("watch canceled: {}", answer.cancel_reason)));
            }
            let mut operations = Vec::new();
            let mut revision = 0;
            for event in &answer.events {
                let pair = event.kv.as_ref().map(|pair| pair.decode()).transpose().map_err(failure::error)?.unwrap_or_default();
                if pair.mod_revision != revision || operations.len() == self.max_ops {
                    self.send(std::mem::take(&mut operations)).await?;
                }
                revision = pair.mod_revision;
                let key = self.renamed(&pair.key);
                let request = match event.r#type() {
                    EventType::Put => Request::RequestPut(PutRequest { key, value: pair.value, ..PutRequest::default() }),
                    EventType::Delete => Request::RequestDeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() }),
                };
                operations.push(RequestOp { request: Some(request) });
            }
            self.send(operations).await?;
        }
    }

    async fn send(&mut self, success: Vec<RequestOp>) -> Done {
        if success.is_empty() {
            return Ok(());
        }
        self.copied += success.len() as u64;
        self.to.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
        Ok(())
    }
}
