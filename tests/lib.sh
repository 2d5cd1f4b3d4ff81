# lib.sh     what the scripts under tests/ share: clear refusals, and programs built once into the user's cache folder.
#
# To be sourced. In: nothing but the environment. Out: functions; the caller sets `set -euo pipefail` itself.
# Invariant: a cache folder is used only when its `complete` file exists, which is written last, under a lock.

# Ends the script with a sentence; $0 names the script that was asked.
die() { echo "$(basename "$0"): $*" >&2; exit 1; }

# need PROGRAM...: each must be in PATH.
need() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null || die "needs \`$program\`, which is not in PATH; tests/setup.sh installs what Debian packages offer, Go comes from go.dev"
  done
}

# Network namespaces, mounts and cgroups need root with CAP_SYS_ADMIN, which a plain container does not have.
need_namespaces() {
  [ "$(id -u)" = 0 ] || die "needs root: it makes network namespaces"
  need unshare nsenter ip
  unshare --net true 2>/dev/null || die "may not make a network namespace here (CAP_SYS_ADMIN is missing)"
}

# key_of FILE...: a short digest of the files' content and of the Go release, the name of what is built from them.
key_of() { { cat "$@"; go env GOVERSION GOARCH; } | sha256sum | cut -c1-16; }

# once THING KEY BUILDER: prints the cache folder of THING, calling `BUILDER FOLDER` first if nobody has built this key yet.
# What BUILDER prints goes to stderr. A build that was cut short is begun anew.
once() {
  local thing=$1 key=$2 builder=$3 cache dir
  cache=${QUORATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quorate}
  dir=$cache/$thing-$key
  if [ ! -f "$dir/complete" ]; then
    mkdir -p "$cache"
    # A subshell with errexit of its own: the lock ends with it, and a failing builder leaves no `complete`.
    (
      set -euo pipefail
      exec 9>"$cache/$thing.lock"
      flock 9
      if [ ! -f "$dir/complete" ]; then
        rm -rf "$dir"
        mkdir -p "$dir"
        "$builder" "$dir" 9>&- >&2
        touch "$dir/complete"
      fi
    )
    # Inside $(...) bash forgets errexit, so the failure is passed on by hand.
    [ -f "$dir/complete" ] || return 1
  fi
  echo "$dir"
}

# go_build MODULE_FOLDER OUT PACKAGE...: static programs of a committed module; go.mod and go.sum are obeyed, never edited.
go_build() {
  local module=$1 out=$2
  shift 2
  (cd "$module" && CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off \
    go build -trimpath -buildvcs=false -ldflags "-s -w ${GO_LDFLAGS:-}" -o "$out" "$@")
}
