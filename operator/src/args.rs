//! The command line.

use std::net::{AddrParseError, SocketAddr};

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::cluster::validate::every_address_here;

/// Makes, repairs and changes Quorate clusters on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "quorate-operator", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look after all QuorateClusters, until told to stop
    Run(Run),
    /// Print the custom resource definitions as YAML
    Crd,
    /// Take, restore or prove a backup, or keep deltas; what the pods of backups run
    Agent {
        /// Which
        #[command(subcommand)]
        work: Box<crate::agent::Work>,
    },
}

/// An address to listen at; without a host every one, of the family that pods are reached by.
pub(crate) fn address(text: &str) -> Result<SocketAddr, AddrParseError> {
    match text.strip_prefix(':') {
        Some(port) => format!("{}:{port}", every_address_here()).parse(),
        None => text.parse(),
    }
}

/// Settings of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Namespaces to look after; may be given several times; none means all
    #[arg(long = "namespace", env = "QUORATE_WATCH_NAMESPACE", value_delimiter = ',', value_name = "NS")]
    pub namespaces: Vec<String>,
    /// Let only one of several operators work at a time
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub leader_election: bool,
    /// Where to serve /healthz, /readyz and /metrics; without a host at every address
    #[arg(long, default_value = ":8080", value_parser = address, value_name = "[HOST]:PORT")]
    pub metrics_address: SocketAddr,
    /// The server's image, for clusters that name none
    #[arg(long, env = "QUORATE_IMAGE", value_name = "IMAGE")]
    pub image: Option<String>,
    /// The namespace that this process runs in, for the lease
    #[arg(long, env = "POD_NAMESPACE", default_value = "default", value_name = "NS")]
    pub pod_namespace: String,
    /// The Lease by which one of several operators works; those that look after different namespaces have one each
    #[arg(long, env = "QUORATE_LEASE", default_value = "quorate-operator", value_name = "NAME")]
    pub lease: String,
    /// This process' name among operators
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    /// No command has two flags that are one to the parser.
    #[test]
    fn flags_are_distinct() {
        super::Arguments::command().debug_assert();
    }

    /// Where no host is named it is every one; a port is always named.
    #[test]
    fn addresses() {
        assert_eq!(super::address(":8080"), Ok("0.0.0.0:8080".parse().unwrap()));
        assert_eq!(super::address("[::1]:1"), Ok("[::1]:1".parse().unwrap()));
        assert!(super::address("8080").is_err() && super::address(":").is_err());
    }
}
