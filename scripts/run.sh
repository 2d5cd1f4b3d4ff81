#!/usr/bin/env bash
# run.sh     one member in the foreground. PORT: clients (peers one above); DATA: its folder; BIN: where the programs are.
set -euo pipefail
port=${PORT:-2379} data=${DATA:-quorate.data} bin=${BIN:-target/release}
peer=$((port + 1))
cat <<TEXT
Quorate serves etcd's v3 API on http://127.0.0.1:$port, data in $data. Talk to it with etcdctl or quoratectl:
  $bin/quoratectl --endpoints=http://127.0.0.1:$port put greeting hello
  $bin/quoratectl --endpoints=http://127.0.0.1:$port get greeting
Ctrl-C stops it.
TEXT
exec "$bin/quorate" --name default --data-dir "$data" \
  --listen-client-urls "http://127.0.0.1:$port" --advertise-client-urls "http://127.0.0.1:$port" \
  --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
  --initial-cluster "default=http://127.0.0.1:$peer" --log-format console
