#!/usr/bin/env bash
# charts.sh           lints the charts, compares their renderings with those kept in charts/, and tries values that must be refused
# charts.sh --write   keeps the renderings anew
#
# Needs Helm, which tests/lab/build.sh builds. Each charts/CHART.CASE.values.yaml has a charts/CHART.CASE.golden.yaml beside it;
# the definitions are left out of the renderings, a test of its own compares them. tests/e2e/run.sh also has a real API server
# judge them.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lab/check.sh"
LAB_BIN=${LAB_BIN:-$("$here/../lab/build.sh")} || exit 1
helm() { "$LAB_BIN/helm" "$@"; }
charts=$here/../../charts

# render CHART VALUES: as for a release `trial` in the namespace `ops`.
render() {
  local own=()
  [ "$1" != quorate-operator ] || own=(--set crds.enabled=false)
  helm template trial "$charts/$1" --namespace ops --values "$2" "${own[@]}"
}
as_kept() {
  local case=$1 chart
  chart=$(basename "$case"); chart=${chart%%.*}
  diff -u "$case.golden.yaml" <(render "$chart" "$case.values.yaml")
}
# refused TEXT CHART ARGUMENT...: rendering fails and says TEXT.
refused() {
  local text=$1 chart=$2 output
  shift 2
  if output=$(helm template trial "$charts/$chart" "$@" 2>&1); then echo "not refused"; return 1; fi
  grep -qF -- "$text" <<<"$output" || { echo "$output"; return 1; }
}
definitions() { helm template trial "$charts/quorate-operator" "$@" | grep -c '^kind: CustomResourceDefinition'; }
definitions_kept() {
  local want kept
  want=$(find "$charts/../crds" -name '*.yaml' | wc -l)
  kept=$(helm template trial "$charts/quorate-operator" | grep -c 'helm.sh/resource-policy: keep')
  [ "$(definitions)" = "$want" ] && [ "$kept" = "$want" ] &&
    [ "$(helm template trial "$charts/quorate-operator" --set crds.keep=false | grep -c 'helm.sh/resource-policy: keep')" = 0 ] &&
    [ "$(definitions --set crds.enabled=false)" = 0 ]
}
# The README's table and values.yaml name the same values.
readme_lists_values() {
  local chart=$1 key
  while read -r key; do
    grep -qE "^\| \`$key[.\`]" "$charts/$chart/README.md" || { echo "README.md does not list $key"; return 1; }
  done < <(sed -n 's/^\([a-zA-Z]*\):.*/\1/p' "$charts/$chart/values.yaml")
}

# By the status the operator is told which volumes to keep and to claim: whoever may edit a namespace must not write it.
editors_leave_the_status() {
  local rules
  rules=$(helm template trial "$charts/quorate-operator" -s templates/rbac.yaml | sed -n '/^  name: .*-edit$/,/^---/p') &&
    grep -q 'quorateclusters/scale' <<<"$rules" && ! grep -qE '"\*"|status' <<<"$rules"
}

release_refused() { grep -q 'set nameOverride' <(helm template "$1" "$charts/quorate-cluster" 2>&1); }
# What is said at the end of an installation. A cluster with certificates of somebody's own has no Secret for clients.
notes() { helm install trial "$charts/quorate-cluster" -n ops --dry-run=client "$@" | sed -n '/^NOTES:/,$p'; }
notes_name_secrets_that_are_there() {
  local own=(--set "tls.mode=Secret,tls.secretRefs.server.name=a,tls.secretRefs.peer.name=b,tls.secretRefs.client.name=c")
  grep -q trial-client-tls <(notes) && ! grep -q trial-client-tls <(notes "${own[@]}") && grep -q https: <(notes "${own[@]}") && grep -q http: <(notes --set tls.mode=Disabled)
}
notes_wait_for_what_comes() { grep -q condition=Ready <(notes) && ! grep -q condition=Ready <(notes --set replicas=0); }
# taken CHART ARGUMENT...: rendering succeeds.
taken() { local chart=$1; shift; helm template trial "$charts/$chart" "$@"; }
# A label that comes twice is refused by server-side apply and by tools that read what is rendered.
labels_come_once() {
  local rendered
  rendered=$(helm template trial "$charts/quorate-operator" --set podMonitor.enabled=true,prometheusRule.enabled=true,dashboard.enabled=true --set-json "podLabels=$1,podMonitor.labels=$1,prometheusRule.labels=$1,dashboard.labels=$1" &&
    echo --- && helm template trial "$charts/quorate-cluster" --set keep=true --set-json "labels=$1" --set 'annotations.helm\.sh/resource-policy=keep') || return 1
  # A key of a map stands once between two lines that are less indented.
  awk '/^ *[a-z.]+[.][a-z]+\/[a-z-]+:/ { if (seen[$1]++) { print "twice: " $0; bad = 1 } next } { delete seen } END { exit bad }' <<<"$rendered"
}
# The Deployment's pods are those that it selects, whatever labels somebody adds.
selector_holds() {
  local rendered
  rendered=$(helm template trial "$charts/quorate-operator" -s templates/deployment.yaml --set-json 'podLabels={"app.kubernetes.io/name":"mine"}') && ! grep -q mine <<<"$rendered"
}
# Two releases have two leases, also in one namespace.
lease_of() { helm template "$1" "$charts/quorate-operator" -n ops -s templates/deployment.yaml | grep -A1 QUORATE_LEASE | tail -n 1; }
leases_differ() { [ -n "$(lease_of one)" ] && [ "$(lease_of one)" != "$(lease_of two)" ] && [ "$(lease_of quorate-operator)" = "              value: quorate-operator" ]; }
# Without a lease the former pod has to be gone first.
one_at_a_time() { grep -qx '  strategy: {type: Recreate}' <(helm template trial "$charts/quorate-operator" -s templates/deployment.yaml --set leaderElection=false); }

