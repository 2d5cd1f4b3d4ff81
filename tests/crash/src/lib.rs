//! Crashes of the real server: what the tests under `tests/` are made of.
//!
//! `server` starts and ends the program; `load` writes to it from several clients and keeps a record of every answer; `check` holds
//! a restarted server against that record; `image` builds the disk that a power cut may leave, from the journal of the preloaded
//! `shim/shim.c`; `group` runs clusters of processes; `describe` asks a server for all it holds; `tree` compares folders byte by byte; `case` runs rounds of all this from one seed.
//!
//! In: `QUORATE_BIN`, the server program (default: `quorate` in the folder that cargo built the tests in); `CRASH_ROUNDS`, how many
//! seeds are run for each one of the short run; `CRASH_SEED`, the one seed to run, printed by each failure. Everything written lies
//! in temporary folders.

pub mod case;
pub mod check;
pub mod describe;
pub mod group;
pub mod image;
pub mod load;
pub mod server;
pub mod tree;

/// A seed's stream of chances.
pub type Chance = rand::rngs::StdRng;

/// The chances of one seed, one for each purpose so that a change in one does not shift the others.
#[must_use]
pub fn chance(seed: u64, purpose: &str) -> Chance {
    rand::SeedableRng::seed_from_u64(xxhash_rust::xxh3::xxh3_64_with_seed(purpose.as_bytes(), seed))
}

/// How many seeds are run for each one of the short run.
#[must_use]
pub fn seeds_factor() -> u64 {
    std::env::var("CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// The seeds to run: those given, or the one the environment names.
#[must_use]
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("CRASH_SEED").ok().and_then(|text| text.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=count * seeds_factor()).collect(),
    }
}
