#!/usr/bin/env bash
# etcd-suites.sh common|e2e [--bin-dir DIR] [--list FILE] [--test NAME]... [--jobs N] [--time-limit SECONDS] [--logs DIR]
#
# Runs etcd's own end-to-end suites (go.etcd.io/etcd/tests/v3, version in etcd-suites/go.mod) against the programs in DIR, which
# bin-dir.sh makes (default: a real etcd). Each test has a process, a network namespace and a time limit of its own, because a
# failing one leaves servers and ports behind. FILE names a test per line and a `#` begins a remark; after the name may stand the
# test's own time limit in seconds and `without=REGEXP`, sub-tests that are not asked (default list: lists/full-SUITE.txt; default
# limit 240 s).
# --jobs is 1 or 2 (default 2): the tests' inner time limits are meant for a machine that is not crowded.
# Prints a line per test (verdict, seconds, name), then what the failures said first, then "N passed, N failed, N skipped".
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
suite=${1:-}
case $suite in
common|e2e) shift ;;
*) die "usage: etcd-suites.sh common|e2e [--bin-dir DIR] [--list FILE] [--test NAME]... [--jobs N] [--time-limit SECONDS] [--logs DIR]" ;;
esac
bin_dir='' list=$here/lists/full-$suite.txt tests=() jobs=2 limit=240 logs=''
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || die "$1 needs a value"
  case $1 in
  --bin-dir) bin_dir=$(realpath "$2") ;;
  --list) list=$2 ;;
  --test) tests+=("$2") ;;
  --jobs) jobs=$2 ;;
  --time-limit) limit=$2 ;;
  --logs) logs=$2 ;;
  *) die "unknown argument $1" ;;
  esac
  shift 2
done
case $jobs in 1|2) ;; *) die "--jobs is 1 or 2, not $jobs" ;; esac
need go flock jq timeout xargs
need_namespaces

# The tests read fixtures from ../fixtures, so they run inside a writable copy of their module.
build_suites() {
  local source name
  echo "building etcd's suites once into $1: two to four minutes" >&2
  source=$(cd "$here/etcd-suites" && go mod download -json go.etcd.io/etcd/tests/v3 | jq -r .Dir)
  cp -r "$source" "$1/tests"
  chmod -R u+w "$1/tests"
  # one test starts a server from a sample configuration, which upstream keeps outside the module
  cp "$here/etcd-suites/sample.yml" "$1/etcd.conf.yml.sample"
  # keys in the fixtures are refused by some servers when others may read them
  chmod 0600 "$1"/tests/fixtures/*.key.insecure
  for name in common e2e; do
    (cd "$here/etcd-suites" && CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off \
      go test -tags e2e -c -o "$1/$name.test" "go.etcd.io/etcd/tests/v3/$name")
  done
}
built=$(once etcd-suites "$(key_of "$here"/etcd-suites/{go.mod,go.sum,sample.yml} <(declare -f build_suites))" build_suites)
[ -n "$bin_dir" ] || bin_dir=$("$here/etcd.sh")
for name in etcd etcdctl etcdutl; do [ -x "$bin_dir/$name" ] || die "$bin_dir holds no program $name; bin-dir.sh makes such a folder"; done
logs=${logs:-$(mktemp -d "/tmp/etcd-$suite.XXXXXX")}
mkdir -p "$logs"
if [ ${#tests[@]} -gt 0 ]; then
  plan=$(printf '%s\n' "${tests[@]}")
else
  [ -f "$list" ] || die "no list $list"
  plan=$(sed 's/#.*//' "$list" | awk 'NF')
fi
[ -n "$plan" ] || die "$list names no test"

# one_test NAME [SECONDS] [without=REGEXP]: runs it, keeps its output in $logs/NAME.log and prints its line.
one_test() {
  local name=$1 seconds=$limit log=$logs/$1.log without=() word began verdict=fail temp status=0
  shift
  for word in "$@"; do
    case $word in
    without=*) without=(-test.skip "^$name\$/${word#without=}") ;;
    *) seconds=$word ;;
    esac
  done
  began=$(date +%s)
  temp=$(mktemp -d "/tmp/etcd-test.XXXXXX")
  # A few tests look for an address other than loopback and a default route; this pair of interfaces has both and leads nowhere.
  # Some leave files where they stand, so each stands in an empty folder that only it sees.
  TMPDIR=$temp timeout --foreground -s KILL "$seconds" unshare --net --pid --fork --kill-child --mount-proc sh -c '
    set -e
    ip link set lo up
    ip link add lan0 type veth peer name lan1
    ip addr add 10.89.0.2/24 dev lan0
    ip link set lan0 up
    ip link set lan1 up
    ip route add default via 10.89.0.1
    mount -t tmpfs tmpfs "$1"
    cd "$1"
    shift
    exec "$@"' sh "$built/tests/$suite" "$built/$suite.test" -test.v -test.run "^$name\$" "${without[@]}" -test.timeout 0 -bin-dir "$bin_dir" \
    >"$log" 2>&1 || status=$?
  rm -rf "$temp"
  # The test's own verdict counts, not the exit status: the suite also fails when its client goroutines end late on a busy machine.
  if [ $status = 137 ]; then
    echo "ended by the time limit of $seconds s" >> "$log"
  elif grep -q "^--- SKIP: $name " "$log"; then
    verdict=skip
  elif grep -q "^--- PASS: $name " "$log"; then
    verdict=pass
  fi
  printf '%s %4d s  %s\n' "$verdict" $(($(date +%s) - began)) "$name" | tee "$log.verdict"
}

# first_words LOG: the first assertion, panic or refusal in it, shortened.
first_words() {
  grep -aE -A 3 '^\s+Error:|^panic: |no tests to run|delayed over|ended by the time limit|^ +[a-z0-9_]+\.go:[0-9]+: [^ ]|unknown flag|unexpected argument' "$1" |
    grep -avE '^--$|Error Trace:|logger\.go:|testing\.go:|Got watch response|Before logger|Spawning|Process done' | head -n 6 | cut -c 1-240 | sed 's/^\s*/    /'
}

export -f one_test
export built suite bin_dir logs limit
rm -f "$logs"/*.verdict
xargs -P "$jobs" -L 1 bash -c 'set -euo pipefail; one_test "$@"' test <<<"$plan"
count() { cat "$logs"/*.verdict | grep -c "^$1" || true; }
failed=$(sed -nE 's/^fail +[0-9]+ s +//p' "$logs"/*.verdict)
for name in $failed; do
  echo "failed: $name"
  first_words "$logs/$name.log" || true
done
echo "outputs: $logs"
echo "$(count pass) passed, $(count fail) failed, $(count skip) skipped"
[ -z "$failed" ] && [ "$(count pass)" != 0 ]
