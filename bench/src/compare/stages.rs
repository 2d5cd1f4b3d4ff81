//! What is measured, stage by stage: an empty member, one member with load, the same over mutual TLS, three members, many keys.

use super::{Run, Runner};
use crate::Failure;
use crate::load::{self, Plan, Probe, Workload};
use crate::member::{self, Cluster, Program};
use crate::process::Usage;
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a server put off is done by then: etcd commits its pages every 100 ms.
const SETTLE: Duration = Duration::from_millis(400);
/// How long an idle member is watched.
const IDLE: Duration = Duration::from_secs(5);

type Shape = fn(&mut Plan);

/// One line of the table: its name, the workload, what differs from the defaults.
struct Row {
    name: &'static str,
    workload: Workload,
    shape: Shape,
}

const fn row(name: &'static str, workload: Workload, shape: Shape) -> Row {
    Row { name, workload, shape }
}

fn rows() -> Vec<Row> {
    vec![
        row("put, 1 client, 256 B", Workload::Put, |p| (p.clients, p.connections, p.ops) = (1, 1, 2_000)),
        row("put, 100 clients, 256 B", Workload::Put, |_| ()),
        row("put, 100 clients, 256 B, fresh keys", Workload::Put, |p| p.fresh = true),
        row("put, 100 clients, 1 KiB", Workload::Put, |p| p.value_size = 1024),
        row("put, 1000 clients, 256 B", Workload::Put, |p| (p.clients, p.connections, p.ops) = (1000, 100, 40_000)),
        row("get, linearizable", Workload::Get, |p| p.ops = 40_000),
        row("get, serializable", Workload::Get, |p| (p.serializable, p.ops) = (true, 40_000)),
        row("txn, create", Workload::TxnCreate, |_| ()),
        row("txn, update", Workload::TxnUpdate, |_| ()),
        row("watch, 200 watchers, event", Workload::Watch, |p| {
            (p.watchers, p.connections, p.ops, p.rate, p.clients) = (200, 10, 1_000, 250.0, 32);
        }),
        row("lease keepalive", Workload::Lease, |p| p.ops = 40_000),
    ]
}

/// Reads the servers' counters at the edges of a run.
struct Meter<'a> {
    cluster: &'a Cluster,
    before: Usage,
    after: Usage,
    syncs: [Option<f64>; 2],
}

const SYNCS: &str = "etcd_disk_wal_fsync_duration_seconds_count";

impl Probe for Meter<'_> {
    fn begin(&mut self) -> Result<(), Failure> {
        self.syncs[0] = self.cluster.metric(SYNCS);
        self.before = self.cluster.usage()?;
        Ok(())
    }

    fn end(&mut self) -> Result<(), Failure> {
        std::thread::sleep(SETTLE);
        self.after = self.cluster.usage()?;
        self.syncs[1] = self.cluster.metric(SYNCS);
        Ok(())
    }
}

/// Runs a plan and bills the cluster for it.
fn measure(cluster: &Cluster, plan: &Plan) -> Result<BTreeMap<String, f64>, Failure> {
    let mut meter = Meter { cluster, before: Usage::default(), after: Usage::default(), syncs: [None; 2] };
    let report = load::run(plan, &mut meter)?;
    if report.ops == 0 || report.errors * 1000 > report.ops {
        return Err(format!("{} of {} failed: {}", report.errors, report.ops, report.first_error.unwrap_or_default()).into());
    }
    let used = meter.after - meter.before;
    let ops = report.ops as f64;
    let mut numbers = BTreeMap::from([
        ("ops".to_owned(), ops),
        ("errors".to_owned(), report.errors as f64),
        ("throughput".to_owned(), report.throughput),
        ("cpu_us_op".to_owned(), used.cpu_us / ops),
        ("p50_us".to_owned(), report.p50_us.into()),
        ("p99_us".to_owned(), report.p99_us.into()),
        ("write_bytes_op".to_owned(), used.write_bytes as f64 / ops),
        ("switches_op".to_owned(), used.switches as f64 / ops),
        ("rss_mib".to_owned(), cluster.memory()?.rss as f64 / 1024.0),
        ("peak_mib".to_owned(), cluster.memory()?.peak as f64 / 1024.0),
    ]);
    if let [Some(before), Some(after)] = meter.syncs {
        numbers.insert("wal_syncs_op".to_owned(), (after - before) / ops);
    }
    Ok(numbers)
}

impl Runner {
    /// All stages. A stage that fails leaves its error in the results, and the next one runs.
    pub(super) fn stages(&mut self) {
        self.empty();
        self.loaded("one member", 1, false);
        self.loaded("one member, mTLS", 1, true);
        self.loaded("three members", 3, false);
        self.large();
        self.syncs();
    }

