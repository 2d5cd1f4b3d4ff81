#!/usr/bin/env bash
# node-power.sh I     switches node I on, from within the lab's namespaces. Killing the recorded pid is pulling its plug.
set -euo pipefail
i=$1
nsenter --net="/run/netns/node$i" unshare --mount --uts --ipc --pid --fork --kill-child --mount-proc \
  bash "$(dirname "$0")/node.sh" "$i" </dev/null >>"$LAB_RUN/log/node$i.log" 2>&1 &
echo $! > "$LAB_RUN/node$i.pid"
