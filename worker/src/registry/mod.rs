//! Registry: finds model packages, checks them, has their instances loaded, and writes the route table.

mod package;
mod version;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use gristmill_engine::ModelFile;
use gristmill_schemas::Token;
use gristmill_schemas::manifest::Signature;

pub use package::PackageError;
use package::{Package, scan};

use crate::cores::{self, Cores};
use crate::message::{Instance, Served};
use crate::route::{Models, Routes};
use crate::settings::Section;
use crate::telemetry::{Meters, ModelReport, RunClock};

/// Which packages are loaded, and how often.
#[derive(Debug, Clone)]
pub struct Config {
    /// Holds `<name>/<version>/model.toml`.
    pub dir: PathBuf,
    /// Only the highest version of each model, or every one.
    pub all_versions: bool,
    /// Engine instances of each model.
    pub instances: usize,
    /// Threads one operator may use on the CPU, per instance.
    pub threads: usize,
    /// Processors of the instances; `None` for all.
    pub cores: Option<Cores>,
}

impl Config {
    /// Reads the section `models`.
    pub fn read(section: &mut Section<'_>) -> Self {
        let instances = section.number("instances", 1, 1..=256);
        let cores = section.parsed("cores", "all", cores::read).flatten();
        // The runtime and a broker on the same machine need a core of their own.
        let shared = || std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(1);
        let threads = (cores.as_ref().map_or_else(shared, Cores::count) / instances).max(1);
        let all_versions = section.parsed("versions", "latest", |text| match text {
            "latest" => Ok(false),
            "all" => Ok(true),
            _ => Err("must be latest or all"),
        });
        Self {
            dir: section.path("dir", "models"),
            all_versions: all_versions.unwrap_or_default(),
            instances,
            threads: section.number("threads", threads, 1..=1024),
            cores,
        }
    }
}

/// Starts one instance; given by the app, which knows the run stage.
pub type Spawn<'a> = dyn Fn(Arc<Served>, ModelFile) -> std::io::Result<Instance> + 'a;

/// What was loaded.
#[derive(Default)]
pub struct Loaded {
    /// Where jobs go.
    pub routes: Routes,
    /// For people.
    pub reports: Vec<ModelReport>,
    /// The instances.
    pub engines: Vec<Started>,
}

/// An engine instance that was started.
pub struct Started {
    /// Its model.
    pub model: Token,
    /// Its thread; ends with the drain.
    pub thread: JoinHandle<()>,
    /// How long its present run takes.
    pub clock: Arc<RunClock>,
}

/// Nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The directory cannot be read.
    #[error("models.dir {dir:?}: {source}")]
    Dir {
        /// The setting.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no package, or none that can be served.
    #[error("no model in models.dir {dir:?} can be served{}", list(.reasons))]
    Nothing {
        /// The setting.
        dir: PathBuf,
        /// One for each refused package.
        reasons: Vec<String>,
    },
}

fn list(reasons: &[String]) -> String {
    match reasons {
        [] => " (packages are expected at <name>/<version>/model.toml)".into(),
        _ => format!(":\n  {}", reasons.join("\n  ")),
    }
}

/// Fails early where there is nothing to load from.
pub fn check_dir(config: &Config) -> Result<(), RegistryError> {
    let dir = config.dir.clone();
    config.dir.read_dir().map(drop).map_err(|source| RegistryError::Dir { dir, source })
}

/// Loads and warms up every package. A package that cannot be served is reported and left out: its jobs wait in the
/// stream, the other models serve. Fails where nothing is left.
pub async fn load(config: &Config, device: &str, meters: &Meters, spawn: &Spawn<'_>) -> Result<Loaded, RegistryError> {
    let dir = config.dir.clone();
    let scanned = scan(&dir, config.all_versions).map_err(|source| RegistryError::Dir { dir: dir.clone(), source })?;
    let mut loaded = Loaded::default();
    for path in scanned {
        let began = Instant::now();
        let one = load_one(config, device, &path, meters, spawn, &mut loaded.engines).await;
        meters.loaded(&model_of(&path), if one.is_ok() { "ok" } else { "refused" }, began.elapsed().as_secs_f64());
        match one {
            Ok((served, takes)) => {
                let report = report(&served, takes, config.instances);
                let (model, version, digest) = (&report.name, &report.version, &report.digest);
                tracing::info!(model, version, digest, device, instances = config.instances, "model ready");
                loaded.reports.push(report);
                loaded.routes.models.entry(served.name.clone()).or_default().push(served);
            }
            Err(error) => {
                tracing::error!(%error, package = %path.display(), "model package refused");
                loaded.reports.push(refused(&path, &error));
            }
        }
    }
    if loaded.routes.models.is_empty() {
        let reasons = loaded.reports.into_iter().filter_map(|report| report.refused).collect();
        return Err(RegistryError::Nothing { dir, reasons });
    }
    sort(&mut loaded.routes.models);
    Ok(loaded)
}

/// The highest version first: it is the default.
fn sort(models: &mut Models) {
    for versions in models.values_mut() {
        versions.sort_by(|a, b| version::compare(b.version.as_str(), a.version.as_str()));
    }
}

async fn load_one(
    config: &Config,
    device: &str,
    path: &Path,
    meters: &Meters,
    spawn: &Spawn<'_>,
    engines: &mut Vec<Started>,
) -> Result<(Arc<Served>, Signature), PackageError> {
    let at = path.to_owned();
    // Hashing reads the whole file: not on the runtime.
    let opened = tokio::task::spawn_blocking(move || Package::open(&at)).await;
    let package = opened.map_err(|panic| PackageError::Load(panic.to_string()))??;
    let served = Arc::new(package.served(device, meters));
    let started = start(config.instances, &served, &package.file, spawn, engines).await;
    if started.is_err() {
        meters.forget(&served.meters);
    }
    started.map(|()| (served, package.takes()))
}

async fn start(
    instances: usize,
    served: &Arc<Served>,
    file: &ModelFile,
    spawn: &Spawn<'_>,
    engines: &mut Vec<Started>,
) -> Result<(), PackageError> {
    for _ in 0..instances {
        let Instance { thread, warm, clock } = spawn(Arc::clone(served), file.clone())?;
        engines.push(Started { model: served.name.clone(), thread, clock });
        match warm.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(PackageError::Load(error.0)),
            Err(_) => return Err(PackageError::Load("the engine thread died while loading".into())),
        }
    }
    Ok(())
}

/// The model's name as its directory has it.
fn model_of(path: &Path) -> String {
    let name = path.parent().and_then(Path::file_name).unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn report(served: &Served, takes: Signature, instances: usize) -> ModelReport {
    ModelReport {
        name: served.name.to_string(),
        version: served.version.to_string(),
        digest: served.digest.clone(),
        device: served.device.to_string(),
        instances,
        signature: Some(takes),
        refused: None,
    }
}

fn refused(path: &Path, error: &PackageError) -> ModelReport {
    ModelReport {
        name: model_of(path),
        version: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        digest: String::new(),
        device: String::new(),
        instances: 0,
        signature: None,
        refused: Some(format!("{}: {error}", path.display())),
    }
}
