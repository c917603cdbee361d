//! Dead letters chosen, put back into their queues, deleted.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use gristmill_integration::{Ended, Jobs, Nats, WorkerBuilder, binary, f32s, run};
use gristmill_schemas::{dead_letter_header as dead, header};
use serde_json::{Value, json};
use tempfile::TempDir;

fn gristmill(nats: &Nats, args: &[&str]) -> Ended {
    run(&binary("gristmill"), &[&["--nats", &nats.url()], args].concat(), &[])
}

/// What `--json` prints, whatever the exit code.
fn summary(nats: &Nats, args: &[&str], code: i32) -> Value {
    let ended = gristmill(nats, &[&["dlq"], args, &["--json"]].concat());
    assert_eq!(ended.code, code, "{args:?}: {}", ended.err);
    serde_json::from_slice(&ended.out).expect("--json prints JSON")
}

fn numbers(nats: &Nats, args: &[&str]) -> Vec<u64> {
    let listed = summary(nats, &[&["ls"], args].concat(), 0);
    listed.as_array().unwrap().iter().map(|row| row["sequence"].as_u64().unwrap()).collect()
}

/// Streams, no worker.
async fn set_up(nats: &Nats, args: &[&str]) -> Jobs {
    nats.set_up(args);
    Jobs::new(nats.jetstream().await)
}

/// A job that nobody has refused, as the dead letter it would be; later headers replace earlier ones.
async fn keep(jobs: &Jobs, number: u64, model: &str, code: &str, more: &[(&str, &str)]) {
    let mut headers = HeaderMap::new();
    let usual = [
        (dead::SUBJECT, format!("infer.jobs.{model}.online")),
        (dead::STREAM, "INFER_JOBS".into()),
        (dead::SEQ, number.to_string()),
        (dead::MODEL, model.into()),
        (dead::CODE, code.into()),
        (dead::PAYLOAD, "inline".into()),
        (header::MSG_ID, format!("dlq.INFER_JOBS.{number}.17")),
    ];
    usual.iter().for_each(|(name, value)| headers.insert(*name, value.as_str()));
    more.iter().for_each(|(name, value)| headers.insert(*name, *value));
    let body = Jobs::body("x", &[1, 64], &[0.5; 64]);
    let sent = jobs.context.publish_with_headers(format!("infer.dlq.{model}"), headers, body.into()).await;
    assert_eq!(sent.unwrap().await.unwrap().sequence, number, "numbers of jobs and dead letters are kept equal");
}

#[tokio::test]
async fn a_replayed_job_is_answered_under_its_own_id_and_its_dead_letter_is_gone() {
    let nats = Nats::start();
    let mut strict = WorkerBuilder::new(&nats, &["mlp"]).set("limits.job_bytes", 1024).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let body = Jobs::body("x", &[4, 64], &[0.5; 4 * 64]);
    // Within its window, the submission's own dedup id would keep a replay from being stored.
    jobs.submit("mlp", "labelled", body.clone(), &[("Nats-Msg-Id", "order-6"), ("Gristmill-Reply", "run1")]).await;
    for msg_id in [Some("order-7"), None] {
        let mut headers = HeaderMap::new();
        msg_id.iter().for_each(|id| headers.insert("Nats-Msg-Id", *id));
        let sent = jobs.context.publish_with_headers("infer.jobs.mlp.bulk", headers, body.clone().into()).await;
        sent.unwrap().await.unwrap();
    }
    let ids = |answers: &[gristmill_integration::Answer]| {
        let mut ids: Vec<String> = answers.iter().map(|answer| answer.id().to_owned()).collect();
        ids.sort();
        ids
    };
    let refused = jobs.results(3).await;
    assert_eq!(ids(&refused), ["INFER_JOBS.3", "labelled", "order-7"]);
    jobs.settled().await;
    assert!(strict.terminate().success());

    let _worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    let done = summary(&nats, &["replay", "--code", "too_large"], 0);
    assert_eq!(done, json!({ "replayed": 3, "skipped": [], "matched": 3, "dry_run": false }));
    let answers = &jobs.results(6).await[3..];
    assert_eq!(ids(answers), ids(&refused));
    assert!(answers.iter().all(|answer| f32s(&answer.ok(), "y").len() == 40));
    let labelled = answers.iter().find(|answer| answer.id() == "labelled").unwrap();
    assert_eq!(labelled.subject, "infer.results.mlp.run1");
    jobs.settled().await;
    assert_eq!(jobs.stored_count("INFER_DLQ").await, 0);
}

