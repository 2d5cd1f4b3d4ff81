//! The instruments: counters, gauges, histograms and families of them by label; each can print itself in Prometheus' text form.
//!
//! All are safe to share and cost a relaxed atomic or two. A family looks a member up under a lock: keep the member where it is used often.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Only goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Takes over a total counted elsewhere; the caller sees to it that it never falls.
    pub fn set(&self, total: u64) {
        self.0.store(total, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down; a float.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    pub fn add(&self, by: f64) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| Some((f64::from_bits(bits) + by).to_bits()));
    }

    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// Counts values by upper bound.
#[derive(Debug)]
pub struct Histogram {
    bounds: Box<[f64]>,
    /// One more than bounds: the last takes what is above all of them.
    counts: Box<[AtomicU64]>,
    sum: Gauge,
}

impl Histogram {
    /// `count` bounds from `start`, each `factor` times the one before.
    pub fn exponential(start: f64, factor: f64, count: usize) -> Self {
        Self::with_bounds((0..count).map(|i| start * factor.powi(i as i32)).collect())
    }

    /// Rising bounds.
    pub fn with_bounds(bounds: Vec<f64>) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds: bounds.into(), counts, sum: Gauge::default() }
    }

    pub fn observe(&self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.add(value);
    }

    pub fn observe_seconds(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    /// How many values were observed.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }
}

/// Instruments of one name, told apart by label values.
#[derive(Debug)]
pub struct Family<T> {
    labels: &'static [&'static str],
    make: fn() -> T,
    members: Mutex<BTreeMap<Vec<String>, Arc<T>>>,
}

impl<T> Family<T> {
    pub fn new(labels: &'static [&'static str], make: fn() -> T) -> Self {
        Self { labels, make, members: Mutex::default() }
    }

    /// The member with these values, in the order of the labels; made when it is new.
    pub fn with(&self, values: &[&str]) -> Arc<T> {
        debug_assert_eq!(values.len(), self.labels.len());
        let key = values.iter().map(|v| (*v).to_owned()).collect();
        self.members.lock().entry(key).or_insert_with(|| Arc::new((self.make)())).clone()
    }

    /// Shows an instrument that is kept elsewhere as the member with these values.
    pub fn show(&self, values: &[&str], member: Arc<T>) {
        let key = values.iter().map(|v| (*v).to_owned()).collect();
        self.members.lock().insert(key, member);
    }

    /// Forgets all members: for a family whose one member names a current value.
    pub fn clear(&self) {
        self.members.lock().clear();
    }
}

/// Something that prints its samples under a name.
pub trait Samples {
    /// `counter`, `gauge` or `histogram`.
    const KIND: &'static str;
    /// Appends the sample lines; `labels` is empty or `a="b",c="d"`.
    fn write(&self, out: &mut String, name: &str, labels: &str);
}

fn sample(out: &mut String, name: &str, labels: &str, value: f64) {
    let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
    let _ = writeln!(out, "{name}{open}{labels}{close} {}", number(value));
}

/// As Prometheus reads numbers.
fn number(value: f64) -> String {
    match value {
        v if v == f64::INFINITY => "+Inf".into(),
        v if v.fract() == 0.0 && v.abs() < 1e15 => format!("{v:.0}"),
        v if v != 0.0 && (v.abs() >= 1e15 || v.abs() < 1e-4) => format!("{v:e}"),
        v => v.to_string(),
    }
}

impl Samples for Counter {
    const KIND: &'static str = "counter";
    fn write(&self, out: &mut String, name: &str, labels: &str) {
        sample(out, name, labels, self.get() as f64);
    }
}

impl Samples for Gauge {
    const KIND: &'static str = "gauge";
    fn write(&self, out: &mut String, name: &str, labels: &str) {
        sample(out, name, labels, self.get());
    }
}

impl Samples for Histogram {
    const KIND: &'static str = "histogram";
    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (bound, count) in self.bounds.iter().chain([&f64::INFINITY]).zip(&self.counts) {
            total += count.load(Ordering::Relaxed);
            sample(out, &format!("{name}_bucket"), &format!("{labels}{comma}le=\"{}\"", number(*bound)), total as f64);
        }
        sample(out, &format!("{name}_sum"), labels, self.sum.get());
        // The same total as the last bucket's, whatever was observed meanwhile.
        sample(out, &format!("{name}_count"), labels, total as f64);
    }
}

impl<T: Samples> Samples for Family<T> {
    const KIND: &'static str = T::KIND;
    fn write(&self, out: &mut String, name: &str, _: &str) {
        for (values, member) in &*self.members.lock() {
            let pair = |(label, value): (&&str, &String)| format!("{label}=\"{}\"", escape(value));
            let labels: Vec<String> = self.labels.iter().zip(values).map(pair).collect();
            member.write(out, name, &labels.join(","));
        }
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each instrument prints what Prometheus reads.
    #[test]
    fn text_form() {
        let mut out = String::new();
        let family = Family::new(&["a", "b"], Counter::default);
        family.with(&["x", "say \"hi\"\n"]).add(3);
        family.write(&mut out, "c_total", "");
        let histogram = Histogram::exponential(0.5, 2.0, 2);
        [0.5, 0.6, 7.0].into_iter().for_each(|v| histogram.observe(v));
        histogram.write(&mut out, "h", "k=\"v\"");
        let gauge = Gauge::default();
        gauge.add(1.5);
        gauge.add(-2.0);
        gauge.write(&mut out, "g", "");
        let expected = "c_total{a=\"x\",b=\"say \\\"hi\\\"\\n\"} 3\nh_bucket{k=\"v\",le=\"0.5\"} 1\nh_bucket{k=\"v\",le=\"1\"} 2\n\
                        h_bucket{k=\"v\",le=\"+Inf\"} 3\nh_sum{k=\"v\"} 8.1\nh_count{k=\"v\"} 3\ng -0.5\n";
        assert_eq!(out, expected);
    }
}
