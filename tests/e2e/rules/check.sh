#!/usr/bin/env bash
# check.sh     Prometheus' parser and engine judge the alert rules; rules_test.go says how. Compiles both once, a minute or two.
set -euo pipefail
cd "$(dirname "$0")"
. ../../lib.sh
need go
GOFLAGS=-mod=readonly GOWORK=off go test -count=1 ./...
