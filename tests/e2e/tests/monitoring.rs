//! Alerts and dashboard ask for metrics that exist. (Their expressions are parsed by Prometheus' own parser in
//! tests/e2e/rules, where Go is there.)

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The metric names in an expression: words with a known beginning, without what a histogram or a summary appends.
fn metrics(expression: &str) -> BTreeSet<String> {
    expression
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| ["etcd_", "grpc_server_", "process_", "quorate_"].iter().any(|start| word.starts_with(start)))
        .map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_string())
        .collect()
}

/// Every name that a member shows, by its own catalogue, where a leading `-` marks what etcd shows and a member does not; those that
/// etcd has not; and those of the operator, which are registered under a prefix, and of which counters end in `_total`.
fn known() -> BTreeSet<String> {
    let catalogue = text("server/src/telemetry/etcd_names.txt");
    let shown = catalogue.lines().filter(|line| !line.starts_with(['#', '-']));
    let members = text("server/src/telemetry/metrics.rs");
    let own = members.split('"').filter(|word| word.starts_with("quorate_")).map(str::to_string);
    let operator = text("operator/src/metrics.rs");
    let registered = operator.split("registry.register(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let operators = registered.flat_map(|name| [format!("quorate_operator_{name}"), format!("quorate_operator_{name}_total")]);
    shown.filter_map(|line| line.split(' ').next()).map(str::to_string).chain(own).chain(operators).collect()
}

fn all_known(place: &str, expression: &str, known: &BTreeSet<String>) {
    let unknown: Vec<_> = metrics(expression).difference(known).cloned().collect();
    assert!(unknown.is_empty(), "{place} asks for {unknown:?}, which no member has: {expression}");
    assert_eq!(expression.matches('(').count(), expression.matches(')').count(), "{place}: {expression}");
}

#[test]
fn alerts_ask_for_what_exists() {
    let rules: Value = serde_yaml_ng::from_str(&text("charts/quorate-operator/files/alerts.yaml")).unwrap();
    let known = known();
    let mut names = BTreeSet::new();
    for rule in rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        let name = rule["alert"].as_str().unwrap();
        assert!(names.insert(name.to_string()), "{name} is there twice");
        all_known(name, rule["expr"].as_str().unwrap(), &known);
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
        for field in ["summary", "description"] {
            assert!(rule["annotations"][field].is_string(), "{name} has no {field}");
        }
    }
    assert!(names.len() >= 8);
    let page = text("docs/monitoring.md");
    let told: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| Quorate")?.split(' ').next())
        .map(|name| format!("Quorate{name}"))
        .collect();
    assert_eq!(told, names, "docs/monitoring.md lists other alerts");
}

#[test]
fn the_dashboard_asks_for_what_exists() {
    let dashboard: Value = serde_json::from_str(&text("charts/quorate-operator/files/dashboard.json")).unwrap();
    let (known, mut ids) = (known(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is there twice");
        for target in panel["targets"].as_array().unwrap_or(&Vec::new()) {
            all_known(title, target["expr"].as_str().unwrap(), &known);
        }
    }
}
