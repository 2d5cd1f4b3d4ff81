//! The program: reads the command line, waits for its turn, works until it is told to stop.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use quorate_operator::args::{Arguments, Command, Run};
use quorate_operator::cluster::Context;
use quorate_operator::election::Election;
use quorate_operator::metrics::Metrics;
use quorate_operator::{controller, crd, http};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Crd => {
            print!("{}", crd::stream());
            ExitCode::SUCCESS
        }
        Command::Agent { work } => agent(&work),
        Command::Run(settings) => {
            let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
            tracing_subscriber::fmt().json().with_env_filter(filter).init();
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(settings))) {
                Ok(code) => code,
                Err(error) => {
                    tracing::error!(%error, "cannot work");
                    ExitCode::FAILURE
                }
            }
        }
    }
}

/// Where Kubernetes keeps a container's last words.
const LAST_WORDS: &str = "/dev/termination-log";

fn agent(work: &quorate_operator::agent::Work) -> ExitCode {
    tracing_subscriber::fmt().json().with_env_filter("info").init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (words, code) = match runtime.map(|runtime| runtime.block_on(quorate_operator::agent::work(work))) {
        Ok(Ok(words)) => (words, ExitCode::SUCCESS),
        Ok(Err(error)) if error.refutes() => (error.to_string(), ExitCode::from(quorate_operator::agent::REFUTED)),
        Ok(Err(error)) => (error.to_string(), ExitCode::FAILURE),
        Err(error) => (error.to_string(), ExitCode::FAILURE),
    };
    println!("{words}");
    // Outside a pod there is nobody to keep them.
    if let Err(error) = std::fs::write(LAST_WORDS, &words) {
        tracing::debug!(%error, "cannot leave last words");
    }
    code
}

async fn run(settings: Run) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let metrics = Arc::new(Metrics::default());
    let ready = Arc::new(AtomicBool::new(false));
    http::open(settings.metrics_address, metrics.clone(), ready.clone()).await?;
    let client = Client::try_default().await?;
    client.apiserver_version().await?;
    ready.store(true, Ordering::Relaxed);

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told_to_stop = async move {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
    };
    tokio::pin!(told_to_stop);

    let identity = settings.pod_name.clone().unwrap_or_else(|| format!("operator-{:08x}", rand::random::<u32>()));
    // Two lives of one pod are two candidates: the later one must not take the earlier one's hold for its own.
    let identity = format!("{identity}_{:08x}", rand::random::<u32>());
    let election = Election::new(client.clone(), &settings.pod_namespace, &settings.lease, &identity);
    if settings.leader_election {
        tokio::select! {
            () = election.win() => (),
            () = &mut told_to_stop => return Ok(ExitCode::SUCCESS),
        }
    }
    tracing::info!(identity, "working");
    metrics.leading(true);

    let recorder = Recorder::new(client.clone(), Reporter { controller: "quorate-operator".into(), instance: Some(identity) });
    let context = Context::new(client.clone(), settings.image, recorder, metrics.clone());
    let (stop, stopped) = watch::channel(false);
    let work = controller::run(client, context, &settings.namespaces, stopped);
    tokio::pin!(work);
    tokio::select! {
        () = &mut work => (),
        () = &mut told_to_stop => {
            // Rounds that run are finished, so that a decision that was written down is also carried out.
            let _ = stop.send(true);
            let ended = tokio::time::timeout(std::time::Duration::from_secs(20), &mut work);
            // Held until then: nobody else may begin while these still act.
            tokio::select! {
                _ = ended => (),
                () = election.hold(), if settings.leader_election => return Ok(ExitCode::FAILURE),
            }
            if settings.leader_election {
                election.release().await;
            }
            return Ok(ExitCode::SUCCESS);
        }
        // Whoever lost the hold must not finish anything.
        () = election.hold(), if settings.leader_election => {
            tracing::error!("the lease is lost");
            metrics.leading(false);
        }
    }
    Ok(ExitCode::FAILURE)
}
