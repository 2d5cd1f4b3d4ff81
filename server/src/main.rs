//! The server program.

use quorate::config::{self, Config, Parsed};
use quorate::env::{failpoint, host};
use quorate::serve;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Writes to standard output. Whoever reads it may have enough and close it, as `head` does; that is no failure.
fn print(text: &str) -> ExitCode {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("quorate: standard output: {e}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn main() -> ExitCode {
    if let Err(e) = failpoint::arm_from_env() {
        eprintln!("quorate: {e}");
        return ExitCode::FAILURE;
    }
    let rest = || std::env::args_os().skip(2).collect();
    let offline = match std::env::args_os().nth(1).as_ref().and_then(|word| word.to_str()) {
        Some("snapshot") => Some(quorate::offline::snapshot(rest())),
        Some("recover") => Some(quorate::offline::recover::run(rest())),
        _ => None,
    };
    if let Some(done) = offline {
        return match done {
            Ok(text) => print(text.trim_end()),
            Err(failure) => {
                eprintln!("quorate: {}", failure.text);
                ExitCode::from(failure.code as u8)
            }
        };
    }
    let args = std::env::args_os().skip(1);
    let parsed = Config::from_env_and_args(args, std::env::vars_os(), |path| std::fs::read_to_string(path), host::default_address);
    let (config, warnings) = match parsed {
        Ok(Parsed::Run(config, warnings)) => (config, warnings),
        Ok(Parsed::ShowVersion) => {
            return print(&config::version_text());
        }
        Ok(Parsed::ShowHelp) => {
            return print(&config::help_text());
        }
        Err(e) => {
            eprintln!("quorate: {e}");
            return ExitCode::from(e.exit_code());
        }
    };
    if let Err(e) = install_logs(&config.log) {
        eprintln!("quorate: {e}");
        return ExitCode::FAILURE;
    }
    for warning in warnings {
        match warning.level {
            config::Level::Note => tracing::info!(setting = warning.setting, "{}", warning.message),
            config::Level::Warn => tracing::warn!(setting = warning.setting, "{}", warning.message),
        }
    }
    serve::files::raise_limit();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().thread_name("main").build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("quorate: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(run(&config))
}

fn install_logs(settings: &config::LogSettings) -> Result<(), String> {
    use quorate::telemetry::log::{Format, Output, install};
    use quorate::telemetry::rotate::Rotation;
    let level = match settings.level {
        config::LogLevel::Debug => tracing::Level::DEBUG,
        config::LogLevel::Info => tracing::Level::INFO,
        config::LogLevel::Warn => tracing::Level::WARN,
        config::LogLevel::Error | config::LogLevel::Panic | config::LogLevel::Fatal => tracing::Level::ERROR,
    };
    let format = match settings.format {
        config::LogFormat::Json => Format::Json,
        config::LogFormat::Console => Format::Console,
    };
    let output = |o: &config::LogOutput| match o {
        config::LogOutput::Stderr => Output::Stderr,
        config::LogOutput::Journal => Output::Journal,
        config::LogOutput::Stdout => Output::Stdout,
        config::LogOutput::File(path) => match &settings.rotation {
            None => Output::File(path.clone()),
            Some(r) => {
                let config::LogRotation { max_bytes, max_age, max_backups, local_time, compress } = r.clone();
                Output::Rotated(path.clone(), Rotation { max_bytes, max_age, max_backups, local_time, compress })
            }
        },
    };
    install(level, format, &settings.outputs.iter().map(output).collect::<Vec<_>>())
}

async fn run(config: &Config) -> ExitCode {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        eprintln!("quorate: signals cannot be received");
        return ExitCode::FAILURE;
    };
    let started = tokio::select! {
        started = serve::start(config) => started,
        // A member that waits for its peers has nothing to hand over.
        _ = term.recv() => return ExitCode::SUCCESS,
        _ = int.recv() => return ExitCode::SUCCESS,
    };
    let server = match started {
        Ok(server) => server,
        Err(failure) => {
            tracing::error!("{}", failure.text);
            eprintln!("quorate: {}", failure.text);
            return ExitCode::from(failure.code as u8);
        }
    };
    let ended = tokio::select! {
        _ = term.recv() => Err("terminated"),
        _ = int.recv() => Err("interrupt"),
        failure = server.ended() => Ok(failure),
    };
    match &ended {
        Err(name) => tracing::info!(signal = name, "received signal; shutting down"),
        Ok(failure) => {
            tracing::error!("{}", failure.text);
            eprintln!("quorate: {}", failure.text);
        }
    }
    server.stop().await;
    ended.map_or(ExitCode::SUCCESS, |failure| ExitCode::from(failure.code as u8))
}
