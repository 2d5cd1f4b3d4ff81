// Package rules has Prometheus' own parser and engine judge the alert rules of the operator's chart.
//
// Each case loads series, goes to a time, and says how many alerts the rule's expression gives there (its `for` is not
// waited out). A rule without a case of each kind, firing and quiet, fails the test.
package rules

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

const file = "../../../charts/quorate-operator/files/alerts.yaml"

// Three members of the cluster demo/kv; NAME{...} VALUES a line, one value a minute.
const members = `load 1m
`

func series(name string, values ...string) string {
	text := ""
	for i, member := range []string{"kv-0", "kv-1", "kv-2"} {
		if i < len(values) && values[i] != "" {
			text += "  " + name + `{namespace="demo",job="kv",pod="` + member + `",instance="` + member + `:2381"} ` + values[i] + "\n"
		}
	}
	return text
}

func one(name, labels, values string) string {
	return "  " + name + `{namespace="demo",job="kv",pod="kv-0",instance="kv-0:2381",` + labels + `} ` + values + "\n"
}

type example struct {
	about  string
	load   string
	minute int
	alerts int
}

const up, leader, id = "up", "etcd_server_has_leader", "etcd_server_id"

// peers has each member that answers tell of the list of members, VALUES of it being in there.
func peers(answer string, values ...string) string {
	text := ""
	for i, value := range values {
		text += "  etcd_network_known_peers" + fmt.Sprintf(`{namespace="demo",job="kv",pod="%s",instance="%s:2381",Local="1",Remote="%d"} `, answer, answer, i+1) + value + "\n"
	}
	return text
}

var listed = peers("kv-0", "1x60", "1x60", "1x60") + peers("kv-1", "1x60", "1x60", "1x60")

var whole = members + series(up, "1x60", "1x60", "1x60") + series(leader, "1x60", "1x60", "1x60") + series(id, "1x60", "1x60", "1x60") + listed

// kv-2 vanishes in minute 11: its scrapes fail and its other series end.
var twoLeft = members + series(up, "1x60", "1x60", "1x10 0x50") + series(leader, "1x60", "1x60", "1x10 stale") + series(id, "1x60", "1x60", "1x10 stale") + listed

// Its pod is gone altogether, so it is not even scraped.
var twoKnown = members + series(up, "1x60", "1x60", "1x10 stale") + series(leader, "1x60", "1x60", "1x10 stale") + series(id, "1x60", "1x60", "1x10 stale") + listed

// All three are down from minute 11 on; their pods are there.
var noneLeft = members + series(up, "1x10 0x300", "1x10 0x300", "1x10 0x300") + series(leader, "1x10 stale", "1x10 stale", "1x10 stale") + series(id, "1x10 stale", "1x10 stale", "1x10 stale")

// The cluster was put to sleep, or deleted, in minute 11.
var asleep = members + series(up, "1x10 stale", "1x10 stale", "1x10 stale") + series(leader, "1x10 stale", "1x10 stale", "1x10 stale") + series(id, "1x10 stale", "1x10 stale", "1x10 stale")

