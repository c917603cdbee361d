//! The operator's command, run as people and scripts run it.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use gristmill_integration::{Ended, Jobs, Nats, WorkerBuilder, binary, root, run};
use serde_json::Value;
use tempfile::TempDir;

fn gristmill(nats: &Nats, args: &[&str]) -> Ended {
    run(&binary("gristmill"), &[&["--nats", &nats.url()], args].concat(), &[])
}

fn json(ended: &Ended) -> Value {
    assert_eq!(ended.code, 0, "{}", ended.err);
    serde_json::from_slice(&ended.out).expect("--json prints JSON")
}

#[tokio::test]
async fn setup_shows_what_it_would_create_and_then_creates_it_once() {
    let nats = Nats::start();
    let dry = gristmill(&nats, &["setup", "--model", "digits", "--dry-run"]);
    assert_eq!(dry.code, 0, "{}", dry.err);
    for line in ["stream INFER_JOBS", "stream INFER_ADVISORIES", "consumer digits-online", "consumer digits-bulk"] {
        let found = dry.text().lines().any(|l| l.starts_with(line) && l.ends_with("would be created"));
        assert!(found, "{line} is missing in\n{}", dry.text());
    }
    assert!(nats.jetstream().await.get_stream("INFER_JOBS").await.is_err(), "a dry run created something");
    assert!(gristmill(&nats, &["setup", "--model", "digits"]).text().contains("created"));
    let again = json(&gristmill(&nats, &["setup", "--model", "digits", "--json"]));
    assert!(again.as_array().unwrap().iter().all(|row| row["state"] == "is there"), "{again}");
    // What setup makes is what a worker needs.
    assert!(WorkerBuilder::new(&nats, &["digits"]).start().terminate().success());
}

#[tokio::test]
async fn setup_tells_a_stream_that_differs_with_its_own_exit_code() {
    let nats = Nats::start();
    let config = async_nats::jetstream::stream::Config {
        name: "INFER_JOBS".into(),
        subjects: vec!["infer.jobs.>".into()],
        ..Default::default()
    };
    nats.jetstream().await.create_stream(config).await.unwrap();
    let ended = gristmill(&nats, &["setup"]);
    assert_eq!(ended.code, 4);
    assert!(ended.text().contains("differs: retention is Limits, needed is WorkQueue"), "{}", ended.text());
    assert!(ended.err.contains("1 differ from what is needed; nothing was changed"), "{}", ended.err);
}

#[tokio::test]
async fn submit_takes_json_numpy_and_raw_bodies() {
    let nats = Nats::start();
    let _worker = WorkerBuilder::new(&nats, &["mixed", "lengths"]).start();
    let job = r#"{"x": [[1, 2, 3, 4], [5, 6, 7, 8]], "ids": [[1, 1, 1], [1, 1, 2]]}"#;
    let args = ["submit", "mixed", "--json", job, "--datatype", "x=FP32", "--output", "total", "--json-output"];
    let result = json(&gristmill(&nats, &args));
    assert_eq!(result["outputs"][0]["data"], serde_json::json!([3, 4]));
    assert!(result["model_digest"].as_str().unwrap().starts_with("sha256:"));

    let tenth = r#"{"x": [[0.1, 0.2, 0.3, 0.4]], "ids": [[1, 0, 0]]}"#;
    let ended = gristmill(&nats, &["submit", "mixed", "--json", tenth, "--output", "scaled"]);
    assert!(ended.text().starts_with("scaled FP32 [1, 4]: 0.1 0.2 0.3 0.4\n"), "{}{}", ended.text(), ended.err);

    let dir = TempDir::new().unwrap();
    let npy = dir.path().join("ids.npy");
    let script = format!("import numpy as np; np.save({npy:?}, np.array([[1, 2, 3]]))");
    assert_eq!(run(&root().join(".venv/bin/python"), &["-c", &script], &[]).code, 0);
    let named = format!("ids={}", npy.display());
    let ended = gristmill(&nats, &["submit", "lengths", "--npy", &named]);
    assert!(ended.code == 0 && ended.text().starts_with("y FP32 [1, 4]: "), "{}{}", ended.text(), ended.err);

    let raw = dir.path().join("job.msgpack");
    std::fs::write(&raw, Jobs::body("x", &[1, 4], &[1.0; 4])).unwrap();
    let ended = gristmill(&nats, &["submit", "mixed", "--raw", raw.to_str().unwrap()]);
    assert_eq!(ended.code, 3);
    assert!(ended.err.contains("invalid_input: input \"ids\" is missing"), "{}", ended.err);
}

