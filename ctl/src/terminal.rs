//! Asking for what must not be seen.

use std::io::{self, BufRead, Write};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// Shows `prompt` and reads one line, without echo where standard input is a terminal.
pub fn ask_secret(prompt: &str) -> io::Result<String> {
    let stdin = rustix::stdio::stdin();
    let before = tcgetattr(stdin).ok();
    print!("{prompt}");
    io::stdout().flush()?;
    if let Some(before) = &before {
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin, OptionalActions::Now, &silent)?;
    }
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    // Whatever came of the reading, the terminal must not stay silent.
    let restored = before.map_or(Ok(()), |before| tcsetattr(stdin, OptionalActions::Now, &before));
    println!();
    read?;
    restored?;
    Ok(line.trim_end_matches(['\n', '\r']).to_string())
}
