#!/usr/bin/env bash
# lab.sh up|down                      a Kubernetes with real nodes and pods, in seconds, without docker, systemd or a registry
# lab.sh exec COMMAND...              a command in the control plane's network; KUBECONFIG, kubectl and helm are set
# lab.sh program NAME stop|kill|start|restart   e.g. kube-apiserver, store-2 (stop is SIGTERM, kill is SIGKILL)
# lab.sh node I cut|heal|kill|start   pull node I's cable, plug it in, switch it off (all at once), switch it on
# lab.sh node I exec COMMAND...       a command in that node's namespaces, e.g. ctr -n k8s.io images import FILE
# lab.sh pod NAME COMMAND...          one of the machine's programs (curl, etcdctl, ...) in that pod's network
#
#   LAB_NODES        nodes, 0 to 9 (default 1); 0 is a control plane alone
#   LAB_CONTROLLERS  0 leaves only store and API server (then no nodes either); default 1
#   LAB_MEMBERS      members of the store, 1 to 5 (default 1)
#   LAB_SERVER       the store's binary; it must take etcd's flags (default: a real etcd, built by tests/foreign/etcd.sh)
#   LAB_TLS          1 serves the store by TLS and asks for client certificates (default 0)
#   LAB_STORE        instead of LAB_SERVER: a shell command that serves etcd's API on 127.0.0.1:2379; may use $STORE_DIR
#   LAB_ENDPOINTS    instead of either: URLs of a store that runs already in this network; https ones take LAB_CA, LAB_CERT, LAB_KEY
#   LAB_API_FLAGS    further flags of kube-apiserver
#   LAB_RUN          folder of this run, wiped by `up` (default /var/tmp/quorate-lab); a second lab needs a second one
#   LAB_BIN          what build.sh printed (default: asks build.sh)
#
# Processes live in one PID namespace and die with its first. Networks are namespaces without a way out. What stays on the
# machine after `down` is the run folder and a few empty mount points such as /var/lib/kubelet.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
export LAB_RUN=${LAB_RUN:-/var/tmp/quorate-lab}
case $LAB_RUN in /*[!a-zA-Z0-9/._-]*|[!/]*) die "LAB_RUN must be an absolute path of plain characters, not '$LAB_RUN'" ;; esac
export LAB_CONTROLLERS=${LAB_CONTROLLERS:-1} LAB_MEMBERS=${LAB_MEMBERS:-1} LAB_TLS=${LAB_TLS:-0}
if [ "$LAB_CONTROLLERS" = 0 ]; then LAB_NODES=0; fi
export LAB_NODES=${LAB_NODES:-1}
LAB_CGROUP=quorate-$(basename "$LAB_RUN")
export LAB_CGROUP

# The lab's first process, if it still is the one that this run folder recorded.
first_pid() {
  local pid
  pid=$(cat "$LAB_RUN/init.pid" 2>/dev/null) || return 1
  # no pipe into grep -q here: it may end before its writer does, which pipefail would take for "not found"
  grep -qas "/init.sh" "/proc/$pid/cmdline" && grep -zqsxF "LAB_RUN=$LAB_RUN" "/proc/$pid/environ" && echo "$pid"
}

# A command in the lab's namespaces, with the variables of the lab that runs, not of the caller.
inside() {
  local pid
  pid=$(first_pid) || die "no lab runs in $LAB_RUN"
  nsenter -t "$pid" --net --mount --pid -- env --chdir=/ "$@"
}

down() {
  local pid tenths hierarchy
  if pid=$(first_pid); then
    kill -KILL "$pid"
    for tenths in $(seq 100); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
    [ ! -d "/proc/$pid" ] || die "the lab's first process $pid does not end"
  fi
  rm -f "$LAB_RUN/ready"
  # A cgroup can be removed once its last task is gone, which the kernel may take a moment to see.
  for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*/; do
    for tenths in $(seq 50); do
      [ -d "$hierarchy/$LAB_CGROUP" ] || break
      find "$hierarchy/$LAB_CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
    done
  done
}

