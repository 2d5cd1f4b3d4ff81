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
verdict