#[tokio::test]
async fn a_job_that_fails_again_is_counted_and_not_replayed_for_ever() {
    let nats = Nats::start();
    let _worker = WorkerBuilder::new(&nats, &["picky"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let negative = Jobs::body("x", &[1, 4], &[-1.0; 4]);
    jobs.submit("picky", "negative", negative.clone(), &[("Nats-Msg-Id", "order-7")]).await;
    jobs.settled().await;
    let args = ["replay", "--model", "picky", "--max-replays", "2"];
    for count in 1..=2 {
        assert_eq!(summary(&nats, &args, 0)["replayed"], 1);
        jobs.settled().await;
        assert_eq!(jobs.stored_count("INFER_DLQ").await, 1);
        let letter = jobs.dead_letters(1).await.remove(0);
        assert_eq!((letter.id(), &letter.payload[..]), ("negative", &negative[..]));
        assert_eq!(letter.header(dead::REPLAY), count.to_string());
        // The job's number was `count` when it became the dead letter that was replayed.
        assert_eq!(letter.header(dead::ORIGINAL_MSG_ID), format!("order-7~r{count}.{count}"));
        assert_eq!(summary(&nats, &["ls"], 0)[0]["replays"], count);
    }
    let refused = summary(&nats, &args, 5);
    assert_eq!((refused["replayed"].as_u64(), refused["matched"].as_u64()), (Some(0), Some(1)));
    assert_eq!(refused["skipped"][0]["why"], "it was replayed 2 times, --max-replays is 2");
    assert_eq!((jobs.stored_count("INFER_DLQ").await, jobs.stored_count("INFER_RESULTS").await), (1, 3));
}

#[tokio::test]
async fn filters_choose_and_a_purge_deletes_only_what_they_choose() {
    let nats = Nats::start();
    let jobs = set_up(&nats, &[]).await;
    let old = (dead::AT, "2020-01-01T00:00:00Z");
    for (number, (model, code, more)) in (1..).zip([
        ("mlp", "invalid_input", &[old][..]),
        ("mlp", "model_error", &[]),
        ("picky", "model_error", &[old]),
        ("picky", "internal", &[]),
    ]) {
        keep(&jobs, number, model, code, more).await;
    }
    let sizes: Vec<_> =
        summary(&nats, &["ls"], 0).as_array().unwrap().iter().map(|row| row["bytes"].as_u64()).collect();
    assert_eq!(sizes, [Some(Jobs::body("x", &[1, 64], &[0.5; 64]).len() as u64); 4]);
    let cases: [(&[&str], &[u64]); 9] = [
        (&["--model", "picky"], &[3, 4]),
        (&["--code", "model_error"], &[2, 3]),
        (&["--code", "model_error", "--code", "internal"], &[2, 3, 4]),
        (&["--older-than", "7d"], &[1, 3]),
        (&["--newer-than", "1h"], &[2, 4]),
        (&["--model", "mlp", "--older-than", "7d"], &[1]),
        (&["--model", "nobody"], &[]),
        (&["--code", "model_error", "--limit", "1"], &[2]),
        (&["--older-than", "10s", "--newer-than", "1h"], &[]),
    ];
    for (args, chosen) in cases {
        assert_eq!(numbers(&nats, args), chosen, "{args:?}");
        for command in ["replay", "purge"] {
            let matched = &summary(&nats, &[&[command, "--dry-run"], args].concat(), 0)["matched"];
            assert_eq!(matched.as_u64(), Some(chosen.len() as u64), "{command} {args:?}");
        }
    }
    let by_number = summary(&nats, &["purge", "4", "3", "2", "--model", "picky", "--older-than", "7d"], 0);
    assert_eq!(by_number, json!({ "purged": 1, "skipped": [], "matched": 1, "dry_run": false }));
    assert_eq!(numbers(&nats, &[]), [1, 2, 4]);
    assert_eq!(summary(&nats, &["purge", "--code", "model_error"], 0)["purged"], 1);
    assert_eq!(numbers(&nats, &[]), [1, 4]);
    let gone = summary(&nats, &["purge", "3", "4"], 5);
    assert_eq!((gone["purged"].as_u64(), gone["skipped"][0]["sequence"].as_u64()), (Some(1), Some(3)));
    assert_eq!(summary(&nats, &["purge", "--all"], 0)["purged"], 1);
    assert_eq!(summary(&nats, &["purge", "--all"], 0)["matched"], 0);
    assert_eq!(jobs.stored_count("INFER_DLQ").await, 0);
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_changes_nothing() {
    let nats = Nats::start();
    let jobs = set_up(&nats, &[]).await;
    keep(&jobs, 1, "mlp", "internal", &[(dead::ORIGINAL_MSG_ID, "order-7")]).await;
    keep(&jobs, 2, "mlp", "internal", &[(dead::PAYLOAD, "omitted")]).await;
    let replay = gristmill(&nats, &["dlq", "replay", "--all", "--dry-run"]);
    assert_eq!(replay.code, 5, "{}", replay.err);
    for says in [
        "1 would go to infer.jobs.mlp.online as order-7~r1.1, replay 1\n",
        "2 skipped: the job's bytes are not in it",
        "1 of 2 dead letters would be replayed\n",
    ] {
        assert!(replay.text().contains(says), "{says} is missing in\n{}", replay.text());
    }
    let purge = gristmill(&nats, &["dlq", "purge", "--all", "--dry-run"]);
    assert_eq!((purge.code, &*purge.text()), (0, "2 of 2 dead letters would be purged\n"));
    assert_eq!((jobs.stored_count("INFER_DLQ").await, jobs.stored_count("INFER_JOBS").await), (2, 0));
}

#[test]
fn nothing_chosen_is_wrong_usage() {
    // Refused before any server is asked.
    let gristmill =
        |args: &[&str]| run(&binary("gristmill"), &[&["--nats", "nats://127.0.0.1:1", "dlq"], args].concat(), &[]);
    for args in [&["replay"][..], &["purge"], &["purge", "--limit", "5"], &["replay", "--dry-run", "--json"]] {
        let ended = gristmill(args);
        assert!(ended.code == 2 && ended.err.contains("--all"), "{args:?}: {}", ended.err);
    }
    for (args, says) in [
        (["purge", "--older-than", "soon"], "\"soon\" is no age"),
        (["replay", "--code", "bad_luck"], "[possible values: invalid_message, "),
        (["ls", "--model", "a.b"], "is not a token"),
        (["ls", "--limit", "0"], "zero"),
    ] {
        let ended = gristmill(&args);
        assert!(ended.code == 2 && ended.err.contains(says), "{says}: {}", ended.err);
    }
}

#[tokio::test]
async fn what_cannot_be_replayed_is_kept_and_told_with_its_reason() {
    let nats = Nats::start();
    let jobs = set_up(&nats, &[]).await;
    let cases = [
        ((dead::PAYLOAD, "omitted"), "Gristmill-Dlq-Payload is \"omitted\""),
        ((dead::RAW_HEADERS, "omitted"), "the job's headers were left out"),
        ((dead::RAW_HEADERS, "TkFUUw=="), "the job's headers are not text"),
        ((dead::SUBJECT, "infer.results.mlp.all"), "\"infer.results.mlp.all\" is not a job subject of namespace infer"),
        ((dead::REPLAY, "3"), "it was replayed 3 times, --max-replays is 3"),
    ];
    for (number, (header, _)) in (1..).zip(cases) {
        keep(&jobs, number, "mlp", "internal", &[header]).await;
    }
    keep(&jobs, 6, "mlp", "internal", &[]).await;
    let done = summary(&nats, &["replay", "1", "2", "3", "4", "5", "6", "6", "999"], 5);
    assert_eq!((done["replayed"].as_u64(), done["matched"].as_u64()), (Some(1), Some(6)));
    let skipped = done["skipped"].as_array().unwrap();
    for (number, (_, why)) in (1..).zip(cases) {
        let told = skipped.iter().find(|skipped| skipped["sequence"] == number).expect("each skipped one is told");
        assert!(told["why"].as_str().unwrap().contains(why), "{why}: {told}");
    }
    assert_eq!(skipped[5], json!({ "sequence": 999, "why": "there is no dead letter of this number" }));
    assert_eq!(numbers(&nats, &[]), [1, 2, 3, 4, 5]);
    assert_eq!(jobs.stored_count("INFER_JOBS").await, 1);
}

/// The key pair of the NATS documentation.
const NKEY: (&str, &str) = (
    "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
    "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY",
);

/// Whoever brings no key may do everything; who brings the key, all but delete messages.
fn configure(dir: &TempDir) -> (String, String) {
    let (config, seed) = (dir.path().join("nats.conf"), dir.path().join("seed"));
    let limited = r#"permissions { publish { deny: ["$JS.API.STREAM.MSG.DELETE.>"] } }"#;
    let users = format!("{{ user: all, password: all }}, {{ nkey: {}, {limited} }}", NKEY.0);
    std::fs::write(&config, format!("no_auth_user: all\nauthorization {{ users = [ {users} ] }}")).unwrap();
    std::fs::write(&seed, NKEY.1).unwrap();
    (config.display().to_string(), seed.display().to_string())
}

#[tokio::test]
async fn a_replay_interrupted_before_it_deletes_stores_the_job_once() {
    let dir = TempDir::new().unwrap();
    let (config, seed) = configure(&dir);
    let nats = Nats::start_with(&["-js", "-c", &config]);
    let jobs = set_up(&nats, &[]).await;
    let own = [("X-Team", "search"), ("Gristmill-Timeout-Ms", "600000"), (dead::WORKER, "w1")];
    keep(&jobs, 1, "mlp", "internal", &[&own[..], &[(header::JOB_ID, "once"), (dead::REPLAY, "1")]].concat()).await;
    let cut = gristmill(&nats, &["--nkey", &seed, "dlq", "replay", "1"]);
    assert!(cut.code == 1 && cut.err.contains("run the same again soon"), "{}", cut.err);
    assert_eq!((jobs.stored_count("INFER_JOBS").await, jobs.stored_count("INFER_DLQ").await), (1, 1));
    assert_eq!(summary(&nats, &["replay", "1"], 0)["replayed"], 1);
    assert_eq!((jobs.stored_count("INFER_JOBS").await, jobs.stored_count("INFER_DLQ").await), (1, 0));

    let stored = jobs.context.get_stream("INFER_JOBS").await.unwrap().get_raw_message(1).await.unwrap();
    let mut headers: Vec<(&str, &str)> =
        stored.headers.iter().map(|(name, values)| (name.as_ref(), values[0].as_str())).collect();
    headers.sort();
    assert_eq!(
        headers,
        [
            ("Gristmill-Dlq-Replay", "2"),
            ("Gristmill-Job-Id", "once"),
            ("Gristmill-Timeout-Ms", "600000"),
            ("Nats-Expected-Stream", "INFER_JOBS"),
            ("Nats-Msg-Id", "dlq.INFER_JOBS.1.17~r2.1"),
            ("X-Team", "search"),
        ]
    );
    let _worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    assert_eq!(jobs.results(1).await[0].ok().id, "once");
}

#[tokio::test]
async fn two_jobs_that_shared_a_dedup_id_are_both_replayed() {
    let nats = Nats::start();
    let jobs = set_up(&nats, &[]).await;
    for number in 1..=2 {
        keep(&jobs, number, "mlp", "internal", &[(dead::ORIGINAL_MSG_ID, "nightly")]).await;
    }
    assert_eq!(summary(&nats, &["replay", "--all"], 0)["replayed"], 2);
    assert_eq!((jobs.stored_count("INFER_JOBS").await, jobs.stored_count("INFER_DLQ").await), (2, 0));
}

#[tokio::test]
async fn a_full_jobs_stream_ends_the_replay_and_the_rest_is_kept() {
    let nats = Nats::start();
    // Room for one job.
    let jobs = set_up(&nats, &["--jobs-max-bytes", "1000"]).await;
    for number in 1..=3 {
        keep(&jobs, number, "mlp", "internal", &[]).await;
    }
    let full = gristmill(&nats, &["dlq", "replay", "--model", "mlp", "--json"]);
    assert_eq!(full.code, 1, "{}", full.err);
    let says = "replayed 1, all other dead letters are kept: the job of dead letter 2 was not stored";
    assert!(full.err.contains(says) && full.err.contains("maximum bytes exceeded"), "{}", full.err);
    let done: Value = serde_json::from_slice(&full.out).unwrap();
    assert_eq!(done["replayed"], 1);
    assert_eq!(numbers(&nats, &[]), [2, 3]);
}

#[tokio::test]
async fn a_replay_keeps_to_its_rate() {
    let nats = Nats::start();
    let jobs = set_up(&nats, &[]).await;
    for number in 1..=6 {
        keep(&jobs, number, "mlp", "internal", &[]).await;
    }
    let started = Instant::now();
    assert_eq!(summary(&nats, &["replay", "--all", "--limit", "5", "--rate", "10"], 0)["replayed"], 5);
    assert!(started.elapsed() >= Duration::from_millis(400), "five jobs have four intervals between them");
    assert_eq!(summary(&nats, &["replay", "--all", "--rate", "0"], 0)["replayed"], 1);
}
