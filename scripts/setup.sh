#!/usr/bin/env bash
# setup.sh     makes a Debian 12 ready to build Quorate: the packages it lacks, and a word about a missing toolchain.
set -euo pipefail
cd "$(dirname "$0")/.."
want=$(sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml)
if ! command -v cargo >/dev/null; then
  echo "setup: no Rust toolchain found: install Rust $want (rustup toolchain install $want)" >&2; exit 1
fi
have=$(rustc --version 2>/dev/null | cut -d' ' -f2 || true)
if [ -z "$have" ] || [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" != "$want" ]; then
  echo "setup: Rust $want is needed, ${have:-none} was found: rustup toolchain install $want" >&2; exit 1
fi
missing=()
for p in libclang-dev clang cmake make g++ "$@"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  if ! command -v apt-get >/dev/null; then
    echo "setup: please install these packages: ${missing[*]}" >&2; exit 1
  fi
  sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
  export DEBIAN_FRONTEND=noninteractive
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
