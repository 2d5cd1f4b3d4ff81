#!/usr/bin/env bash
# cost.sh [MANY]     what the operator costs while nothing happens: its memory, processor time and calls to the API server, with one
#                    idle cluster and with MANY (default 100), each of one member.
#
# Brings up the lab with three nodes and an API server that keeps an audit log, from which the operator's calls are counted. Prints a
# table. The status is not 0 when the operator takes more than the bounds below. Needs what run.sh needs.
#
#   BIN            folder of the release programs (default target/release)
#   COST_SECONDS   how long is measured, each time (default 60)
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
many=${1:-100} seconds=${COST_SECONDS:-60} tier=short
# Bounds: resident MiB of the operator, and its calls a second for each idle cluster.
most_memory=128 most_calls=2
. "$here/../lab/check.sh"
BIN=$(realpath "${BIN:-$here/../../target/release}") E2E=$BIN/e2e
export LAB_NODES=3 LAB_RUN=${LAB_RUN:-$(mktemp -d /var/tmp/quorate-cost.XXXXXX)} LAB_SERVER=$BIN/quorate
LAB_BIN=${LAB_BIN:-$("$here/../lab/build.sh")} || exit 1
export LAB_BIN
work=$(mktemp -d /var/tmp/quorate-cost-work.XXXXXX)
audit=$work/audit.log
printf 'apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived, ResponseStarted]\nrules: [{level: Metadata, users: ["system:serviceaccount:quorate-system:quorate-operator"]}, {level: None}]\n' > "$work/policy.yaml"
export LAB_API_FLAGS="--audit-policy-file=$work/policy.yaml --audit-log-path=$audit"
. "$here/ask.sh"
. "$here/steps.sh"
trap 'lab down; rm -rf --one-file-system "$LAB_RUN" "$work"' EXIT

images() {
  local i
  "$here/../../scripts/dist.sh" "$BIN" "$work/dist" && "$here/../../scripts/pack-image.py" localhost/quorate:e2e "$work/dist" "$work/quorate.tar" || return 1
  for i in 1 2 3; do lab node "$i" exec ctr -n k8s.io images import "$work/quorate.tar" || return 1; done
}
# clusters FROM TO
clusters() {
  local i
  for i in $(seq "$1" "$2"); do
    printf -- '---\napiVersion: quorate.io/v1alpha1\nkind: QuorateCluster\nmetadata: {name: idle-%s}\nspec: {replicas: 1, storage: {size: 1Gi}, resources: {requests: {cpu: 1m, memory: 16Mi}}}\n' "$i"
  done | k apply -f - >/dev/null && within 900 is "$2" ready_clusters
}
ready_clusters() { k get quorateclusters -o json | jq '[.items[] | select(.status.operation == null) | select(any(.status.conditions[]?; .type == "Ready" and .status == "True"))] | length'; }
# The operator's process, as its node sees it.
of_operator() {
  local node
  node=$(lab exec kubectl -n quorate-system get pods -l app.kubernetes.io/name=quorate-operator -o 'jsonpath={.items[0].spec.nodeName}') &&
    lab node "${node#node}" exec bash -c 'for p in /proc/[0-9]*; do [ "$(tr "\0" " " < "$p/cmdline" 2>/dev/null | cut -d " " -f 1-2)" = "/usr/bin/quorate-operator run" ] && { '"$1"'; break; }; done'
}
memory() { of_operator 'awk "/^VmRSS/ {print int(\$2 / 1024)}" "$p/status"'; }
ticks() { of_operator 'awk "{print \$14 + \$15}" "$p/stat"'; }
calls() { wc -l < "$audit"; }
# measure COUNT: waits until what was begun has settled, then counts.
measure() {
  local before after ticks_before ticks_after mib
  sleep 90
  before=$(calls) ticks_before=$(ticks)
  sleep "$seconds"
  after=$(calls) ticks_after=$(ticks) mib=$(memory)
  tail -n "$((after - before))" "$audit" | jq -r '"\(.verb) \(.objectRef.resource)"' | sort | uniq -c | sort -rn > "$work/calls-$1"
  awk -v n="$1" -v s="$seconds" -v m="$mib" -v c="$((after - before))" -v t="$((ticks_after - ticks_before))" -v hz="$(getconf CLK_TCK)" \
    'BEGIN { printf "| %d | %d | %.1f | %.2f | %.3f |\n", n, m, 100 * t / hz / s, c / s, c / s / n }' >> "$work/rows"
  [ "$mib" -le "$most_memory" ] && awk -v c="$((after - before))" -v s="$seconds" -v n="$1" -v most="$most_calls" 'BEGIN { exit !(c / s / n <= most) }'
}

check "up: three nodes, their API server on Quorate" lab up
check "the image is packed and imported" images
check "namespaces" namespaces
check "helm installs the operator" install_operator
check "one cluster" clusters 1 1
check "  its cost is within bounds" measure 1
cat "$work/calls-1"
check "$many clusters" clusters 2 "$many"
check "  their cost is within bounds" measure "$many"
cat "$work/calls-$many"
echo
echo '| idle clusters | memory, MiB | processor, % of one | API calls a second | a second and cluster |'
echo '|---|---|---|---|---|'
cat "$work/rows"
verdict
