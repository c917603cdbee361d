use std::path::PathBuf;

use anyhow::Context as _;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, ServerAddr};
use clap::Args;
use gristmill_schemas::Namespace;

/// Where NATS is and how to get in. The environment variables are those of the worker.
#[derive(Args)]
pub struct Connection {
    /// NATS server, or several separated by commas
    #[arg(
        long,
        global = true,
        env = "GRISTMILL__NATS__URL",
        default_value = "nats://127.0.0.1:4222",
        hide_env_values = true
    )]
    nats: String,

    /// Prefix of subjects and streams
    #[arg(long, global = true, env = "GRISTMILL__NAMESPACE", default_value = "infer")]
    pub namespace: Namespace,

    /// Credentials file (JWT and nkey seed)
    #[arg(long, global = true, env = "GRISTMILL__NATS__CREDENTIALS_FILE", value_name = "FILE")]
    credentials: Option<PathBuf>,

    /// File with an nkey seed
    #[arg(long, global = true, env = "GRISTMILL__NATS__NKEY_SEED_FILE", value_name = "FILE")]
    nkey: Option<PathBuf>,

    /// Certificate authority of the server
    #[arg(long, global = true, env = "GRISTMILL__NATS__TLS_CA_FILE", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
}

/// Where to connect to, all files read.
pub struct Target {
    options: ConnectOptions,
    servers: Vec<ServerAddr>,
}

impl Connection {
    /// Reads what the flags name, and connects to nothing yet.
    pub async fn target(&self) -> anyhow::Result<Target> {
        let mut options = ConnectOptions::new().name("gristmill");
        if let Some(path) = &self.credentials {
            let read = options.credentials_file(path).await;
            options = read.with_context(|| format!("credentials file {}", path.display()))?;
        }
        if let Some(path) = &self.nkey {
            let seed = std::fs::read_to_string(path).with_context(|| format!("nkey file {}", path.display()))?;
            options = options.nkey(seed.trim().to_owned());
        }
        if let Some(path) = &self.tls_ca {
            options = options.add_root_certificates(path.clone());
        }
        let servers = self.nats.split(',').map(|url| url.trim().parse::<ServerAddr>());
        let servers: Vec<ServerAddr> = servers.collect::<Result<_, _>>().context("--nats is no NATS URL")?;
        Ok(Target { options, servers })
    }

    /// Connects, or says to what it could not.
    pub async fn client(&self) -> anyhow::Result<Client> {
        self.target().await?.connect().await
    }

    /// Connects to JetStream.
    pub async fn jetstream(&self) -> anyhow::Result<Context> {
        Ok(jetstream::new(self.client().await?))
    }
}

impl Target {
    /// Connects, or says to what it could not.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let connected = self.options.clone().connect(self.servers.clone()).await;
        connected.with_context(|| format!("cannot connect to NATS at {}", self.names()))
    }

    /// The servers, for people.
    pub fn names(&self) -> String {
        let names = self.servers.iter().map(|server| format!("{}:{}", server.host(), server.port()));
        names.collect::<Vec<_>>().join(", ")
    }
}