up() {
  local outer pid='' tenths namespaces=(--mount --pid --fork --kill-child --mount-proc)
  need_namespaces
  need openssl curl setsid flock
  if [ "$LAB_CONTROLLERS" = 1 ]; then
    need containerd runc iptables python3
    [ -x /usr/lib/cni/bridge ] || die "needs /usr/lib/cni/bridge (Debian package containernetworking-plugins); tests/setup.sh installs it"
  fi
  LAB_BIN=${LAB_BIN:-$("$here/build.sh")}
  LAB_SERVER=$(realpath "${LAB_SERVER:-$("$here/../foreign/etcd.sh")/etcd}")
  [ -x "$LAB_SERVER" ] || die "LAB_SERVER $LAB_SERVER is not a program"
  export LAB_BIN LAB_SERVER
  down
  rm -rf --one-file-system "$LAB_RUN"
  mkdir -p "$LAB_RUN/log"
  [ -n "${LAB_ENDPOINTS:-}" ] || namespaces+=(--net)
  setsid unshare "${namespaces[@]}" bash "$here/init.sh" </dev/null >"$LAB_RUN/log/init.log" 2>&1 &
  outer=$!
  for tenths in $(seq 100); do
    pid=$(awk '{print $1}' "/proc/$outer/task/$outer/children" 2>/dev/null) || true
    [ -z "$pid" ] || break
    sleep 0.1
  done
  [ -n "$pid" ] || die "the lab did not start: $(cat "$LAB_RUN/log/init.log")"
  echo "$pid" > "$LAB_RUN/init.pid"
  for tenths in $(seq 1800); do
    [ ! -f "$LAB_RUN/ready" ] || { echo "ready: KUBECONFIG=$LAB_RUN/admin.conf, logs in $LAB_RUN/log"; return; }
    [ -d "/proc/$pid" ] || { tail -n 20 "$LAB_RUN/log/init.log" >&2; die "the lab ended while it came up"; }
    sleep 0.1
  done
  tail -n 20 "$LAB_RUN/log/init.log" >&2
  die "not ready within 180 s; logs are in $LAB_RUN/log"
}

program() {
  local name=$1 verb=$2
  inside bash -c '
    set -euo pipefail
    while IFS= read -r -d "" pair; do export "$pair"; done < /proc/1/environ
    . "$1/parts.sh"
    export PATH=$LAB_RUN/path:$PATH
    [ -f "$LAB_RUN/programs/$2" ] || { echo "no program $2; there are:" $(ls "$LAB_RUN/programs") >&2; exit 1; }
    case $3 in
    stop) halt "$2" TERM ;;
    kill) halt "$2" KILL ;;
    start) start "$2" ;;
    restart) halt "$2" TERM; start "$2" ;;
    *) echo "stop, kill, start or restart, not $3" >&2; exit 2 ;;
    esac' lab-program "$here" "$name" "$verb"
}

node() {
  local i=$1 verb=$2
  shift 2
  case $verb in
  cut) inside ip link set "cable$i" down ;;
  heal) inside ip link set "cable$i" up ;;
  kill) inside bash -c 'kill -KILL "$(cat "$1")"' off "$LAB_RUN/node$i.pid" ;;
  start) inside bash -c '
    while IFS= read -r -d "" pair; do export "$pair"; done < /proc/1/environ
    exec setsid bash "$1/node-power.sh" "$2"' on "$here" "$i" ;;
  exec)
    # the recorded pid is unshare's; its child is the node's first process
    inside bash -c 'read -r first < <(cat "/proc/$(cat "$1")/task/$(cat "$1")/children"); shift
      exec nsenter -t "${first%% *}" -a -- "$@"' node "$LAB_RUN/node$i.pid" "$@" ;;
  *) die "node I cut, heal, kill, start or exec, not '$verb'" ;;
  esac
}

in_control_plane() {
  local pid
  pid=$(first_pid) || die "no lab runs in $LAB_RUN"
  export KUBECONFIG=$LAB_RUN/admin.conf PATH=$LAB_RUN/path:$PATH
  nsenter -t "$pid" --net -- "$@"
}

in_pod() {
  local pod=$1 node
  shift
  node=$(in_control_plane kubectl get pod "$pod" -o 'jsonpath={.spec.nodeName}')
  [ -n "$node" ] || die "pod $pod runs on no node"
  node "${node#node}" exec bash -c '
    pod=$1; shift
    sandbox=$(ctr -n k8s.io containers ls -q "labels.\"io.kubernetes.pod.name\"==$pod,labels.\"io.cri-containerd.kind\"==sandbox" | tail -n 1)
    pid=$(ctr -n k8s.io tasks ls | awk -v want="$sandbox" "\$1 == want {print \$2}")
    exec nsenter -t "$pid" --net -- "$@"' pod "$pod" "$@"
}

case "${1:-}:$#" in
up:1) up ;;
down:1) down ;;
exec:*) shift; in_control_plane "$@" ;;
program:3) program "$2" "$3" ;;
node:[3-9]*|node:[12][0-9]) shift; node "$@" ;;
pod:*) shift; in_pod "$@" ;;
*) sed -n '2,7s/^# //p' "$0" >&2; exit 2 ;;
esac
