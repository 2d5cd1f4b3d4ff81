#!/usr/bin/env bash
# run.sh [short|full]     the operator in a real Kubernetes on this machine, whose own API server runs on Quorate.
#
# Brings up the lab with three nodes, builds and imports the image, installs the operator by its chart, makes a cluster of three,
# puts a second kube-apiserver on it, and works on the cluster, step by step, while clients write and read. After each step every
# acknowledged write must be there. Prints a line a step: seconds, longest time without an acknowledged write, lost writes.
# short (what CI runs): up, the second API server, a killed leader. full: every step.
#
#   BIN            folder of the release programs (default target/release), quorate-operator and e2e among them
#   E2E_KEEP       1 leaves the lab running at the end; LAB_RUN=... tests/lab/lab.sh down ends it
#   CERT_MANAGER, CERT_MANAGER_CRDS   cert-manager's controller, and the folder of its definitions: tries tls.mode CertManager
#   E2E_ONLY       a pattern: of the steps that work on the running cluster, only those whose name matches
# Needs what tests/lab needs: root with CAP_SYS_ADMIN, containerd, runc, Go.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tier=${1:-full}
case $tier in short|full) ;; *) echo "usage: run.sh [short|full]" >&2; exit 2 ;; esac
. "$here/../lab/check.sh"
BIN=$(realpath "${BIN:-$here/../../target/release}")
E2E=${E2E:-$BIN/e2e}
for program in "$BIN"/{quorate,quoratectl,quorate-operator} "$E2E"; do [ -x "$program" ] || { echo "run.sh: $program is missing: make build" >&2; exit 1; }; done
export LAB_NODES=3 LAB_RUN=${LAB_RUN:-$(mktemp -d /var/tmp/quorate-e2e.XXXXXX)} LAB_SERVER=$BIN/quorate
LAB_BIN=${LAB_BIN:-$("$here/../lab/build.sh")} || exit 1
export LAB_BIN
work=$(mktemp -d /var/tmp/quorate-e2e-work.XXXXXX)
mkdir -p "$work/keys"
. "$here/ask.sh"
. "$here/steps.sh"
. "$here/rescues.sh"
. "$here/connections.sh"
load=
finish() {
  [ -z "$load" ] || touch "$work/stop"
  if [ "${E2E_KEEP:-0}" = 1 ]; then echo "kept: LAB_RUN=$LAB_RUN, $work"; else lab down; fi
}
trap finish EXIT

images() {
  local i
  "$here/../../scripts/dist.sh" "$BIN" "$work/dist" && "$here/../../scripts/pack-image.py" localhost/quorate:e2e "$work/dist" "$work/quorate.tar" || return 1
  mkdir -p "$work/kube" && cp "$LAB_BIN/kube" "$work/kube/kube-apiserver" && "$here/../lab/image.sh" localhost/kube-apiserver:e2e "$work/kube" "$work/kube.tar" || return 1
  for i in 1 2 3; do
    lab node "$i" exec ctr -n k8s.io images import "$work/quorate.tar" && lab node "$i" exec ctr -n k8s.io images tag localhost/quorate:e2e localhost/quorate:next || return 1
  done
  lab node 1 exec ctr -n k8s.io images import "$work/kube.tar"
  rm -rf "$work/kube" "$work/kube.tar"
  [ "$tier" = full ] || return 0
  mkdir -p "$work/s3" && cp "$("$here/../s3/build.sh")" "$work/s3/versitygw" && "$here/../lab/image.sh" localhost/s3:e2e "$work/s3" "$work/s3.tar" /versitygw || return 1
  for i in 1 2 3; do lab node "$i" exec ctr -n k8s.io images import "$work/s3.tar" || return 1; done
  rm -rf "$work/s3" "$work/s3.tar"
}

