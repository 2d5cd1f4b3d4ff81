#!/usr/bin/env bash
# smoke.sh     brings up a lab of LAB_NODES nodes (default 3) and tries on it what end-to-end tests of an operator lean on.
#
# LAB_SERVER, LAB_MEMBERS, LAB_TLS, LAB_STORE as in lab.sh put another store under it. With 0 nodes only the control plane is
# tried, with 1 or 2 what needs no third. Prints a line per check and "N passed, N failed"; the status is 0 only if none failed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/check.sh"
export LAB_NODES=${LAB_NODES:-3} LAB_RUN=${LAB_RUN:-$(mktemp -d /var/tmp/quorate-smoke.XXXXXX)}
LAB_BIN=${LAB_BIN:-$("$here/build.sh")} || exit 1
export LAB_BIN
lab() { "$here/lab.sh" "$@"; }
k() { lab exec kubectl "$@"; }
trap 'lab down' EXIT

# Every fact is asked in one function, so that checks read as sentences.
rolled_out() { k rollout status statefulset/web --timeout=60s; }
nodes_used() { k get pods -l app=web -o 'jsonpath={range .items[*]}{.spec.nodeName}{"\n"}{end}' | sort -u | wc -l; }
node_of() { k get pod "$1" -o 'jsonpath={.spec.nodeName}'; }
number_of_node() { local node; node=$(node_of "$1") && echo "${node#node}"; }
uid_of() { k get pod "$1" -o 'jsonpath={.metadata.uid}'; }
starts_of() { k exec "$1" -- cat /data/starts | wc -l; }
restarts_of() { k get pod "$1" -o 'jsonpath={.status.containerStatuses[0].restartCount}'; }
condition_of() { k get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'; }
fetches() { [ "$(k exec "$1" -- timeout 5 wget -qO- "$2")" = "$3" ]; }
front_answers() { [[ $(k exec web-0 -- timeout 5 wget -qO- http://web-front/name) == web-* ]]; }
is() { local want=$1; shift; [ "$("$@")" = "$want" ]; }

api_from_pod() {
  local token
  token=$(k exec web-0 -- cat /var/run/secrets/kubernetes.io/serviceaccount/token) || return 1
  lab pod web-0 curl -sf -m 5 --cacert "$LAB_RUN/keys/ca.crt" -H "Authorization: Bearer $token" https://kubernetes.default.svc.cluster.local/version
}
# The pod's account has no rights: listing secrets must be refused with 403.
rbac_refuses() {
  local token
  token=$(k exec web-0 -- cat /var/run/secrets/kubernetes.io/serviceaccount/token) || return 1
  [ "$(lab pod web-0 curl -s -m 5 -o /dev/null -w '%{http_code}' --cacert "$LAB_RUN/keys/ca.crt" -H "Authorization: Bearer $token" \
    https://kubernetes.default.svc.cluster.local/api/v1/secrets)" = 403 ]
}
replaced_with_data() {
  local before
  before=$(uid_of web-1) && k delete pod web-1 && rolled_out && [ "$(uid_of web-1)" != "$before" ] && [ "$(starts_of web-1)" = 2 ]
}
liveness_restarts() {
  local before
  before=$(restarts_of web-2) && k exec web-2 -- rm /data/alive && within 30 more_restarts web-2 "$before"
}
more_restarts() { [ "$(restarts_of "$1")" -gt "$2" ]; }
drain_moves() {
  local from
  from=$(node_of web-0) && k drain "$from" --ignore-daemonsets --timeout=30s && rolled_out && [ "$(node_of web-0)" != "$from" ]
}
budget_refuses() {
  local victim
  # With no schedulable node a deleted pod stays away, which uses the budget up.
  k cordon node1 node2 node3 && victim=$(node_of web-1) && k delete pod web-0 --wait=false || return 1
  within 20 is 2 ready_count || return 1
  if k drain "$victim" --ignore-daemonsets --timeout=4s; then return 1; fi
  k uncordon node1 node2 node3
}
ready_count() { k get pods -l app=web -o 'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' | grep -c True; }
volumes_reclaimed() {
  k delete statefulset web && k delete pvc --all && within 20 is '' k get pv -o name && [ -z "$(ls "$LAB_RUN/volumes")" ]
}
nothing_left() {
  local first
  first=$(cat "$LAB_RUN/init.pid") && lab down && [ ! -d "/proc/$first" ] &&
    [ -z "$(find /sys/fs/cgroup -maxdepth 2 -name "quorate-$(basename "$LAB_RUN")")" ]
}

check "up: $LAB_NODES nodes Ready from nothing" lab up
check "kubectl applies a StatefulSet, Services and a budget" k apply -f "$here/smoke/web.yaml"
check "a server-side dry run validates a chart" bash -c "set -o pipefail; '$here/lab.sh' exec helm template dry '$here/smoke/chart' | '$here/lab.sh' exec kubectl apply --dry-run=server -f -"
check "a watch sees an object made after it began" bash -c "
  '$here/lab.sh' exec timeout 20 kubectl get configmap -w --field-selector metadata.name=seen -o name | grep -qm 1 configmap/seen & w=\$!
  for i in \$(seq 20); do '$here/lab.sh' exec kubectl create configmap seen --from-literal=n=\$i; sleep 0.3; '$here/lab.sh' exec kubectl delete configmap seen; kill -0 \$w 2>/dev/null || break; done; wait \$w"
if [ "$LAB_NODES" -ge 1 ]; then
  check "three pods Ready, each with a volume" rolled_out
  check "pods resolve and reach each other by name" within 15 fetches web-0 http://web-2.web:8080/name web-2
  check "a Service spreads over them" within 15 front_answers
  check "names outside the cluster do not resolve" bash -c "! '$here/lab.sh' exec kubectl exec web-0 -- timeout 5 nslookup example.org"
  check "a pod reaches the API by its token" within 10 api_from_pod
  check "its account is refused what no role grants" rbac_refuses
  check "exec and logs" bash -c "'$here/lab.sh' exec kubectl exec web-0 -- test -s /data/starts && '$here/lab.sh' exec kubectl logs web-0"
  check "the pod runs as an ordinary user on a read-only root" bash -c "[ \"\$('$here/lab.sh' exec kubectl exec web-0 -- id -u)\" = 1000 ] && ! '$here/lab.sh' exec kubectl exec web-0 -- touch /x"
  check "a deleted pod comes back under its name, with its data" replaced_with_data
  check "a failing liveness probe restarts the container" liveness_restarts
  check "settled" within 60 rolled_out
fi
if [ "$LAB_NODES" -ge 3 ]; then
  check "the pods stand on three nodes" is 3 nodes_used
  check "a drain moves a pod and its volume" drain_moves
  check "the budget refuses a second eviction" budget_refuses
  check "settled" within 60 rolled_out
  i=$(number_of_node web-2)
  check "node $i's cable pulled" lab node "$i" cut
  check "  the cluster sees it" within 60 is Unknown condition_of "node$i"
  check "cable back" lab node "$i" heal
  check "  the cluster sees it" within 60 is True condition_of "node$i"
  check "settled" within 90 rolled_out
  i=$(number_of_node web-2)
  check "node $i switched off" lab node "$i" kill
  check "  the cluster sees it" within 60 is Unknown condition_of "node$i"
  check "switched on" lab node "$i" start
  check "  the cluster sees it" within 90 is True condition_of "node$i"
  check "settled" within 90 rolled_out
fi
if [ "$LAB_NODES" -ge 1 ]; then
  check "helm install waits for its pods" lab exec helm install trial "$here/smoke/chart" --wait --timeout 60s
  check "helm test" lab exec helm test trial --timeout 60s
  check "helm upgrade" lab exec helm upgrade trial "$here/smoke/chart" --set replicas=2 --wait --timeout 60s
  check "helm uninstall" lab exec helm uninstall trial --wait --timeout 60s
fi
check "the API server is killed and starts again" lab program kube-apiserver kill
check "  on its store" bash -c "'$here/lab.sh' program kube-apiserver start"
check "  the StatefulSet is there" within 60 k get statefulset web
if [ "$LAB_NODES" -ge 1 ]; then
  check "claims deleted: volumes and folders gone" volumes_reclaimed
fi
check "down leaves no process and no cgroup" nothing_left
# The logs of a run without failures are of no use; those of another are named.
if verdict; then lab down && rm -rf --one-file-system "$LAB_RUN"; else echo "logs: $LAB_RUN/log" && exit 1; fi
