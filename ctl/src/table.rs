//! The command tree: every command's name, words, flags and what it runs.

use crate::command::{Command, Run};
use crate::flags::Flag;
use crate::global;
use crate::verb::{
    alarm, auth, check, compaction, completion, defrag, del, downgrade, elect, endpoint, get, lease, lock, make_mirror, member,
    move_leader, put, role, snapshot, txn, user, version, watch,
};

/// The program itself.
pub static ROOT: Command = Command {
    name: "",
    usage: "",
    short: "Command line client for Quorate and etcd.",
    group: "",
    flags: global::FLAGS,
    children: COMMANDS,
    run: None,
};

const KEYS: &str = "Key-value commands";
const CLUSTER: &str = "Cluster maintenance commands";
const CONCURRENCY: &str = "Concurrency commands";
const AUTHENTICATION: &str = "Authentication commands";
const UTILITY: &str = "Utility commands";

/// A command that runs an async function.
macro_rules! run {
    ($function:path) => {
        Some((|cx| Box::pin($function(cx))) as Run)
    };
}

const fn top(
    name: &'static str,
    usage: &'static str,
    short: &'static str,
    group: &'static str,
    flags: &'static [Flag],
    run: Option<Run>,
) -> Command {
    Command { name, usage, short, group, flags, children: &[], run }
}

const fn sub(name: &'static str, usage: &'static str, short: &'static str, flags: &'static [Flag], run: Option<Run>) -> Command {
    top(name, usage, short, "", flags, run)
}

const fn noun(
    name: &'static str,
    short: &'static str,
    group: &'static str,
    flags: &'static [Flag],
    children: &'static [Command],
) -> Command {
    Command { name, usage: "", short, group, flags, children, run: None }
}

const COMMANDS: &[Command] = &[
    top(
        "compaction",
        "<revision>",
        "Forgets what was superseded before a revision",
        KEYS,
        compaction::FLAGS,
        run!(compaction::run),
    ),
    top("del", "<key> [range_end]", "Deletes a key or a range of keys", KEYS, del::FLAGS, run!(del::run)),
    top("get", "<key> [range_end]", "Reads a key or a range of keys", KEYS, get::FLAGS, run!(get::run)),
    noun("lease", "Leases: keys that go when nobody renews them", KEYS, &[], LEASE),
    top("put", "<key> <value>", "Writes a key; without a value reads it from standard input", KEYS, put::FLAGS, run!(put::run)),
    top("txn", "", "Runs a transaction read from standard input", KEYS, txn::FLAGS, run!(txn::run)),
    top(
        "watch",
        "[key] [range_end] [--] [program arguments...]",
        "Shows changes as they happen",
        KEYS,
        watch::FLAGS,
        run!(watch::run),
    ),
    noun("alarm", "Alarms", CLUSTER, &[], ALARM),
    top("defrag", "", "Gives free space back", CLUSTER, endpoint::FLAGS, run!(defrag::run)),
    noun("downgrade", "Going back to an older version", CLUSTER, &[], DOWNGRADE),
    noun("endpoint", "Health and state of single members", CLUSTER, endpoint::FLAGS, ENDPOINT),
    noun("member", "Membership", CLUSTER, &[], MEMBER),
    top("move-leader", "<member id>", "Gives leadership to another member", CLUSTER, &[], run!(move_leader::run)),
    noun("snapshot", "A member's state as a file", CLUSTER, &[], SNAPSHOT),
    top("elect", "<election> [proposal]", "Takes part in an election, or watches one", CONCURRENCY, elect::FLAGS, run!(elect::run)),
    top("lock", "<lock> [program arguments...]", "Holds a lock", CONCURRENCY, lock::FLAGS, run!(lock::run)),
    noun("auth", "Authentication as a whole", AUTHENTICATION, &[], AUTH),
    noun("role", "Roles and what they may do", AUTHENTICATION, &[], ROLE),
    noun("user", "Users and their roles", AUTHENTICATION, &[], USER),
    noun("check", "Checks of a running cluster", UTILITY, &[], CHECK),
    top("completion", "<bash|zsh|fish>", "Shows a script for completion in a shell", UTILITY, &[], run!(completion::run)),
    top(
        "make-mirror",
        "<destination>",
        "Copies a prefix to another cluster and keeps following it",
        UTILITY,
        make_mirror::FLAGS,
        run!(make_mirror::run),
    ),
    top("options", "", "Shows the flags that every command takes", UTILITY, &[], run!(version::options)),
    top("version", "", "Shows the version", UTILITY, &[], run!(version::run)),
];