    /// Keeps the numbers, or the error.
    fn record(&mut self, stage: &str, row: &str, server: &str, result: Result<BTreeMap<String, f64>, Failure>) {
        let (numbers, error) = match result {
            Ok(numbers) => (numbers, None),
            Err(e) => (BTreeMap::new(), Some(e.to_string())),
        };
        let run = Run { stage: stage.to_owned(), row: row.to_owned(), server: server.to_owned(), numbers, error };
        if let Err(e) = self.keep(&run) {
            eprintln!("quorate-bench: a result is lost: {e}");
        }
    }

    fn cluster(&self, program: &Program, which: usize, size: usize, secure: bool) -> Result<Cluster, Failure> {
        let dir = self.options.data.join(&program.name);
        // Left over from a run that was cut off.
        let _ = fs::remove_dir_all(&dir);
        Cluster::start(program, &dir, size, self.options.port + 20 * which as u16, secure.then_some(&self.tls))
    }

    fn empty(&mut self) {
        let (stage, row) = ("empty member", "idle");
        if !self.wants(stage, row) {
            return;
        }
        for _ in 0..self.pairs() {
            for which in 0..2 {
                let program = self.programs[which].clone();
                let result = (|| {
                    let began = Instant::now();
                    let cluster = self.cluster(&program, which, 1, false)?;
                    let start = began.elapsed();
                    std::thread::sleep(Duration::from_secs(1));
                    let before = cluster.usage()?;
                    std::thread::sleep(IDLE);
                    let used = cluster.usage()? - before;
                    let memory = cluster.memory()?;
                    let numbers = BTreeMap::from([
                        ("first_start_s".to_owned(), start.as_secs_f64()),
                        ("rss_mib".to_owned(), memory.rss as f64 / 1024.0),
                        ("peak_mib".to_owned(), memory.peak as f64 / 1024.0),
                        ("disk_mib".to_owned(), cluster.disk_bytes() as f64 / 1048576.0),
                        ("cpu_percent".to_owned(), used.cpu_us / IDLE.as_micros() as f64 * 100.0),
                        ("switches_s".to_owned(), used.switches as f64 / IDLE.as_secs_f64()),
                    ]);
                    cluster.remove()?;
                    Ok(numbers)
                })();
                self.record(stage, row, &program.name, result);
            }
        }
    }

    /// Both clusters run through the stage; only one of them has load at a time.
    fn loaded(&mut self, stage: &str, size: usize, secure: bool) {
        let rows: Vec<Row> = rows().into_iter().filter(|r| self.wants(stage, r.name)).collect();
        if rows.is_empty() {
            return;
        }
        let mut clusters: Vec<Result<Cluster, Failure>> = Vec::new();
        for which in 0..2 {
            let program = self.programs[which].clone();
            let started = self.cluster(&program, which, size, secure).and_then(|cluster| {
                let fill = Plan { clients: 4, connections: 2, ..member::plan(Workload::Fill, cluster.link()) };
                load::run(&fill, &mut ())?;
                Ok(cluster)
            });
            if let Err(e) = &started {
                self.record(stage, "start", &program.name, Err(e.to_string().into()));
            }
            clusters.push(started);
        }
        for r in &rows {
            for pair in 0..self.pairs() {
                for (which, cluster) in clusters.iter().enumerate() {
                    let Ok(cluster) = cluster else { continue };
                    let mut plan = member::plan(r.workload, cluster.link());
                    (r.shape)(&mut plan);
                    if self.options.quick {
                        plan.ops /= 4;
                    }
                    plan.seed = pair as u64
                        + 1
                        + self.pairs() as u64 * (1 + rows.iter().position(|x| x.name == r.name).unwrap_or(0) as u64);
                    let result = measure(cluster, &plan);
                    self.record(stage, r.name, &self.programs[which].name.clone(), result);
                }
            }
        }
        for cluster in clusters.into_iter().flatten() {
            if let Err(e) = cluster.remove() {
                eprintln!("quorate-bench: {e}");
            }
        }
    }