# step NAME BUDGET COMMAND...: like check, and then the clients' history is judged. BUDGET: longest time without a write, in seconds.
rows=()
step() {
  local name=$1 budget=$2 from to output word=ok gap acknowledged unknown lost violations
  shift 2
  [[ $name =~ ${E2E_ONLY:-.} ]] || return 0
  from=$(milliseconds)
  output=$("$@" 2>&1) || word=FAILED
  to=$(milliseconds)
  IFS=$'\t' read -r gap acknowledged unknown lost violations < <(judged "$from" "$to" 2>"$work/judge.log") || true
  if [ -z "${violations:-}" ]; then word=FAILED gap=0 lost=? violations=? acknowledged=0 unknown=0; output+=$'\n'"the history could not be judged: $(tail -n 3 "$work/judge.log")"; fi
  if [ "$lost" != 0 ] || [ "$violations" != 0 ]; then word=FAILED; output+=$'\n'"lost: $lost, violations: $violations"$'\n'$(head -n 20 "$work/judge.log"); fi
  if [ "$gap" -gt $((budget * 1000)) ]; then word=FAILED; output+=$'\n'"no write for $gap ms, allowed are $budget s"; fi
  if [ $word = ok ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  rows+=("$(printf '| %s | %s | %d.%d | %d.%03d | %s | %s | %s | %s |' "$name" "$word" $(((to - from) / 1000)) $(((to - from) % 1000 / 100)) $((gap / 1000)) $((gap % 1000)) "$acknowledged" "$unknown" "$lost" "$violations")")
  printf '%-6s %6d ms  %s (longest gap %d ms, %s writes, %s lost)\n' "$word" $((to - from)) "$name" "$gap" "$acknowledged" "$lost"
  operator_log > "$work/operator-$(milliseconds).log" 2>/dev/null
  note_connections 2>/dev/null
  [ $word = ok ] || { tail -n 30 <<<"$output" | sed 's/^/       /'; operator_log 15 | cut -c 1-300 | sed 's/^/       operator: /'; }
}

check "up: three nodes, their API server on Quorate" lab up
check "the image is packed and imported" images
check "namespaces that take restricted pods only" namespaces
[ "$failed" = 0 ] || exit 1
[ "$tier" = short ] || check "the API server takes what the charts render" charts_accepted
check "helm installs the operator" install_operator
check "helm installs a cluster of three, with TLS" cluster_up
check "a kube-apiserver comes up on it, by the Secret for clients" guest_up
check "  kubectl works with that API server" guest_used
if [ "$failed" != 0 ]; then
  k get quorateclusters,statefulsets,pods,pvc -o wide; resource . | tail -n 80; operator_log 40
  pods -o name | while read -r pod; do echo "== $pod"; k logs "$pod" --tail=15; done
  verdict; echo "logs: $LAB_RUN/log, $work"; exit 1
fi
start_load
check "clients write" within 30 more_writes 50
[ "$tier" = short ] || check "the definition refuses what cannot be" resources_are_guarded
step "kill the leader's pod" 15 leader_killed
if [ "$tier" = full ]; then
  step "scale 3 to 5" 5 grows
  step "scale 5 to 3" 8 shrinks
  step "roll a change, leader last" 5 rolls
  step "another image" 5 image_changed
  step "an image that is nowhere, and back" 5 bad_image_halts
  step "a name more in the certificates" 5 certificate_renewed
  step "a change of the authority is announced" 5 authority_change_begins
  step "tasks: compact, reclaim, move the leader" 5 asked_to_compact_and_lead
  step "scale 3 to 1 to 3" 8 one_and_three
  step "delete a volume and its pod" 8 volume_lost
  step "damage a volume" 15 volume_damaged
  step "cut a member's node" 20 node_lost cut heal
  step "switch a member's node off and on" 20 node_lost kill start
  step "a member's node stays off" 20 node_off
  step "kill the operator while it scales" 8 operator_killed
  step "lose the quorum" 300 quorum_lost
  step "sleep and wake" 300 sleeps_and_wakes
  step "back up, and begin another cluster with it" 5 backed_up_and_restored
  step "back up each minute, keep one" 5 scheduled
  step "deltas to S3, and a cluster as of a revision" 5 flowed_and_restored
  step "recover a lost quorum from one member" 5 quorum_recovered
  step "restore in place, and give a restore up" 5 restored_in_place
  step "kill the operator while it recovers a quorum" 5 killed_while_recovering
  step "kill the operator while it restores in place" 5 killed_while_restoring
  step "a full store, maintenance windows, a larger volume" 5 full_store_healed
  step "plain text, and certificates of one's own" 5 other_certificates
  if [ -n "${CERT_MANAGER:-}" ]; then step "certificates of cert-manager's" 5 issued_by_cert_manager; else echo "left out: cert-manager (CERT_MANAGER names no controller)"; fi
  step "upgrade the operator" 5 operator_upgraded
  step "uninstall and install the operator" 5 operator_reinstalled
  step "the next authority signs" 5 authority_changed
  check "the second API server serves after all that" within 60 guest_serves
fi
[ "$tier" = short ] || check "every connection that was seen is one that the NetworkPolicies allow" connections_allowed
check "the clients end" stop_load
load=
check "every acknowledged write is there, and nothing else" judged 0 1 --ended
check "  a write that is taken away by hand is missed" judge_bites
if [ "$tier" = full ]; then
  check "delete the cluster, volumes kept" deleted_volumes_kept
  check "a cluster of its name goes on with them" kept_volumes_taken_up
  check "delete a cluster with its volumes" deleted_volumes_removed
  operator_log > "$work/operator-last.log" 2>/dev/null
  check "delete a cluster whose operator is gone" deleted_without_operator
else
  operator_log > "$work/operator-last.log" 2>/dev/null
  check "helm uninstalls the cluster" helm uninstall "$CLUSTER" -n demo --wait --timeout 90s
fi
check "the operator was refused nothing and did not panic" operator_was_content
echo
echo '| step | result | seconds | longest gap, s | writes | unknown | lost | violations |'
echo '|---|---|---|---|---|---|---|---|'
printf '%s\n' "${rows[@]}"
echo
if verdict; then [ "${E2E_KEEP:-0}" = 1 ] || { lab down && rm -rf --one-file-system "$LAB_RUN" "$work"; }; else echo "logs: $LAB_RUN/log, $work" && exit 1; fi