const LEASE: &[Command] = &[
    sub("grant", "<ttl>", "Makes a lease", &[], run!(lease::grant)),
    sub("keep-alive", "<lease id>", "Renews a lease until it is gone", lease::KEEP_ALIVE_FLAGS, run!(lease::keep_alive)),
    sub("list", "", "Lists all leases", &[], run!(lease::list)),
    sub("revoke", "<lease id>", "Ends a lease and deletes its keys", &[], run!(lease::revoke)),
    sub("timetolive", "<lease id>", "Shows how long a lease has left", lease::TIME_TO_LIVE_FLAGS, run!(lease::time_to_live)),
];

const ALARM: &[Command] = &[
    sub("disarm", "", "Clears all alarms", &[], run!(alarm::disarm)),
    sub("list", "", "Lists all alarms", &[], run!(alarm::list)),
];

const DOWNGRADE: &[Command] = &[
    sub("cancel", "", "Cancels a downgrade", &[], run!(downgrade::cancel)),
    sub("enable", "<version>", "Starts a downgrade", &[], run!(downgrade::enable)),
    sub("validate", "<version>", "Checks whether a downgrade could start", &[], run!(downgrade::validate)),
];

const ENDPOINT: &[Command] = &[
    sub("hashkv", "", "Shows the hash of each member's key space", endpoint::HASH_FLAGS, run!(endpoint::hash_kv)),
    sub("health", "", "Checks that each member answers", &[], run!(endpoint::health)),
    sub("status", "", "Shows each member's state", &[], run!(endpoint::status)),
];

const MEMBER: &[Command] = &[
    sub("add", "<name>", "Adds a member", member::ADD_FLAGS, run!(member::add)),
    sub("list", "", "Lists the members", member::LIST_FLAGS, run!(member::list)),
    sub("promote", "<member id>", "Lets a learner vote", &[], run!(member::promote)),
    sub("remove", "<member id>", "Removes a member for good", &[], run!(member::remove)),
    sub("update", "<member id>", "Changes a member's peer addresses", member::UPDATE_FLAGS, run!(member::update)),
];

const SNAPSHOT: &[Command] = &[sub("save", "<file>", "Saves a member's state to a file", &[], run!(snapshot::save))];

const AUTH: &[Command] = &[
    sub("disable", "", "Lets everyone do everything", &[], run!(auth::disable)),
    sub("enable", "", "Demands sign-in from everyone", &[], run!(auth::enable)),
    sub("status", "", "Shows whether sign-in is demanded", &[], run!(auth::status)),
];

const ROLE: &[Command] = &[
    sub("add", "<role>", "Adds a role", &[], run!(role::add)),
    sub("delete", "<role>", "Deletes a role", &[], run!(role::delete)),
    sub("get", "<role>", "Shows what a role may do", &[], run!(role::get)),
    sub(
        "grant-permission",
        "<role> <read|write|readwrite> <key> [end]",
        "Lets a role do more",
        role::RANGE_FLAGS,
        run!(role::grant_permission),
    ),
    sub("list", "", "Lists the roles", &[], run!(role::list)),
    sub("revoke-permission", "<role> <key> [end]", "Lets a role do less", role::RANGE_FLAGS, run!(role::revoke_permission)),
];

const USER: &[Command] = &[
    sub("add", "<user>[:password]", "Adds a user", user::ADD_FLAGS, run!(user::add)),
    sub("delete", "<user>", "Deletes a user", &[], run!(user::delete)),
    sub("get", "<user>", "Shows a user's roles", user::GET_FLAGS, run!(user::get)),
    sub("grant-role", "<user> <role>", "Gives a role to a user", &[], run!(user::grant_role)),
    sub("list", "", "Lists the users", &[], run!(user::list)),
    sub("passwd", "<user>", "Changes a user's password", user::PASSWD_FLAGS, run!(user::passwd)),
    sub("revoke-role", "<user> <role>", "Takes a role from a user", &[], run!(user::revoke_role)),
];

const CHECK: &[Command] = &[
    sub(
        "datascale",
        "",
        "Writes many keys and says what memory the server took for them",
        check::DATASCALE_FLAGS,
        run!(check::datascale),
    ),
    sub("perf", "", "Writes for a minute and judges the times", check::PERF_FLAGS, run!(check::perf)),
];
