# check.sh     how the lab's scripts check: a line per check, a deadline instead of a sleep, a closing count.
#
# To be sourced. The caller must not set errexit: a failing check is counted, and the next one runs.
passed=0 failed=0

# check NAME COMMAND...: counts it; what a failing command said is shown below its line.
check() {
  local name=$1 began output word=ok
  shift
  began=$(date +%s%N)
  if output=$("$@" 2>&1); then passed=$((passed + 1)); else failed=$((failed + 1)) word=FAILED; fi
  printf '%-6s %6d ms  %s\n' "$word" $((($(date +%s%N) - began) / 1000000)) "$name"
  [ "$word" = ok ] || tail -n 12 <<<"$output" | sed 's/^/       /'
}

# within SECONDS COMMAND...: tries until it succeeds; the last try's output is the one kept.
within() {
  local deadline=$((SECONDS + $1))
  shift
  while [ $SECONDS -lt $deadline ]; do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.2
  done
  "$@"
}

verdict() {
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}
