//! A worker that cannot start says which setting, which value, and what is needed.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::net::TcpListener;
use std::path::Path;

use async_nats::jetstream::{consumer, stream};
use gristmill_integration::{Ended, Jobs, Nats, Worker, WorkerBuilder, binary, free_port, models_with, run};
use tempfile::TempDir;

fn failed(builder: WorkerBuilder) -> String {
    let mut worker = builder.launch();
    let status = worker.process.wait();
    assert_eq!(status.code(), Some(1), "{}", worker.process.log());
    worker.process.log()
}

fn check(config: Option<&Path>, environment: &[(&str, &str)], flags: &[&str]) -> Ended {
    let config = config.map(|path| ["--config".to_owned(), path.display().to_string()]);
    let args: Vec<String> = config.into_iter().flatten().chain(flags.iter().map(|&flag| flag.into())).collect();
    run(&binary("gristmill-worker"), &[args, vec!["--check".into()]].concat(), environment)
}

#[test]
fn every_wrong_setting_is_told_at_once() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("worker.toml");
    std::fs::write(
        &file,
        "device = \"gpu\"\n[streams]\nduplicate_window_s = 60\n[limits]\nin_fligth = 5\n[admin]\nlisten = \"here\"\n",
    )
    .unwrap();
    let ended = check(
        Some(&file),
        &[("GRISTMILL__LIMITS__IN_FLIGHT", "0")],
        &["--set", "shutdown.grace_ms=-1", "--set", "models.cores=9999"],
    );
    assert_eq!(ended.code, 2);
    for says in [
        "device is \"gpu\": \"gpu\" is none of auto, cpu, cuda, cuda:N",
        "limits.in_flight is \"0\": a number from 1 to 1000000 is expected",
        "limits.in_fligth: there is no such setting",
        "admin.listen is \"here\"",
        "streams.duplicate_window_s is \"60\": at least 420 is needed: twice ack_wait, limits.max_hold_ms and a minute",
        "shutdown.grace_ms is \"-1\"",
        "models.cores is \"9999\": 9999 is none of the processors that this process may use",
    ] {
        assert!(ended.err.contains(says), "{says} is missing in\n{}", ended.err);
    }
}

/// Of each thread of a process its name and the processors that it may use, as the kernel writes them.
fn processors(process: u32) -> Vec<(String, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let field = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    let read = |status: String| (field(&status, "Name:"), field(&status, "Cpus_allowed_list:"));
    tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok()).map(read).collect()
}

#[tokio::test]
async fn threads_keep_to_the_processors_they_are_given() {
    let nats = Nats::start();
    let all = processors(std::process::id())[0].1.clone();
    let mut ends = all.split(['-', ',']);
    let first = ends.next().unwrap().to_owned();
    let last = ends.next_back().unwrap_or(&first).to_owned();
    let builder = WorkerBuilder::new(&nats, &["mlp"]).set("runtime.cores", &first).set("models.cores", &last);
    let mut worker = builder.start();
    let threads = processors(worker.process.id());
    let of = |prefix: &str| -> Vec<&str> {
        let mine = threads.iter().filter(|(name, _)| name.starts_with(prefix));
        mine.map(|(_, processors)| processors.as_str()).collect()
    };
    assert_eq!((of("engine-mlp"), of("gristmill-worke")), (vec![last.as_str()], vec![all.as_str()]), "{threads:?}");
    assert!(!of("runtime").is_empty() && of("runtime").iter().all(|processors| *processors == first), "{threads:?}");
    assert!(worker.terminate().success());
}

#[test]
fn flags_win_over_environment_over_file() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("worker.toml");
    std::fs::write(&file, "device = \"gpu\"\n").unwrap();
    assert_eq!(check(Some(&file), &[], &[]).code, 2);
    assert_eq!(check(Some(&file), &[("GRISTMILL__DEVICE", "cpu")], &[]).code, 0);
    assert_eq!(check(Some(&file), &[("GRISTMILL__DEVICE", "cpu")], &["--set", "device=gpu"]).code, 2);
}

