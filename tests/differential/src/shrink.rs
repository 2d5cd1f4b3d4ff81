//! Shrinking: from a script that shows a difference to a short one that still does.
//!
//! In: the script up to the difference, and a way to try a shorter one. Out: the shortest found within a number of tries.
//! The difference may be another one than the first; whatever the servers disagree on is worth a report.

use crate::run::{Difference, Verdict, run};
use crate::script::{Op, Txn, TxnOp};
use crate::server::Program;

/// Runs of the pair spent on one difference; each costs about two server starts.
const TRIES: usize = 150;

pub async fn shrink(
    script: Vec<Op>,
    first: Difference,
    reference: &Program,
    candidate: &Program,
    members: usize,
) -> (Vec<Op>, Difference) {
    let mut best = script;
    best.truncate(first.operation + 1);
    let mut shown = first;
    let mut tries = 0;
    let mut size = best.len() / 2;
    while size > 0 && tries < TRIES {
        let mut from = 0;
        while from < best.len() && tries < TRIES {
            let mut shorter = best.clone();
            shorter.drain(from..(from + size).min(best.len()));
            tries += 1;
            match run(&shorter, reference, candidate, members).await {
                Verdict::Different(d) => {
                    shorter.truncate(d.operation + 1);
                    (best, shown) = (shorter, d);
                }
                _ => from += size,
            }
        }
        size = size.min(best.len()).div_ceil(2).min(size - 1);
    }
    for at in 0..best.len() {
        for simpler in simpler(&best[at]) {
            if tries >= TRIES + 60 {
                break;
            }
            let mut attempt = best.clone();
            attempt[at] = simpler;
            tries += 1;
            if let Verdict::Different(d) = run(&attempt, reference, candidate, members).await {
                (best, shown) = (attempt, d);
                break;
            }
        }
    }
    (best, shown)
}

/// The same operation with one part less.
fn simpler(op: &Op) -> Vec<Op> {
    match op {
        Op::Txn(txn) => fewer(txn).into_iter().map(Op::Txn).collect(),
        Op::Put(p) if p.value.0.len() > 20 => {
            let mut p = p.clone();
            p.value.0.truncate(2);
            vec![Op::Put(p)]
        }
        _ => Vec::new(),
    }
}

fn fewer(txn: &Txn) -> Vec<Txn> {
    let mut out = Vec::new();
    for i in 0..txn.compare.len() {
        let mut t = txn.clone();
        t.compare.remove(i);
        out.push(t);
    }
    for branch in [Txn::success_mut, Txn::failure_mut] {
        for i in 0..branch(&mut txn.clone()).len() {
            let mut t = txn.clone();
            let TxnOp::Txn(inner) = branch(&mut t).remove(i) else {
                out.push(t);
                continue;
            };
            out.push(t);
            for inner in fewer(&inner) {
                let mut t = txn.clone();
                branch(&mut t)[i] = TxnOp::Txn(inner);
                out.push(t);
            }
        }
    }
    out
}