var examples = map[string][]example{
	"QuorateMemberUnreachable": {
		{"all there", whole, 30, 0},
		{"one is down", twoLeft, 30, 1},
		{"one has been down for three hours", members + series(up, "1x300", "1x300", "1x10 0x290") + series(id, "1x300", "1x300", "1x10 stale"), 200, 1},
		{"one never came up", members + series(up, "1x60", "1x60", "0x60") + series(id, "1x60", "1x60"), 30, 1},
		{"all have been down for three hours", noneLeft, 200, 1},
		{"asleep", asleep, 30, 0},
		{"something else is down", whole + `  up{namespace="demo",job="web",pod="web-0",instance="web-0:80"} 0x60` + "\n", 30, 0},
	},
	"QuorateAllUnreachable": {
		{"all there", whole, 30, 0},
		{"one is down", twoLeft, 30, 0},
		{"all are down", noneLeft, 30, 1},
		{"all have been down for three hours", noneLeft, 200, 1},
		{"asleep", asleep, 30, 0},
		{"something else is down", whole + `  up{namespace="demo",job="web",pod="web-0",instance="web-0:80"} 0x60` + "\n", 30, 0},
	},
	"QuorateNoLeader": {
		{"all see one", whole, 30, 0},
		{"two see none", members + series(leader, "0x60", "0x60", "1x60"), 30, 2},
	},
	"QuorateQuorumAtRisk": {
		{"all there", whole, 30, 0},
		{"one of three is down", twoLeft, 30, 1},
		{"one of three is gone", twoKnown, 30, 1},
		{"a lone member has no majority to lose", members + series(leader, "1x60") + series(id, "1x60"), 30, 0},
		{"scaled from three to one just now", members + series(leader, "1x60", "1x10 stale", "1x10 stale") + series(id, "1x60", "1x10 stale", "1x10 stale") + peers("kv-0", "1x60", "1x10 stale", "1x10 stale"), 30, 0},
		{"scaled from five to three just now", members + series(leader, "1x60", "1x60", "1x60") + series(id, "1x60", "1x60", "1x60") + `  etcd_server_id{namespace="demo",job="kv",pod="kv-3"} 1x10 stale
  etcd_server_id{namespace="demo",job="kv",pod="kv-4"} 1x10 stale
` + peers("kv-0", "1x60", "1x60", "1x60", "1x10 stale", "1x10 stale"), 30, 0},
	},
	"QuorateLeaderChanges": {
		{"one in an hour", members + series("etcd_server_leader_changes_seen_total", "1x30 2x30"), 40, 0},
		{"one a minute", members + series("etcd_server_leader_changes_seen_total", "0+1x60"), 40, 1},
	},
	"QuorateProposalsFail": {
		{"none", members + series("etcd_server_proposals_failed_total", "3x60"), 40, 0},
		{"six a minute", members + series("etcd_server_proposals_failed_total", "0+6x60"), 40, 1},
	},
	"QuorateLogSyncSlow": {
		{"fast", members + one("etcd_disk_wal_fsync_duration_seconds_bucket", `le="0.008"`, "0+100x60") + one("etcd_disk_wal_fsync_duration_seconds_bucket", `le="1.024"`, "0+100x60") + one("etcd_disk_wal_fsync_duration_seconds_bucket", `le="+Inf"`, "0+100x60"), 40, 0},
		{"slow", members + one("etcd_disk_wal_fsync_duration_seconds_bucket", `le="0.008"`, "0x60") + one("etcd_disk_wal_fsync_duration_seconds_bucket", `le="1.024"`, "0+100x60") + one("etcd_disk_wal_fsync_duration_seconds_bucket", `le="+Inf"`, "0+100x60"), 40, 1},
	},
	"QuorateRequestsFail": {
		{"clients' own faults", members + one("grpc_server_handled_total", `grpc_service="etcdserverpb.KV",grpc_code="OK"`, "0+100x60") + one("grpc_server_handled_total", `grpc_service="etcdserverpb.KV",grpc_code="Canceled"`, "0+100x60"), 40, 0},
		{"one in ten", members + one("grpc_server_handled_total", `grpc_service="etcdserverpb.KV",grpc_code="OK"`, "0+90x60") + one("grpc_server_handled_total", `grpc_service="etcdserverpb.KV",grpc_code="Unavailable"`, "0+10x60"), 40, 1},
	},
	"QuorateQuotaNear": {
		{"half", members + series("quorate_quota_usage_bytes", "50x60") + series("etcd_server_quota_backend_bytes", "100x60"), 30, 0},
		{"nine tenths", members + series("quorate_quota_usage_bytes", "90x60") + series("etcd_server_quota_backend_bytes", "100x60"), 30, 1},
		{"no quota", members + series("quorate_quota_usage_bytes", "90x60") + series("etcd_server_quota_backend_bytes", "0x60"), 30, 0},
	},
	"QuorateVolumeFilling": {
		{"half", volume("50x60"), 30, 0},
		{"nearly full", volume("5x60"), 30, 1},
		{"nearly full, of something else", members + `  kubelet_volume_stats_available_bytes{namespace="other",persistentvolumeclaim="data-web-0"} 5x60
  kubelet_volume_stats_capacity_bytes{namespace="other",persistentvolumeclaim="data-web-0"} 100x60
` + series(id, "1x60"), 30, 0},
	},
	"QuorateHistoryNotCompacted": {
		{"compacted", members + series("etcd_debugging_mvcc_current_revision", "30000000x60") + series("etcd_debugging_mvcc_compact_revision", "29000000x60"), 30, 0},
		{"not", members + series("etcd_debugging_mvcc_current_revision", "30000000x60") + series("etcd_debugging_mvcc_compact_revision", "0x60"), 30, 1},
	},
	"QuorateLearnerStays": {
		{"voters", members + series("etcd_server_is_learner", "0x60", "0x60", "0x60"), 30, 0},
		{"a learner", members + series("etcd_server_is_learner", "0x60", "0x60", "1x60"), 30, 1},
	},
	"QuorateOperatorAbsent": {
		{"one works", members + `  quorate_operator_leader{namespace="ops",pod="operator-a"} 1x60` + "\n" + `  quorate_operator_leader{namespace="ops",pod="operator-b"} 0x60` + "\n", 30, 0},
		{"two wait", members + `  quorate_operator_leader{namespace="ops",pod="operator-a"} 0x60` + "\n" + `  quorate_operator_leader{namespace="ops",pod="operator-b"} 0x60` + "\n", 30, 1},
		{"none is there", whole, 30, 1},
	},
	"QuorateOperatorFails": {
		{"conflicts", members + `  quorate_operator_reconciles_total{namespace="ops",pod="operator-a",outcome="conflict"} 0+9x60` + "\n", 30, 0},
		{"errors", members + `  quorate_operator_reconciles_total{namespace="ops",pod="operator-a",outcome="error"} 0+1x60` + "\n", 30, 1},
	},
	"QuorateClusterStalled": {
		{"goes on", members + condition("Stalled", "0x60"), 30, 0},
		{"for a moment", members + condition("Stalled", "0x20 1x5 0x60"), 30, 0},
		{"waits", members + condition("Stalled", "1x60"), 30, 1},
	},
	"QuorateCertificatesNotReady": {
		{"ready", members + condition("CertificatesReady", "1x60"), 30, 0},
		{"not renewed", members + condition("CertificatesReady", "0x60"), 30, 1},
	},
	"QuorateBackupRefuted": {
		{"all proved", members + `  quorate_operator_backup_verifications_total{pod="operator-a",outcome="verified"} 0+1x60` + "\n", 30, 0},
		{"one refuted", members + `  quorate_operator_backup_verifications_total{pod="operator-a",outcome="failed"} 0x20 1x40` + "\n", 30, 1},
	},
	"QuorateBackupBehind": {
		{"up to date", members + `  quorate_operator_backup_deltas_covered_timestamp_seconds{namespace="demo",schedule="nightly"} 0+60x60` + "\n", 30, 0},
		{"stands still", members + `  quorate_operator_backup_deltas_covered_timestamp_seconds{namespace="demo",schedule="nightly"} 60x60` + "\n", 30, 1},
	},
	"QuorateBackupMissing": {
		{"the next one is due in an hour", members + `  quorate_operator_backup_due_timestamp_seconds{namespace="demo",schedule="nightly"} 5400x200` + "\n", 30, 0},
		{"one is being made", members + `  quorate_operator_backup_due_timestamp_seconds{namespace="demo",schedule="nightly"} 5400x200` + "\n", 120, 0},
		{"none has been made for more than two hours", members + `  quorate_operator_backup_due_timestamp_seconds{namespace="demo",schedule="nightly"} 600x200` + "\n", 140, 1},
	},
}

