#!/usr/bin/env bash
# Runs the same commands through two command line clients against one server and compares what they print, byte by byte.
#
#   compare.sh OURS THEIRS ENDPOINT
#
# OURS is quoratectl, THEIRS etcd's etcdctl, ENDPOINT a server to be used up: the script writes, compacts, adds users. It
# refuses a server that holds any key, user or role, so that nobody's data is lost by a wrong address.
#
# Compared: exit code, standard output, and the `Error:` line. Not compared: log lines and help texts. What no two runs share
# (revisions after writes, ids of new leases, times, sizes) is replaced by a word before comparing, and only in those cases
# that say so. Prints each difference and ends with a count; exit code 1 when there was one.
set -u

if [ $# -ne 3 ]; then
  echo "usage: compare.sh OURS THEIRS ENDPOINT" >&2
  exit 2
fi
OURS=$(realpath "$1") THEIRS=$(realpath "$2") ENDPOINT=$3
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
cd "$WORK" || exit 2
# Nothing from the caller's environment may choose another server.
for name in $(compgen -e ETCDCTL_); do unset "$name"; done
# Ours under etcdctl's name shows etcdctl's face.
mkdir ours theirs && ln -s "$OURS" ours/etcdctl && ln -s "$THEIRS" theirs/etcdctl

ctl() { local who=$1; shift; "./$who/etcdctl" --endpoints "$ENDPOINT" "$@"; }

empty=$(ctl theirs get "" --prefix --count-only -w fields | sed -n 's/^"Count" : //p')
people=$(ctl theirs user list; ctl theirs role list)
if [ "$empty" != 0 ] || [ -n "$people" ]; then
  echo "compare.sh: $ENDPOINT does not answer or is not empty; it must be a server that nobody needs" >&2
  exit 2
fi

passed=0 failed=0

# Keeps what is compared of stderr: the error itself. Log lines, help and Go's stack traces go.
errors() { grep -E '^(Error:|Warning:|Failed to|Invalid command|watch was canceled)|is unhealthy' "$1" | sed -E 's/took = .*//'; }

# Runs both clients and compares. $1 is a sed program that both outputs go through; the rest are the words of the command.
# Standard input is the file named by $INPUT.
compare() {
  local filter=$1; shift
  local who
  for who in ours theirs; do
    timeout -s INT "${LIMIT:-20}" "./$who/etcdctl" --endpoints "$ENDPOINT" "$@" <"${INPUT:-/dev/null}" >out.$who 2>err.$who
    echo "exit code $?" >>out.$who
    { sed -E "$filter" out.$who; errors err.$who | sed -E "$filter"; } >text.$who
    [ -n "${UNDO:-}" ] && ctl theirs $UNDO >/dev/null 2>&1
  done
  if cmp -s text.ours text.theirs; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "DIFFERENT: etcdctl $*"
    diff text.ours text.theirs | sed 's/^</  ours:  /; s/^>/  theirs:/' | head -20
  fi
}

same() { compare '' "$@"; }
# After a write the two runs see different revisions and Raft positions.
REVISIONS='s/("(revision|create_revision|mod_revision|version|raftIndex|raftAppliedIndex|authRevision)":)[0-9]+/\1N/g
  s/^(".*(Revision|Version|RaftIndex|RaftAppliedIndex)" : )[0-9]+/\1N/'
changed() { compare "$REVISIONS" "$@"; }
LEASES="$REVISIONS"'
  s/("(ID|id|lease)":)[0-9]{10,}/\1LEASE/g; s/(Lease|ID)" : [0-9]{10,}/\1" : LEASE/; s/[0-9a-f]{16}/LEASE/g
  s/bmFtZS8[A-Za-z0-9+=]*/NAME/g
  s/("ttl":)[0-9]+/\1T/; s/("TTL" : )[0-9]+/\1T/; s/remaining\([0-9]+s\)/remaining(T)/'
leased() { compare "$LEASES" "$@"; }
TIMES='s/took"?:? ?=? ?"?[0-9.]+(µs|ms|s)"?/took T/g; s/[0-9.]+(µs|ms|s) +│/T │/g; s/[ ─]{2,}/ /g; s/"Took" : .*/"Took" : T/'

FORMATS="simple fields json protobuf table bogus"

# --- keys -------------------------------------------------------------------------------------------------------------------
changed put a 1
for w in simple fields json table bogus; do UNDO="put a 1" changed put a 2 --prev-kv -w $w; done
changed put -- -dash -value
changed put $'k\xff\x01"\t' $'v\xc3\xa9\xe2\x80\x8b\x7f'
printf 'from stdin\n' >value
INPUT=value changed put piped
changed put a --ignore-value
changed put a --ignore-value extra
changed put nothing --ignore-value
changed put
changed put onlykey
changed put a v --lease zz
changed put a v --lease 1
changed put "" v
for n in $(seq 1 30); do ctl theirs put "n/$n" "value $n" >/dev/null; done
for w in $FORMATS; do
  same get a -w $w
  same get a --hex -w $w
  same get n/ --prefix --limit 3 -w $w
  same get nothing -w $w
  same get $'k\xff\x01"\t' -w $w
  same get n/ --prefix --keys-only -w $w
  same get n/ --prefix --count-only -w $w
done
same get
same get a b c
same get a z
same get "" --prefix
same get "" --from-key --limit 2
same get n/2 --from-key --limit 5
same get n/2 n/4 --order DESCEND --sort-by KEY
same get n/ --prefix --sort-by MODIFY --order descend --limit 4
same get n/ --prefix --sort-by VALUE
same get n/ --prefix --sort-by VERSION --order ASCEND
same get n/ --prefix --sort-by CREATE --order ASCEND --limit 4
same get n/ --prefix --sort-by nonsense
same get n/ --prefix --order nonsense
same get n/ --prefix --print-value-only
same get n/ --prefix --print-value-only -w json
same get n/ --prefix --stream
same get n/ --prefix --stream -w json
same get n/ --prefix --stream --limit 5 -w fields
same get n/ --prefix --stream --sort-by VALUE --order DESCEND
same get n/ --prefix --keys-only --count-only
same get n/ --prefix --from-key
same get n/ x --prefix
same get a --rev 2 -w json
same get a --rev 100000
same get a --consistency s -w json
same get a --consistency q
same get n/ --prefix --min-mod-rev 20 --max-mod-rev 25
same get n/ --prefix --min-create-rev 20 --max-create-rev 25 -w json
same get n/ --prefix --min-create-rev 9 --max-create-rev 5
same get n/ --prefix --min-mod-rev 9 --max-mod-rev 5
same get a --bogus
same get a -x
same get a --limit x
same get a --limit=
same get a --prefix=no
same get a --dial-timeout 5
same get a -w
same --write-out=json get a
same -wjson get a
same --hex get a

# --- deletes ----------------------------------------------------------------------------------------------------------------
ctl theirs put gone v >/dev/null
for w in simple fields json table bogus; do
  UNDO="put gone v" changed del gone --prev-kv -w $w
done
changed del nothing
changed del
changed del a b c
changed del x y --prefix
changed del x --prefix --from-key
changed del x y --range
LIMIT=6 changed del x y
changed del "" --from-key=false

# --- transactions -----------------------------------------------------------------------------------------------------------
txn() { printf "$1" >txn; shift; INPUT=txn changed txn "$@"; }
for w in simple fields json table bogus; do
  txn 'mod("a") > "0"\n\nput t "x y"\nget t\ndel t --prev-kv\nget n/ --prefix --limit 2\n\nget c\n\n' -w $w
  txn 'val("a") = "no"\n\n\nget a\nput t2 \x27single quoted\x27\n\n' -w $w
  txn '\n\n\n' -w $w
done
txn 'mod("a") > "0"\n\nget n/ --prefix\n\n\n' -w protobuf
txn 'version("n/1") = "1"\nc("n/1") != "0"\ncreate("n/1") < "100000"\nver("n/1") > "0"\nvalue("n/1") = "value 1"\n\nget n/1\n\n\n'
txn '\n\n\n' -i
txn 'mod("a") > "0"\n\n\n\n' --interactive
txn 'nonsense\n\n\n\n'
txn 'foo("a") > "0"\n\n\n\n'
txn 'mod(a) > "0"\n\n\n\n'
txn 'mod("a") > 0\n\n\n\n'
txn 'mod("a") > "x"\n\n\n\n'
txn '\nfoo a\n\n\n\n'
txn '\nget\n\n\n\n'
txn '\nput a\n\n\n\n'
txn '\nput d 1\nput d 2\n\n\n'
txn 'mod("a") > "0"'
txn ''
changed txn word

# --- leases -----------------------------------------------------------------------------------------------------------------
for w in simple fields json table bogus; do
  leased lease grant 100 -w $w
done
LEASE=$(ctl theirs lease grant 500 | cut -d' ' -f2)
ctl theirs put l1 v --lease "$LEASE" >/dev/null
for w in simple fields json table; do
  for hex in false true; do
    leased lease timetolive "$LEASE" -w $w --hex=$hex
    leased lease timetolive "$LEASE" --keys -w $w --hex=$hex
    leased lease keep-alive --once "$LEASE" -w $w --hex=$hex
    leased lease list -w $w --hex=$hex
    same get l1 -w $w --hex=$hex
  done
done
same lease timetolive 1
same lease timetolive 1 -w json
same lease keep-alive --once 1
same lease keep-alive
same lease keep-alive zz
LIMIT=3 same lease keep-alive 1
same lease grant
same lease grant x
same lease grant 99999999999999
leased lease grant -- -5
same lease revoke
same lease revoke zz
same lease revoke 1
for w in simple fields json; do
  for who in ours theirs; do
    id=$(ctl theirs lease grant 100 | cut -d' ' -f2)
    ctl $who lease revoke "$id" -w $w 2>&1 | sed -E "$LEASES" >text.$who
  done
  if cmp -s text.ours text.theirs; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "DIFFERENT: lease revoke -w $w"; fi
done

# --- watches ----------------------------------------------------------------------------------------------------------------
ctl theirs put w 1 >/dev/null; ctl theirs put w 2 >/dev/null; ctl theirs del w >/dev/null; ctl theirs put w 3 >/dev/null
for w in simple fields json protobuf table; do
  LIMIT=1 same watch w --rev 1 --prev-kv -w $w
  LIMIT=1 same watch n/ --prefix --rev 1 --hex -w $w
done
LIMIT=1 same watch w x --rev 1
LIMIT=2 same watch w --rev 1 -- sh -c 'echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE'
LIMIT=2 same watch w --rev 1 -- sh -c 'exit 3'
LIMIT=2 same watch w --rev 1 -- /does/not/exist
ETCDCTL_WATCH_KEY=w LIMIT=1 same watch --rev 1
ETCDCTL_WATCH_KEY=n ETCDCTL_WATCH_RANGE_END=o LIMIT=1 same watch --rev 1
ETCDCTL_WATCH_KEY=w LIMIT=1 same watch --rev 1 -- echo hi
ETCDCTL_WATCH_KEY=w LIMIT=1 same watch other --rev 1
ETCDCTL_WATCH_RANGE_END=w LIMIT=1 same watch --rev 1
LIMIT=1 same watch
LIMIT=1 same watch w --
LIMIT=1 same watch w x --prefix
printf 'foo\nwatch\nwatch w --\n' >lines
INPUT=lines LIMIT=2 same watch -i
printf 'watch w --nonsense\n' >lines
INPUT=lines LIMIT=2 same watch -i

# --- compaction and what it takes away --------------------------------------------------------------------------------------
compare '' compaction
compare '' compaction x
compare '' compaction 1 2
compare '' compaction 1000000
ctl theirs compaction 3 >/dev/null
same compaction 3
same get a --rev 1
for w in simple json fields; do LIMIT=2 same watch a --rev 1 -w $w; done

# --- members, endpoints, maintenance ----------------------------------------------------------------------------------------
for w in $FORMATS; do
  for hex in false true; do same member list -w $w --hex=$hex; done
  same endpoint status -w $w
  same endpoint status --cluster -w $w
  same endpoint hashkv -w $w
  same endpoint hashkv --rev 10 -w $w
  compare "$TIMES" endpoint health -w $w
  same alarm list -w $w
done
same member list --consistency s
same member add
same member add name
same member add name http://127.0.0.1:1
same member add name --peer-urls nonsense
same member remove
same member remove zz
same member remove 1
same member update 1
same member update 1 --peer-urls http://127.0.0.1:1
same member promote 1
same endpoint hashkv --rev 100000
same move-leader
same move-leader zz
same move-leader 1
same alarm list x
same alarm disarm
same alarm disarm -w json
same alarm disarm x
same downgrade validate
same downgrade validate 3.6.0
same downgrade validate 3.6.0 -w json
same downgrade validate 3.6.0 -w fields
same downgrade validate 3.1.0
same downgrade validate nonsense
same downgrade cancel
compare "$TIMES" defrag
compare "$TIMES" defrag --cluster
same snapshot save
same snapshot save state.db
same snapshot save missing/folder/state.db
same version
same member list --command-timeout 1ns

# --- locks and elections ----------------------------------------------------------------------------------------------------
LIMIT=1 leased lock name
LIMIT=1 leased lock name -w json
leased lock name -- sh -c 'echo $ETCD_LOCK_KEY; exit 0'
leased lock name -- sh -c 'exit 7'
leased lock
LIMIT=1 leased elect name value
LIMIT=1 leased elect name value -w fields
LIMIT=1 leased elect -l name
leased elect name
leased elect -l name value
leased elect

# --- users and roles --------------------------------------------------------------------------------------------------------
for w in simple json fields table; do
  UNDO="user delete u" changed user add u:p -w $w
  UNDO="role delete r" changed role add r -w $w
done
UNDO="user delete u" changed user add u --no-password
changed user add :p
changed user add
changed user add u
printf 'secret\n' >value
UNDO="user delete u" INPUT=value changed user add u --interactive=false
ctl theirs user add u:p >/dev/null; ctl theirs role add r >/dev/null
same user add u:p
same role add r
INPUT=value changed user passwd u --interactive=false
same user passwd
same role grant-permission r
same role grant-permission r nonsense k
same role grant-permission r read k end --prefix
same role grant-permission r read k end --from-key
same role grant-permission r read k --prefix --from-key
for what in "readwrite a b" "read p --prefix" "write z --from-key" "read single" 'READ --prefix ""'; do
  eval "changed role grant-permission r $what"
done
UNDO="user revoke-role u r" same user grant-role u r
ctl theirs user grant-role u r >/dev/null
for w in $FORMATS; do
  same role get r -w $w
  same role list -w $w
  same user get u -w $w
  same user list -w $w
  same auth status -w $w
done
same user get u --detail
same user get u --detail -w json
same user get nobody
same user get
same role get nothing
same role get
same role get root
same user list x
same role list x
same user grant-role u
same user revoke-role u
same user revoke-role u nothing
same role revoke-permission r
UNDO="role grant-permission r readwrite a b" same role revoke-permission r a b
UNDO="role grant-permission r read p --prefix" same role revoke-permission r p --prefix
UNDO="role grant-permission r write z --from-key" same role revoke-permission r z --from-key
UNDO="role grant-permission r read single" same role revoke-permission r single
same role revoke-permission r nothing
UNDO="user grant-role u r" same user revoke-role u r
same role delete nothing
same user delete nobody
same auth disable
same auth enable
same auth enable x

# --- signing in -------------------------------------------------------------------------------------------------------------
ctl theirs user add root:secret >/dev/null
compare '' auth enable --user root:secret
same get a
same get a --user nobody:x
same get a --user u:wrong
same get single --user u --password secret
same get a1 --user u:secret
same get q --user u:secret
same get a --user root:secret -w json
same auth status
compare "$TIMES" endpoint health --user u:secret -w fields
compare "$TIMES" endpoint health --user u:wrong -w json
same member list --user u:secret
LIMIT=2 same watch secret --user u:secret
same user list --user u:secret
compare '' auth disable --user root:secret

# --- the words around the commands ------------------------------------------------------------------------------------------
same bogus
same mem li
ETCDCTL_WRITE_OUT=json same get a
ETCDCTL_HEX=true same get a
ETCDCTL_HEX=maybe same get a
ETCDCTL_NONSENSE=1 same get a
same --cert "" get a
same --cert only get a
same --cacert missing.pem get a

echo "$passed the same, $failed different"
[ "$failed" = 0 ]
