//! The server program.

use quorate::config::{self, Config, Parsed};
use quorate::env::failpoint;
use quorate::serve;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == "snapshot") {
        return match quorate::offline::snapshot(std::env::args_os().skip(2).collect()) {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                eprintln!("quorate: {}", failure.text);
                ExitCode::from(failure.code as u8)
            }
        };
    }
    if let Err(e) = failpoint::arm_from_env() {
        eprintln!("quorate: {e}");
        return ExitCode::FAILURE;
    }
    let parsed = Config::from_env_and_args(std::env::args_os().skip(1), std::env::vars_os(), |path| std::fs::read_to_string(path));
    let (config, warnings) = match parsed {
        Ok(Parsed::Run(config, warnings)) => (config, warnings),
        Ok(Parsed::ShowVersion) => {
            println!("{}", config::version_text());
            return ExitCode::SUCCESS;
        }
        Ok(Parsed::ShowHelp) => {
            println!("{}", config::help_text());
            return ExitCode::SUCCESS;
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
        // The journal takes what a service writes to its standard error.
        config::LogOutput::Stderr | config::LogOutput::Journal => Output::Stderr,
        config::LogOutput::Stdout => Output::Stdout,
        config::LogOutput::File(path) => Output::File(path.clone()),
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
