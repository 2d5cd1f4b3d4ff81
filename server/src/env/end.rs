//! The end of the process, for what must not go on: a disk that fails, rows that cannot be trusted.
//!
//! A real member ends at once, with exit code 5, or 4 for damage, and without any clean-up, so that no thread acknowledges anything more. A simulated
//! member shares its process with the others: on a thread that said so with [`unwind_here`] the end is a panic that carries
//! [`Ended`], which the simulation takes as the death of that one member.

use std::cell::Cell;

/// The exit code of a member whose disk failed, as in the README.
const FAILED: i32 = 5;
/// The exit code of a member whose data are damaged: starting it again does not mend that.
const DAMAGED: i32 = 4;

/// What the panic carries that stands for the end of a simulated member's process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended;

thread_local! {
    static UNWINDS: Cell<bool> = const { Cell::new(false) };
}

/// From now on the end of a process unwinds the calling thread instead of ending the program.
pub fn unwind_here() {
    UNWINDS.set(true);
}

/// Ends the process; the caller has logged why.
pub fn process() -> ! {
    end(FAILED)
}

/// Ends the process for damage to its data: whoever watches over the member replaces it instead of starting it again and again.
pub fn damaged() -> ! {
    end(DAMAGED)
}

fn end(code: i32) -> ! {
    if UNWINDS.get() {
        // Not `panic!`: the hook that prints a panic's place is not for this one.
        std::panic::resume_unwind(Box::new(Ended));
    }
    end_now(code)
}

/// As when the process is killed: nothing is flushed, no destructor of any thread runs.
#[expect(unsafe_code, reason = "one system call that does not return")]
fn end_now(code: i32) -> ! {
    unsafe { libc::_exit(code) }
}