    /// Many keys: memory, disk, the first page, restarts.
    fn large(&mut self) {
        let stage = "many keys";
        let keys = self.options.keys.unwrap_or(if self.options.quick { 100_000 } else { 1_000_000 });
        if !self.wants(stage, "fill") && !self.wants(stage, "first page of 500") && !self.wants(stage, "restart") {
            return;
        }
        let mut clusters = Vec::new();
        for which in 0..2 {
            let program = self.programs[which].clone();
            let filled = (|| {
                let cluster = self.cluster(&program, which, 1, false)?;
                let fill = Plan {
                    clients: 8,
                    connections: 4,
                    key_space: keys,
                    seconds: 1200.0,
                    ..member::plan(Workload::Fill, cluster.link())
                };
                let before = cluster.usage()?;
                load::run(&fill, &mut ())?;
                std::thread::sleep(Duration::from_secs(2));
                let used = cluster.usage()? - before;
                let memory = cluster.memory()?;
                let numbers = BTreeMap::from([
                    ("keys".to_owned(), keys as f64),
                    ("cpu_us_op".to_owned(), used.cpu_us / keys as f64),
                    ("write_bytes_op".to_owned(), used.write_bytes as f64 / keys as f64),
                    ("rss_mib".to_owned(), memory.rss as f64 / 1024.0),
                    ("peak_mib".to_owned(), memory.peak as f64 / 1024.0),
                    ("disk_mib".to_owned(), cluster.disk_bytes() as f64 / 1048576.0),
                ]);
                Ok::<_, Failure>((cluster, numbers))
            })();
            match filled {
                Ok((cluster, numbers)) => {
                    self.record(stage, "fill", &program.name, Ok(numbers));
                    clusters.push((program, cluster));
                }
                Err(e) => self.record(stage, "fill", &program.name, Err(e)),
            }
        }
        let pairs = self.pairs();
        for _ in 0..pairs {
            for (program, cluster) in &clusters {
                let plan = Plan {
                    clients: 1,
                    connections: 1,
                    ops: if self.options.quick { 20 } else { 40 },
                    ..member::plan(Workload::Page, cluster.link())
                };
                let result = measure(cluster, &plan);
                self.record(stage, "first page of 500", &program.name, result);
            }
        }
        for _ in 0..pairs {
            for (program, cluster) in &mut clusters {
                let result = (|| {
                    let took = cluster.restart()?;
                    let cpu_s = cluster.usage()?.cpu_us / 1e6;
                    std::thread::sleep(Duration::from_secs(1));
                    let memory = cluster.memory()?;
                    Ok(BTreeMap::from([
                        ("restart_s".to_owned(), took.as_secs_f64()),
                        ("cpu_s".to_owned(), cpu_s),
                        ("rss_mib".to_owned(), memory.rss as f64 / 1024.0),
                        ("peak_mib".to_owned(), memory.peak as f64 / 1024.0),
                        ("disk_mib".to_owned(), cluster.disk_bytes() as f64 / 1048576.0),
                    ]))
                })();
                self.record(stage, "restart", &program.name, result);
            }
        }
        for (_, cluster) in clusters {
            if let Err(e) = cluster.remove() {
                eprintln!("quorate-bench: {e}");
            }
        }
    }

    /// Every sync call of a short run counted by strace, so that equal durability is shown and not claimed.
    fn syncs(&mut self) {
        let stage = "durability";
        for (name, clients) in [("syncs by strace, 1 client", 1usize), ("syncs by strace, 100 clients", 100)] {
            if !self.wants(stage, name) {
                continue;
            }
            for which in 0..2 {
                let program = self.programs[which].clone();
                let result = (|| {
                    let cluster = self.cluster(&program, which, 1, false)?;
                    let out = self.options.data.join("syncs.strace");
                    let pid = cluster.pids()[0];
                    let mut strace = Command::new("strace")
                        .args(["-f", "-c", "-e", "trace=fdatasync,fsync,sync_file_range,msync", "-o"])
                        .arg(&out)
                        .args(["-p", &pid.to_string()])
                        .stderr(Stdio::null())
                        .spawn()
                        .map_err(|e| format!("strace does not start: {e}"))?;
                    std::thread::sleep(Duration::from_millis(500));
                    let ops = if clients == 1 { 200 } else { 2_000 };
                    let plan = Plan { clients, connections: clients.min(10), ops, ..member::plan(Workload::Put, cluster.link()) };
                    let report = load::run(&plan, &mut ());
                    member::signal("INT", strace.id())?;
                    strace.wait()?;
                    let ops = report?.ops as f64;
                    let counted = fs::read_to_string(&out)?;
                    let calls: f64 = counted
                        .lines()
                        .filter(|l| l.ends_with("sync"))
                        .filter_map(|l| l.split_ascii_whitespace().nth(3)?.parse::<f64>().ok())
                        .sum();
                    cluster.remove()?;
                    Ok(BTreeMap::from([("puts".to_owned(), ops), ("sync_calls_op".to_owned(), calls / ops)]))
                })();
                self.record(stage, name, &program.name, result);
            }
        }
    }
}
