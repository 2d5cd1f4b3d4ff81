//! `quorate-bench`: load for one server, or two servers measured side by side.
//!
//! ```text
//! load     one workload against running endpoints; prints one JSON line
//! compare  starts both servers itself, alternates runs, keeps raw results as JSON lines
//! table    the markdown table of kept results
//! order    one put under strace: no answer is written before the sync that covers it
//! ```
//! Invariant: both servers get the same bytes from the same client code; only what /proc says of the server decides.

mod certificates;
mod compare;
mod keys;
mod link;
mod load;
mod member;
mod order;
mod process;
mod summary;
mod table;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Errors end the program with their text; nothing here recovers from one.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
#[command(version, about = "Load for etcd's v3 API, and two servers side by side")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// One workload against running endpoints; prints one JSON line
    Load(load::Plan),
    /// Starts both servers, alternates runs, appends each result to a file
    Compare(compare::Options),
    /// Prints the markdown table of kept results
    Table(table::Options),
    /// One put under strace: is the answer written after the sync that covers it?
    Order(order::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Load(plan) => load::run(&plan, &mut ()).map(|report| println!("{}", report.line())),
        Verb::Compare(options) => compare::run(&options),
        Verb::Table(options) => table::print(&options),
        Verb::Order(options) => order::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("quorate-bench: {e}");
            ExitCode::FAILURE
        }
    }
}