#[test]
fn an_unreadable_settings_file_is_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("worker.toml");
    assert!(check(Some(&file), &[], &[]).err.contains("worker.toml: No such file"));
    std::fs::write(&file, "[limits\n").unwrap();
    let ended = check(Some(&file), &[], &[]);
    assert!(ended.err.contains("worker.toml: TOML parse error at line 1"), "{}", ended.err);
}

#[test]
fn an_unreachable_broker_is_named() {
    let url = format!("nats://127.0.0.1:{}", free_port());
    let log = failed(WorkerBuilder::with_dir(&url, models_with(&["mlp"])).set("nats.connect_timeout_ms", 600));
    assert!(log.contains(&format!("nats.url {url}")) && log.contains("tried for"), "{log}");
}

#[test]
fn a_broker_without_jetstream_is_told_apart() {
    let nats = Nats::start_with(&[]);
    let log = failed(WorkerBuilder::new(&nats, &["mlp"]));
    assert!(log.contains("offers no JetStream to this account"), "{log}");
}

#[test]
fn wrong_credentials_are_an_error_of_the_broker_setting() {
    let nats = Nats::start_with(&["-js", "--user", "a", "--pass", "b"]);
    let log = failed(WorkerBuilder::new(&nats, &["mlp"]).set("nats.connect_timeout_ms", 100));
    assert!(log.contains("nats.url") && log.to_lowercase().contains("authorization"), "{log}");
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "b\n").unwrap();
    let builder = WorkerBuilder::new(&nats, &["mlp"]).set("nats.user", "a");
    let log = failed(builder);
    assert!(log.contains("nats.user is set, nats.password_file is not"), "{log}");
    let builder = WorkerBuilder::new(&nats, &["mlp"]).set("nats.user", "a");
    assert!(builder.set("nats.password_file", file.display()).start().terminate().success());
}

/// The key pair of the NATS documentation.
const NKEY: (&str, &str) = (
    "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
    "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY",
);

#[test]
fn an_nkey_opens_a_broker_that_asks_for_one() {
    let dir = TempDir::new().unwrap();
    let (config, seed) = (dir.path().join("nats.conf"), dir.path().join("seed"));
    std::fs::write(&config, format!("authorization {{ users = [ {{ nkey: {} }} ] }}", NKEY.0)).unwrap();
    std::fs::write(&seed, NKEY.1).unwrap();
    let nats = Nats::start_with(&["-js", "-c", config.to_str().unwrap()]);
    let with_key = WorkerBuilder::new(&nats, &["mlp"]).set("nats.nkey_seed_file", seed.display());
    assert!(with_key.start().terminate().success());
    let log = failed(WorkerBuilder::new(&nats, &["mlp"]).set("nats.connect_timeout_ms", 100));
    assert!(log.to_lowercase().contains("authorization"), "{log}");
    let missing = WorkerBuilder::new(&nats, &["mlp"]).set("nats.nkey_seed_file", "/nowhere");
    assert!(failed(missing).contains("nats.nkey_seed_file \\\"/nowhere\\\": No such file"));
    let missing = WorkerBuilder::new(&nats, &["mlp"]).set("nats.tls_ca_file", "/nowhere");
    assert!(failed(missing).contains("nats.tls_ca_file"));
}

#[test]
fn an_admin_port_in_use_is_named() {
    let nats = Nats::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let log = failed(WorkerBuilder::new(&nats, &["mlp"]).set("admin.listen", address));
    assert!(log.contains(&format!("admin.listen {address}")) && log.contains("in use"), "{log}");
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let nats = Nats::start();
    let log = failed(WorkerBuilder::new(&nats, &["mlp"]).set("device", "cuda:99"));
    assert!(log.contains("device cuda:99"), "{log}");
}