func condition(kind, values string) string {
	return `  quorate_operator_cluster_condition{namespace="demo",cluster="kv",condition="` + kind + `"} ` + values + "\n"
}

func volume(left string) string {
	return members + `  kubelet_volume_stats_available_bytes{namespace="demo",persistentvolumeclaim="data-kv-0"} ` + left + `
  kubelet_volume_stats_capacity_bytes{namespace="demo",persistentvolumeclaim="data-kv-0"} 100x60
` + series(id, "1x60", "1x60", "1x60")
}

func TestAlerts(t *testing.T) {
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	groups, errs := rulefmt.Parse(content, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if groups == nil {
		t.FailNow()
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 100000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute})
	defer engine.Close()
	tried := 0
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			cases := examples[rule.Alert]
			fires, quiet := false, false
			for _, c := range cases {
				fires, quiet = fires || c.alerts > 0, quiet || c.alerts == 0
				t.Run(rule.Alert+"/"+c.about, func(t *testing.T) { check(t, engine, rule.Expr, c) })
			}
			if !fires || !quiet {
				t.Errorf("%s has no example that fires and one that does not", rule.Alert)
			}
			tried++
		}
	}
	if tried != len(examples) {
		t.Errorf("%d rules, but examples for %d", tried, len(examples))
	}
}

func check(t *testing.T, engine *promql.Engine, expression string, c example) {
	storage := promqltest.LoadedStorage(t, c.load)
	defer storage.Close()
	at := time.Unix(0, 0).Add(time.Duration(c.minute) * time.Minute)
	query, err := engine.NewInstantQuery(context.Background(), storage, nil, expression, at)
	if err != nil {
		t.Fatal(err)
	}
	defer query.Close()
	result := query.Exec(context.Background())
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	alerts, err := result.Vector()
	if err != nil {
		t.Fatal(err)
	}
	if len(alerts) != c.alerts {
		t.Errorf("%d alerts, want %d: %v", len(alerts), c.alerts, alerts)
	}
	for _, alert := range alerts {
		if math.IsNaN(alert.F) {
			t.Errorf("not a number: %v", alert)
		}
	}
}