if [ "${1:-}" = --write ]; then
  for values in "$here"/charts/*.values.yaml; do
    case=${values%.values.yaml} chart=$(basename "$values"); chart=${chart%%.*}
    render "$chart" "$values" > "$case.golden.yaml" || exit 1
  done
  exit
fi
for chart in quorate-operator quorate-cluster; do
  check "$chart: lint" helm lint --strict "$charts/$chart"
  check "$chart: the README lists its values" readme_lists_values "$chart"
done
for values in "$here"/charts/*.values.yaml; do
  case=${values%.values.yaml}
  check "$(basename "$case") renders as kept" as_kept "$case"
done
check "definitions come with the operator, kept unless told otherwise" definitions_kept
check "who edits a namespace does not write the status" editors_leave_the_status
check "refused: a value that nobody reads" refused "additional properties 'replica'" quorate-operator --set replica=2
check "refused: two operators without a lease" refused leaderElection quorate-operator --set replicas=2,leaderElection=false
check "refused: a digest that is none" refused digest quorate-operator --set image.digest=latest
check "refused: no service account at all" refused 'serviceAccount.name is needed' quorate-operator --set serviceAccount.create=false
check "refused: a field that a QuorateCluster does not have" refused "additional properties 'sise'" quorate-cluster --set storage.sise=1Gi
check "refused: an unknown policy" refused whenDeleted quorate-cluster --set storage.whenDeleted=Maybe
check "refused: a name that is too long" refused 'maxLength' quorate-cluster --set nameOverride=a-name-that-is-longer-than-forty-characters-is
check "refused: a registry with a scheme" refused registry quorate-operator --set image.registry=https://mirror.example.com
check "refused: environment that the chart sets itself" refused extraEnv quorate-operator --set 'extraEnv[0].name=RUST_LOG,extraEnv[0].value=debug'
check "refused: a name that no object may have" refused fullnameOverride quorate-operator --set fullnameOverride=Not_This
for value in replicas=2 replicas=-1 storage.size=abc storage.size=-1Gi storage.size=0Gi tls.mode=Secret tls.mode=CertManager tls.issuerRef.name=ca image.digest=latest 'config.extraArgs={--data-dir=/x}' \
  config.autoCompaction.mode=periodic,config.autoCompaction.retention=soon bootstrap.fromVolumes=false bootstrap.restore.location=a/ \
  bootstrap.restore.backupRef.name=b,bootstrap.restore.time=yesterday nameOverride=kv.x nameOverride=1kv; do
  check "refused: $value, as by the API server" refused "${value%%[.=]*}" quorate-cluster --set "$value"
done
check "refused: a release whose name cannot be a cluster's" release_refused 1kv
for value in replicas=0 storage.size=1.5Ti storage.size=100e9 tls.mode=CertManager,tls.issuerRef.name=ca 'config.extraArgs={--pre-vote=true}' bootstrap.fromVolumes=true \
  bootstrap.restore.backupRef.name=b,bootstrap.restore.time=2026-11-21T10:15:00Z bootstrap.restore.storeRef.name=s,bootstrap.restore.location=a/ nameOverride=kv-1 pod.overrides.securityContext.fsGroup=null; do
  check "taken: $value" taken quorate-cluster --set "$value"
done
for value in podMonitor.interval=1m30s image.registry=mirror.example.com:5000/team 'logLevel=info\,kube=warn' podSecurityContext.runAsUser=null; do
  check "taken: $value" taken quorate-operator --set "$value"
done
check "the notes name Secrets that are there" notes_name_secrets_that_are_there
check "the notes do not wait for a cluster that sleeps" notes_wait_for_what_comes
check "no label comes twice" labels_come_once '{"team":"a","app.kubernetes.io/name":"mine","app.kubernetes.io/part-of":"mine","helm.sh/chart":"mine"}'
check "the Deployment selects its own pods" selector_holds
check "each release has a lease of its own" leases_differ
check "without a lease one pod goes before the next comes" one_at_a_time
verdict