#[tokio::test]
async fn a_stream_that_would_break_a_promise_is_refused_with_the_difference() {
    let nats = Nats::start();
    let context = nats.jetstream().await;
    let config = stream::Config {
        name: "INFER_JOBS".into(),
        subjects: vec!["infer.jobs.>".into()],
        discard: stream::DiscardPolicy::Old,
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    let log = failed(WorkerBuilder::new(&nats, &["mlp"]));
    assert!(log.contains("stream INFER_JOBS: retention is Limits, needed is WorkQueue"), "{log}");
    assert!(log.contains("stream INFER_JOBS: discard is Old, needed is New"), "{log}");
    assert!(log.contains("fix: nats stream edit INFER_JOBS --discard new"), "{log}");
    assert!(context.get_stream("INFER_RESULTS").await.is_err(), "a refused set-up must change nothing");
}

#[tokio::test]
async fn a_consumer_or_window_that_would_break_a_promise_is_refused_with_the_fix() {
    let nats = Nats::start();
    nats.set_up(&["--model", "mlp"]);
    let context = nats.jetstream().await;
    let results = context.get_stream("INFER_RESULTS").await.unwrap().cached_info().config.clone();
    let forgetful = stream::Config { duplicate_window: std::time::Duration::from_secs(30), ..results };
    context.update_stream(forgetful).await.unwrap();
    let jobs = context.get_stream("INFER_JOBS").await.unwrap();
    let consumer: consumer::PullConsumer = jobs.get_consumer("mlp-online").await.unwrap();
    let strict = consumer::Config { max_deliver: 3, max_ack_pending: 10, ..consumer.cached_info().config.clone() };
    let strict = consumer::pull::Config { durable_name: Some("mlp-online".into()), ..pull(strict) };
    jobs.create_consumer(strict).await.unwrap();
    let log = failed(WorkerBuilder::new(&nats, &["mlp"]));
    for says in [
        "consumer mlp-online: max_deliver is 3, needed is 10 or more, and finite; \
         fix: nats consumer edit INFER_JOBS mlp-online --max-deliver 20",
        "consumer mlp-online: max_ack_pending is 10, needed is at least 2048 (limits.in_flight of one worker); \
         fix: nats consumer edit INFER_JOBS mlp-online --max-pending 100000, or lower limits.in_flight",
        "stream INFER_RESULTS: duplicate_window is 30s, needed is at least 420s",
        "fix: nats stream edit INFER_RESULTS --dupe-window 1800s",
    ] {
        assert!(log.contains(says), "{says} is missing in\n{log}");
    }
}

/// The part of a consumer's settings that this test leaves as they are.
fn pull(config: consumer::Config) -> consumer::pull::Config {
    consumer::pull::Config {
        filter_subject: config.filter_subject,
        ack_policy: config.ack_policy,
        ack_wait: config.ack_wait,
        max_deliver: config.max_deliver,
        max_ack_pending: config.max_ack_pending,
        ..Default::default()
    }
}

#[test]
fn a_directory_without_models_is_named() {
    let nats = Nats::start();
    let log = failed(WorkerBuilder::with_dir(&nats.url(), TempDir::new().unwrap()));
    assert!(log.contains("no model in models.dir") && log.contains("<name>/<version>/model.toml"), "{log}");
    let missing = WorkerBuilder::with_dir(&nats.url(), TempDir::new().unwrap()).set("models.dir", "/nowhere");
    assert!(failed(missing).contains("models.dir \\\"/nowhere\\\""));
}

/// A copy of a test model with its manifest edited.
fn edited(dir: &TempDir, model: &str, name: &str, edit: impl Fn(String) -> String) {
    let source = gristmill_integration::root().join("target/models/packages").join(model).join("1");
    let target = dir.path().join(name).join("1");
    std::fs::create_dir_all(&target).unwrap();
    std::fs::copy(source.join("model.pt"), target.join("model.pt")).unwrap();
    let text = std::fs::read_to_string(source.join("model.toml")).unwrap();
    std::fs::write(target.join("model.toml"), edit(text.replace(&format!("\"{model}\""), &format!("\"{name}\""))))
        .unwrap();
}

fn refusal(worker: &Worker, model: &str) -> String {
    let status = worker.status();
    let models = status["models"].as_array().unwrap();
    let found = models.iter().find(|report| report["name"] == model).unwrap_or_else(|| panic!("{status}"));
    found["refused"].as_str().unwrap_or("it is served").to_owned()
}

#[tokio::test]
async fn a_bad_package_is_refused_with_its_reason_and_the_others_serve() {
    let nats = Nats::start();
    let dir = models_with(&["mlp"]);
    edited(&dir, "picky", "digest", |text| text.replace("sha256 = \"", "sha256 = \"0"));
    edited(&dir, "picky", "flipped", |text| {
        let at = text.find("sha256 = \"").unwrap() + 10;
        let other = if &text[at..=at] == "0" { "1" } else { "0" };
        format!("{}{other}{}", &text[..at], &text[at + 1..])
    });
    edited(&dir, "picky", "unknown", |text| text.replace("max_rows", "max_row"));
    edited(&dir, "picky", "gone", |text| text.replace("model.pt", "other.pt"));
    edited(&dir, "picky", "misnamed", |text| text.replace("\"misnamed\"", "\"another\""));
    edited(&dir, "picky", "untrue", |text| {
        text.replace("shape = [-1, 4]\n\n[batching]", "shape = [-1, 5]\n\n[batching]")
    });
    edited(&dir, "mixed", "argless", |text| {
        let (before, rest) = text.split_once("[[inputs]]\nname = \"ids\"").unwrap();
        format!("{before}{}", &rest[rest.find("[[outputs]]").unwrap()..])
    });
    let worker = WorkerBuilder::with_dir(&nats.url(), dir).start();
    for (model, says) in [
        ("digest", "is not 64 lower-case hex digits"),
        ("flipped", "model.pt has sha256"),
        ("unknown", "unknown field `max_row`"),
        ("gone", "other.pt: No such file"),
        ("misnamed", "model.toml says name \"another\", its directory says \"misnamed\""),
        ("untrue", "warm-up with 1 rows: output \"y\" has shape [1, 4], the model has [-1, 5]"),
        ("argless", "warm-up with 1 rows: "),
        ("mlp", "it is served"),
    ] {
        assert!(refusal(&worker, model).contains(says), "{model}: {}", refusal(&worker, model));
    }
    let jobs = Jobs::new(nats.jetstream().await);
    jobs.submit("mlp", "one", Jobs::body("x", &[1, 64], &[0.5; 64]), &[]).await;
    assert_eq!(jobs.results(1).await[0].ok().model_name, "mlp");
}

#[tokio::test]
async fn the_highest_version_serves_and_a_pinned_one_where_all_are_loaded() {
    let nats = Nats::start();
    let dir = TempDir::new().unwrap();
    edited(&dir, "mlp", "m", |text| text);
    let root = dir.path().join("m");
    for version in ["9", "10"] {
        std::fs::create_dir(root.join(version)).unwrap();
        std::fs::copy(root.join("1/model.pt"), root.join(version).join("model.pt")).unwrap();
        let text = std::fs::read_to_string(root.join("1/model.toml")).unwrap();
        let text = text.replace("version = \"1\"", &format!("version = \"{version}\""));
        std::fs::write(root.join(version).join("model.toml"), text).unwrap();
    }
    let _worker = WorkerBuilder::with_dir(&nats.url(), dir).set("models.versions", "all").start();
    let jobs = Jobs::new(nats.jetstream().await);
    let body = || Jobs::body("x", &[1, 64], &[0.5; 64]);
    jobs.submit("m", "default", body(), &[]).await;
    jobs.submit("m", "pinned", body(), &[("Gristmill-Version", "9")]).await;
    let results = jobs.results(2).await;
    let version = |id: &str| results.iter().find(|a| a.id() == id).unwrap().ok().model_version.to_owned();
    assert_eq!((version("default").as_str(), version("pinned").as_str()), ("10", "9"));
}
