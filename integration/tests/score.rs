//! Files in, the same rows with the model's outputs out.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;

use gristmill_integration::{Ended, Nats, WorkerBuilder, binary, root, run};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Broker, worker and a directory to write to.
struct Scene {
    nats: Nats,
    _worker: gristmill_integration::Worker,
    dir: TempDir,
}

impl Scene {
    fn with(models: &[&str]) -> Self {
        let nats = Nats::start();
        let worker = WorkerBuilder::new(&nats, models).start();
        Self { nats, _worker: worker, dir: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.dir.path().join(name), bytes).unwrap();
        self.path(name)
    }

    fn score(&self, args: &[&str]) -> Ended {
        run(&binary("gristmill"), &[&["--nats", &self.nats.url(), "score"], args].concat(), &[])
    }

    /// The summary of a run that has to succeed.
    fn summary(&self, args: &[&str]) -> Value {
        let ended = self.score(&[args, &["--json"]].concat());
        assert_eq!(ended.code, 0, "{}", ended.err);
        serde_json::from_slice(&ended.out).unwrap()
    }
}

/// Files of rows; see `integration/models/build.py`.
fn rows(name: &str) -> String {
    root().join("target/models/rows").join(name).display().to_string()
}

fn lines(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What PyTorch and a reader of Parquet that is not ours say of an output.
fn check(input: &str, output: &str) {
    let python = root().join(".venv/bin/python");
    let script = root().join("integration/models/scored.py").display().to_string();
    let ended = run(&python, &[&script, input, output], &[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
}

#[test]
fn digits_in_every_format_are_scored_as_pytorch_scores_them() {
    let scene = Scene::with(&["digits"]);
    let parquet = scene.path("of_csv.parquet");
    let args = ["--model", "digits", "--keep", "label,expected", "--input"];
    let with = |more: &[&str]| scene.summary(&[&args[..], more].concat());
    with(&[&rows("digits.csv"), "--map", "pixel_*=image", "--output", &parquet]);
    check(&rows("digits.parquet"), &parquet);
    let again = scene.path("of_parquet.parquet");
    let summary = with(&[&rows("digits.parquet"), "--output", &again]);
    assert_eq!(
        (summary["rows"].as_u64(), summary["ok"].as_u64(), summary["errors"].as_u64()),
        (Some(450), Some(450), Some(0))
    );
    check(&rows("digits.parquet"), &again);
    let small = scene.path("in_small_jobs.parquet");
    let jobs_of =
        |most: &'static str| [&rows("digits.parquet"), "--output", &small, "--rows-per-job", most].map(str::to_owned);
    assert_eq!(with(&jobs_of("7").each_ref().map(String::as_str))["jobs"], json!(450_u64.div_ceil(7)));
    check(&rows("digits.parquet"), &small);
    let refused = scene.score(&[&args[..], &jobs_of("100000").each_ref().map(String::as_str)].concat());
    assert!(refused.code == 2 && refused.err.contains("--rows-per-job 100000 is more than"), "{}", refused.err);
    // Through every other format, and back.
    let (arrow, csv, jsonl) = (scene.path("d.arrow"), scene.path("d.csv"), scene.path("d.jsonl"));
    scene.summary(&["--model", "digits", "--input", &rows("digits.parquet"), "--output", &arrow, "--outputs", "digit"]);
    scene.summary(&[&args[..], &[&arrow, "--output", &csv]].concat());
    scene.summary(&["--model", "digits", "--input", &rows("digits.npy"), "--output", &jsonl, "--keep", ""]);
    let header = std::fs::read_to_string(&csv).unwrap().lines().next().unwrap().to_owned();
    assert!(
        header.starts_with("label,expected,scores_0,scores_1,") && header.contains("scores_9,digit,error_code"),
        "{header}"
    );
    let digits: Vec<u64> = lines(&jsonl).iter().map(|row| row["digit"].as_u64().unwrap()).collect();
    let of_csv: Vec<u64> = std::fs::read_to_string(&csv)
        .unwrap()
        .lines()
        .skip(1)
        .map(|line| line.split(',').nth(12).unwrap().parse().unwrap())
        .collect();
    assert_eq!((digits.len(), digits), (450, of_csv));
}

#[test]
fn rows_come_out_in_the_order_they_went_in_and_a_finished_run_is_not_repeated() {
    let scene = Scene::with(&["mlp"]);
    let (input, output) = (rows("mlp.parquet"), scene.path("scored.parquet"));
    let args = ["--model", "mlp", "--input", &input, "--keep", "id", "--output", &output];
    let summary = scene.summary(&args);
    assert_eq!((summary["rows"].as_u64(), summary["jobs"].as_u64()), (Some(100_000), Some(391)));
    check(&input, &output);
    let bytes = std::fs::read(&output).unwrap();
    let again = scene.summary(&args);
    assert_eq!(
        (again["state"].as_str(), again["scored_now"].as_u64(), again["rows"].as_u64()),
        (Some("complete before"), Some(0), Some(100_000))
    );
    // Begun anew it gives the same bytes, whatever ids its jobs had before.
    scene.summary(&[&args[..], &["--restart"]].concat());
    assert!(std::fs::read(&output).unwrap() == bytes, "the same run gave other bytes");
    // What is not what was asked for is not gone on with.
    let other = scene.score(&[&args[..], &["--outputs", "y", "--prefix", "p_"]].concat());
    assert!(
        other.code == 1 && other.err.contains("options.prefix is \"p_\", was \"\""),
        "{} {}",
        other.code,
        other.err
    );
    std::fs::write(&output, b"mine").unwrap();
    let changed = scene.score(&args);
    assert!(changed.err.contains("and is now 4 bytes long: begin anew with --restart"), "{}", changed.err);
}

#[test]
fn rows_of_any_length_hardly_pad_and_come_back_as_they_were() {
    let scene = Scene::with(&["tokens"]);
    let output = scene.path("scored.jsonl");
    let args = ["--model", "tokens", "--input", &rows("tokens.parquet"), "--keep", "n", "--output", &output];
    let told = scene.summary(&args)["padding"].as_f64().unwrap();
    let (mut real, mut padded) = (0, 0);
    for (index, row) in lines(&output).iter().enumerate() {
        let n = row["n"].as_u64().unwrap();
        assert_eq!((row["length"].as_u64(), row["sum"].as_u64()), (Some(n), Some(n * (n + 1) / 2)), "row {index}");
        let left: Vec<u64> = row["left"].as_array().unwrap().iter().map(|value| value.as_u64().unwrap()).collect();
        assert_eq!((left.len() as u64, left.last()), (n, Some(&0)), "row {index}");
        (real, padded) = (real + n, padded + row["batch_length"][0].as_u64().unwrap());
    }
    let waste = 1.0 - real as f64 / padded as f64;
    assert!(waste <= 0.08 && told <= waste, "{waste} of what the model ran on was padding, {told} of what was sent");
}

/// Rows for `picky`, which takes 4 numbers of at most a million and throws on a negative one; every twentieth is bad.
fn poisoned(rows: usize) -> Vec<Value> {
    let bad = [json!([1, 2, 3]), json!([1, -1, 1, 1]), json!([1, 1, 2e6, 1]), json!(null), json!([1, null, 1, 1])];
    let row = |at: usize| if at % 20 == 7 { bad[at / 20 % bad.len()].clone() } else { json!([at, 1, 2, 3]) };
    (0..rows).map(|at| json!({ "n": at, "x": row(at) })).collect()
}

fn jsonl(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

#[test]
fn only_bad_rows_fail_each_for_its_own_reason() {
    let scene = Scene::with(&["picky"]);
    let all = poisoned(5000);
    let (input, output) = (scene.write("rows.jsonl", jsonl(&all)), scene.path("scored.jsonl"));
    let args = ["--model", "picky", "--input", &input, "--output", &output];
    let summary = scene.summary(&args);
    assert_eq!(
        (summary["rows"].as_u64(), summary["ok"].as_u64(), summary["errors"].as_u64()),
        (Some(5000), Some(4750), Some(250))
    );
    assert_eq!(summary["codes"], json!({ "invalid_input": 200, "model_error": 50 }));
    let says = ["has 3 values", "a negative value", "is 2000000, the model takes", "is null", "is null or no FP32"];
    for (at, row) in lines(&output).iter().enumerate() {
        assert_eq!(row["n"], json!(at));
        if at % 20 == 7 {
            let message = row["error_message"].as_str().unwrap();
            assert!(message.contains(says[at / 20 % says.len()]) && row["y"].is_null(), "row {at}: {row}");
            assert_eq!(row["error_trace_id"].is_string(), row["error_code"] == "model_error", "row {at}: {row}");
        } else {
            assert_eq!((&row["y"][0], &row["error_code"]), (&json!(at as f64 * 2.0), &Value::Null), "row {at}");
        }
    }
    let letters = run(&binary("gristmill"), &["--nats", &scene.nats.url(), "dlq", "ls", "--json"], &[]);
    assert_eq!(letters.text().trim(), "[]", "the input has the rows");
    // The same apart, and once more: the failed rows alone are sent.
    let (apart, failed) = (scene.path("ok.jsonl"), scene.path("failed.jsonl"));
    let args = ["--model", "picky", "--input", &input, "--output", &apart, "--errors", &failed];
    let first = scene.summary(&args);
    let (ok, failed) = (lines(&apart), lines(&failed));
    assert_eq!((ok.len(), failed.len()), (4750, 250));
    assert!(failed.iter().all(|row| row["row"].as_u64().unwrap() % 20 == 7), "{failed:?}");
    let bytes = std::fs::read(&apart).unwrap();
    let again = scene.summary(&[&args[..], &["--retry-errors"]].concat());
    assert_eq!((&again["errors"], &again["codes"]), (&json!(250), &first["codes"]));
    assert!(again["jobs"].as_u64() < Some(200) && std::fs::read(&apart).unwrap() == bytes, "{again}");
}

#[test]
fn too_many_errors_end_a_run_that_goes_on_when_more_are_allowed() {
    let scene = Scene::with(&["picky"]);
    let (input, output) = (scene.write("rows.jsonl", jsonl(&poisoned(5000))), scene.path("scored.jsonl"));
    let args = ["--model", "picky", "--input", &input, "--output", &output];
    for most in ["0", "20", "1%"] {
        let stopped = scene.score(&[&args[..], &["--max-errors", most]].concat());
        assert!(
            stopped.code == 6 && stopped.err.contains("the same command goes on"),
            "{} {}",
            stopped.code,
            stopped.err
        );
        assert!(!Path::new(&output).exists(), "an output that is not whole");
    }
    assert_eq!(scene.summary(&[&args[..], &["--max-errors", "6%"]].concat())["errors"], json!(250));
}

#[test]
fn each_thing_that_cannot_be_scored_is_named_and_leaves_no_output() {
    let scene = Scene::with(&["mlp"]);
    let whole = std::fs::read(rows("mlp.parquet")).unwrap();
    let x: Vec<f64> = vec![0.5; 64];
    let row = format!("{}\n", json!({ "x": x }));
    let wide: String = (0..1_000_000).map(|column| format!("c{column},")).collect::<String>() + "x\n";
    let output = scene.path("out.parquet");
    let inputs: [(&str, Vec<u8>, &str); 9] = [
        ("cut.parquet", whole[..whole.len() / 2].to_vec(), "cannot be read as parquet"),
        ("empty.parquet", vec![], "is empty, not even a header is in it"),
        ("wide.csv", wide.into_bytes(), "the input has 1000001 columns, the limit is 16384"),
        ("text.jsonl", b"{\"x\": {\"a\": 1}}\n".to_vec(), "column \"x\" is Struct"),
        ("broken.jsonl", [row.as_bytes(), b"{\"x\": [0.5,"].concat(), "cannot be read as jsonl"),
        (
            "other.csv",
            b"a,b\n1,2\n".to_vec(),
            "no column \"x\" for the input of that name (--map COLUMN=x); the columns are a, b",
        ),
        ("short.csv", b"x,z\n1,2\n3\n".to_vec(), "incorrect number of fields for line 3"),
        ("rows.xls", b"x".to_vec(), "the name tells no format (--input-format)"),
        (
            "cut.npy",
            std::fs::read(rows("digits.npy")).unwrap()[..5000].to_vec(),
            "the array is cut off behind row 0 of 450",
        ),
    ];
    for (name, bytes, says) in inputs {
        let input = scene.write(name, bytes);
        let ended = scene.score(&["--model", "mlp", "--input", &input, "--output", &output]);
        assert!(ended.code != 0 && ended.err.contains(says), "{name}: {} {}", ended.code, ended.err);
        assert!(!Path::new(&output).exists(), "{name} left an output");
        drop(std::fs::remove_dir_all(format!("{output}.run")));
    }
    let (good, mine) = (rows("mlp.parquet"), scene.write("mine.parquet", &whole));
    for (args, says) in [
        (
            ["--model", "gone", "--input", &good, "--output", &output],
            "no worker serves model gone; the 1 that answered serve mlp 1",
        ),
        (
            ["--model", "mlp", "--input", "no/such*.csv", "--output", &output],
            "--input no/such*.csv: there is no such file",
        ),
        (
            ["--model", "mlp", "--input", &good, "--output", "/proc/no/out.parquet"],
            "the run's directory /proc/no/out.parquet.run",
        ),
        (["--model", "mlp", "--input", &good, "--output", "out.npy"], "npy holds one array and no table"),
        (["--model", "mlp", "--input", &good, "--output", "/tmp"], "--output /tmp is a directory"),
        (["--model", "mlp", "--input", &mine, "--output", &mine], "is an input: write somewhere else"),
    ] {
        let ended = scene.score(&args);
        assert!(ended.code != 0 && ended.err.contains(says), "{args:?}: {} {}", ended.code, ended.err);
    }
    // No rows are no fault.
    let none = scene.write("none.csv", "x\n");
    assert_eq!(scene.summary(&["--model", "mlp", "--input", &none, "--output", &output])["rows"], json!(0));
}

#[test]
fn where_no_more_fits_on_the_disk_the_run_says_so_and_goes_on_later() {
    let scene = Scene::with(&["mlp"]);
    let (input, output) = (rows("mlp.parquet"), scene.path("scored.csv"));
    let args = ["--model", "mlp", "--input", &input, "--keep", "id", "--output", &output];
    // Parts fit, the output of all of them does not: files may have 8 MB.
    let mut limited = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 16000; exec \"$0\" \"$@\"";
    let limited =
        limited.args(["-c", script]).arg(binary("gristmill")).args(["--nats", &scene.nats.url(), "score"]).args(args);
    let ended = limited.output().unwrap();
    let says = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && says.contains("File too large") && says.contains("100000 rows"), "{says}");
    let left: Vec<PathBuf> = std::fs::read_dir(scene.dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [scene.dir.path().join("scored.csv.run")]);
    let summary = scene.summary(&args);
    assert_eq!((summary["rows"].as_u64(), summary["scored_now"].as_u64()), (Some(100_000), Some(0)));
    assert_eq!(std::fs::read_to_string(&output).unwrap().lines().count(), 100_001);
}

#[test]
fn a_stream_is_scored_as_it_comes() {
    let scene = Scene::with(&["picky"]);
    let input = scene.write("rows.jsonl", jsonl(&poisoned(2000)));
    let mut command = Command::new(binary("gristmill"));
    let streams = ["--input", "-", "--input-format", "jsonl", "--output", "-", "--json"];
    command.args(["--nats", &scene.nats.url(), "score", "--model", "picky"]).args(streams);
    let ended = command.stdin(std::fs::File::open(input).unwrap()).output().unwrap();
    let says = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success() && says.contains("\"rows\": 2000"), "{says}");
    let rows: Vec<Value> =
        String::from_utf8(ended.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() == 2000 && rows.iter().enumerate().all(|(at, row)| row["n"] == json!(at)), "rows are missing");
}

#[test]
fn two_scorers_at_once_share_the_worker_and_keep_their_answers_apart() {
    let scene = Scene::with(&["mlp"]);
    let (input, outputs) = (rows("mlp.parquet"), ["a.parquet", "b.parquet"].map(|name| scene.path(name)));
    let start = |output: &String| {
        let mut command = Command::new(binary("gristmill"));
        command.args(["--nats", &scene.nats.url(), "score", "--model", "mlp", "--keep", "id", "--input", &input]);
        command.args(["--output", output, "--outstanding", "1"]);
        gristmill_integration::Process::start("scorer", command)
    };
    let scorers = outputs.each_ref().map(start);
    for (mut scorer, output) in scorers.into_iter().zip(&outputs) {
        assert!(scorer.wait().success(), "{}", scorer.log());
        check(&input, output);
    }
    // A third, while the directory of one is taken.
    let lock = std::fs::File::open(format!("{}.run/lock", outputs[0])).unwrap();
    lock.lock().unwrap();
    let args = ["--model", "mlp", "--keep", "id", "--input", &input, "--output", &outputs[0]];
    assert!(scene.score(&args).err.contains("another gristmill score works on"), "two on one output");
}

#[test]
fn a_run_is_seen_and_cancelled_from_elsewhere() {
    let scene = Scene::with(&["slow"]);
    let rows: Vec<Value> = (0..5000).map(|_| json!({ "x": [1.0] })).collect();
    let (input, output) = (scene.write("rows.jsonl", jsonl(&rows)), scene.path("scored.jsonl"));
    let mut command = Command::new(binary("gristmill"));
    command.args(["--nats", &scene.nats.url(), "score", "--model", "slow", "--input", &input, "--output", &output]);
    let mut scorer = gristmill_integration::Process::start("scorer", command);
    let mut found = Value::Null;
    scorer.wait_until(|_| {
        let all: Value = serde_json::from_slice(&scene.score(&["status"]).out).unwrap();
        found = all[0].clone();
        found["answered"].as_u64() > Some(0)
    });
    let run = found["run"].as_str().unwrap();
    assert_eq!((found["rows"].clone(), found["model"].as_str()), (Value::Null, Some("slow 1")));
    let cancelled = scene.score(&["cancel", run]);
    assert_eq!(cancelled.code, 0, "{}", cancelled.err);
    assert_eq!(scorer.wait().code(), Some(7), "{}", scorer.log());
    assert!(scene.score(&["status", run]).err.contains("no scorer answers for run"));
    let record: Value = serde_json::from_slice(&scene.score(&["status", &output]).out).unwrap();
    assert_eq!((record["run"].as_str(), Path::new(&output).exists()), (Some(run), false));
}

/// The Python client's way: tables in memory, the same answers.
const PYTHON: &str = r#"
import asyncio, sys
import numpy as np, pandas as pd, pyarrow.parquet as pq, gristmill

async def main(url, rows):
    async with await gristmill.connect(url) as client:
        digits = pd.read_parquet(rows + "/digits.parquet")
        scored = await client.score(digits, "digits", keep=["expected"], outputs=["digit"])
        assert list(scored.columns) == ["expected", "digit", "error_code", "error_message"], scored.columns
        assert len(scored) == 450 and (scored["digit"] == scored["expected"]).all()
        columns = [f"pixel_{index}" for index in range(64)]
        of_csv = await client.score(rows + "/digits.csv", "digits", inputs={"image": columns}, outputs=["digit"])
        assert of_csv["digit"].to_pylist() == scored["digit"].tolist()
        tokens = await client.score(pq.read_table(rows + "/tokens.parquet").slice(0, 500), "tokens")
        n = tokens["n"].to_numpy()
        assert (tokens["sum"].to_numpy() == n * (n + 1) // 2).all()
        assert [len(left) for left in tokens["left"].to_pylist()] == n.tolist()
        bad = {3: [1, 2, 3], 9: [1, -1, 1, 1], 20: None}
        x = [bad.get(at, [at, 1, 2, 3]) for at in range(100)]
        picky = await client.score(pd.DataFrame({"x": x}), "picky")
        assert {at: code for at, code in enumerate(picky["error_code"]) if isinstance(code, str)} == {
            3: "invalid_input", 9: "model_error", 20: "invalid_input"}
        assert all(row[0] == at * 2 for at, row in enumerate(picky["y"]) if at not in bad)
        try:
            await client.score(digits, "gone")
        except gristmill.NoSuchModel as error:
            assert "digits 1" in str(error), error
        else:
            raise AssertionError("there is no such model")

asyncio.run(main(*sys.argv[1:]))
"#;

#[test]
fn a_table_in_python_is_scored_alike() {
    let scene = Scene::with(&["digits", "tokens", "picky"]);
    let python = root().join(".venv/bin/python");
    let rows = root().join("target/models/rows").display().to_string();
    let ended = run(&python, &["-c", PYTHON, &scene.nats.url(), &rows], &[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
}