#[tokio::test]
async fn submit_says_why_there_is_no_answer() {
    let nats = Nats::start();
    let ended = gristmill(&nats, &["submit", "mlp", "--json", r#"{"x": [[1]]}"#]);
    assert!(
        ended.code == 1 && ended.err.contains("no stream takes the job: is there a stream INFER_JOBS"),
        "{}",
        ended.err
    );
    assert_eq!(gristmill(&nats, &["setup"]).code, 0);
    let ended = gristmill(&nats, &["submit", "mlp", "--json", r#"{"x": [[1]]}"#, "--timeout", "0.2"]);
    assert!(ended.code == 1 && ended.err.contains("no worker ever served this model"), "{}", ended.err);
    for (args, says) in [
        (["submit", "mlp", "--json", "[1]"], "--json is not an object"),
        (["submit", "mlp", "--json", r#"{"x": [[1], [1, 2]]}"#], "input \"x\": arrays of 1 and of 2 elements"),
        (["submit", "mlp", "--npy", "x=/nowhere.npy"], "/nowhere.npy: No such file"),
        (["submit", "mlp", "--npy", "nowhere"], "\"nowhere\" is not NAME=VALUE"),
        (["submit", "mlp", "--json={\"x\": [[1]]}", "--datatype=z=FP32"], "--datatype names \"z\""),
        (["submit", "a.b", "--json", "{}"], "is not a token"),
    ] {
        let ended = gristmill(&nats, &args);
        assert!(ended.code == 2 && ended.err.contains(says), "{says}: {}", ended.err);
    }
}

#[tokio::test]
async fn dead_letters_are_listed_and_shown_with_their_bytes() {
    let nats = Nats::start();
    let _worker = WorkerBuilder::new(&nats, &["mlp", "picky"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let short = Jobs::body("x", &[1, 3], &[1.0; 3]);
    jobs.submit(
        "mlp",
        "short",
        short.clone(),
        &[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")],
    )
    .await;
    jobs.submit("picky", "negative", Jobs::body("x", &[1, 4], &[-1.0; 4]), &[]).await;
    jobs.dead_letters(2).await;
    let all = json(&gristmill(&nats, &["dlq", "ls", "--json"]));
    assert_eq!(all.as_array().unwrap().len(), 2);
    let mlp = json(&gristmill(&nats, &["dlq", "ls", "--model", "mlp", "--json"]));
    assert_eq!((mlp[0]["code"].as_str(), mlp[0]["job_id"].as_str()), (Some("invalid_input"), Some("short")));
    assert!(gristmill(&nats, &["dlq", "ls"]).text().contains("model_error"));
    let number = mlp[0]["sequence"].to_string();
    let shown = gristmill(&nats, &["dlq", "show", &number]).text();
    for says in [
        "Gristmill-Dlq-Error: input \"x\" has shape [1, 3], the model has [-1, 64]",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "Gristmill-Dlq-Subject: infer.jobs.mlp.online",
        "inputs: x FP32 [1, 3]",
    ] {
        assert!(shown.contains(says), "{says} is missing in\n{shown}");
    }
    assert_eq!(gristmill(&nats, &["dlq", "show", &number, "--raw"]).out, short);
    let missing = gristmill(&nats, &["dlq", "show", "999"]);
    assert!(missing.code == 1 && missing.err.contains("there is no dead letter 999"), "{}", missing.err);
}

#[tokio::test]
async fn status_shows_queues_workers_and_jobs_that_nobody_serves() {
    let nats = Nats::start();
    let before = gristmill(&nats, &["status"]);
    assert!(before.code == 1 && before.err.contains("gristmill setup creates it"), "{}", before.err);
    let worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    jobs.submit("nowhere", "waits", Jobs::body("x", &[1, 1], &[1.0]), &[]).await;
    let admin = worker.admin();
    let status = json(&gristmill(&nats, &["status", "--admin", &admin, "--json"]));
    assert_eq!(status["uncovered"]["infer.jobs.nowhere.online"], 1);
    assert_eq!(status["queues"].as_array().unwrap().len(), 2);
    assert_eq!(status["workers"][0]["models"][0]["name"], "mlp");
    let text = gristmill(&nats, &["status", "--admin", &admin]).text();
    for says in ["mlp-online", "NO CONSUMER", "infer.jobs.nowhere.online", "is ready; 0 of 2048 jobs in flight"] {
        assert!(text.contains(says), "{says} is missing in\n{text}");
    }
    let gone = gristmill(&nats, &["status", "--admin", "http://127.0.0.1:1", "--admin", &admin]);
    assert!(gone.code == 1 && gone.err.contains("1 of 2 workers did not answer"), "{}", gone.err);
    assert!(gone.text().contains("worker http://127.0.0.1:1: ") && gone.text().contains("is ready"), "{}", gone.text());
}

#[test]
fn help_has_examples_and_shells_have_completions() {
    let help = |args: &[&str]| run(&binary("gristmill"), args, &[]).text();
    for command in ["setup", "submit", "status", "top", "dlq ls", "dlq show", "dlq replay", "dlq purge"] {
        let args: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        assert!(help(&args).contains("Example"), "{command}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(help(&["completions", shell]).contains("gristmill"), "{shell}");
    }
    assert_eq!(run(&binary("gristmill"), &["no-such-command"], &[]).code, 2);
}

#[test]
fn the_command_does_not_link_libtorch() {
    let bytes = std::fs::read(binary("gristmill")).unwrap();
    let needle = b"libtorch_cpu.so";
    assert!(!bytes.windows(needle.len()).any(|window| window == needle));
}

#[tokio::test]
async fn bench_answers_for_every_job_and_says_how_long_it_took() {
    let nats = Nats::start();
    let _worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    let input = format!("{{\"x\": [{:?}]}}", [0.5; 64]);
    let saved = tempfile::NamedTempFile::new().unwrap();
    let saved = saved.path().display().to_string();
    let load = ["bench", "mlp", "--json", &input, "--rate", "100", "--warm-up", "0.5", "--seconds", "1"];
    let ended = gristmill(&nats, &[&load[..], &["--arrivals", "constant", "--json-output", "--save", &saved]].concat());
    assert_eq!(ended.code, 0, "{}", ended.err);
    let runs: serde_json::Value = serde_json::from_slice(&ended.out).unwrap();
    assert_eq!(
        (&runs[0]["answered"], &runs[0]["refused"], &runs[0]["unanswered"]),
        (&100.into(), &0.into(), &0.into())
    );
    assert!(runs[0]["p50"].as_f64().unwrap() > 0.0);
    let compared = gristmill(&nats, &[&load[..], &["--compare", &saved]].concat());
    assert!(String::from_utf8_lossy(&compared.out).contains("P50 / P99 TO BEFORE"), "{}", compared.err);
    let silent =
        gristmill(&nats, &["bench", "nobody", "--json", &input, "--rate", "5", "--seconds", "1", "--timeout", "0"]);
    assert_eq!(silent.code, 1);
    assert!(silent.err.contains("jobs were not answered within 0 s"), "{}", silent.err);
}
