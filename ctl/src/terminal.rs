//! Asking for what must not be seen.

use std::io::{self, BufRead, Write};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// Shows `prompt` and reads one line from the terminal without echo. Fails when standard input is no terminal.
pub fn ask_secret(prompt: &str) -> io::Result<String> {
    let stdin = rustix::stdio::stdin();
    let before = tcgetattr(stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    print!("{prompt}");
    io::stdout().flush()?;
    tcsetattr(stdin, OptionalActions::Now, &silent)?;
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    let restored = tcsetattr(stdin, OptionalActions::Now, &before);
    println!();
    read?;
    restored?;
    Ok(line.trim_end_matches(['\n', '\r']).to_string())
}
