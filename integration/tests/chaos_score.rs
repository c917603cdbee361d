//! Kills of scorer, worker and broker at random times: the output is that of a run that nobody disturbed, byte for byte.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::process::Command;
use std::time::Duration;

use gristmill_integration::{Chaos, Cluster, Nats, Process, WorkerBuilder, binary, root};
use tempfile::TempDir;

/// Longest time that the run may take.
const PATIENCE: Duration = Duration::from_secs(300);

fn scorer(url: &str, inputs: usize, output: &str) -> Process {
    let mut command = Command::new(binary("gristmill"));
    command.args(["--nats", url, "score", "--model", "mlp", "--keep", "id", "--output", output]);
    // Little on its way, so that the run lasts.
    command.args(["--outstanding", "1"]);
    let input = root().join("target/models/rows/mlp.parquet");
    for _ in 0..inputs {
        command.arg("--input").arg(&input);
    }
    Process::start("scorer", command)
}

#[tokio::test]
async fn whoever_is_killed_the_output_is_the_same() {
    let mut chaos = Chaos::begin("score").await;
    // 100,000 rows each.
    let (inputs, kills) = (chaos.scale(1, 2), chaos.scale(12, 50));
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let mut nats = Nats::start();
    let mut worker =
        WorkerBuilder::new(&nats, &["mlp"]).set("streams.ack_wait_ms", 2000).set("streams.max_deliver", 100).start();
    let (calm, rough) = (path("calm.parquet"), path("rough.parquet"));
    let ended = scorer(&nats.url(), inputs, &calm).wait();
    assert!(ended.success(), "{ended}");
    let mut run = scorer(&nats.url(), inputs, &rough);
    let mut killed = [0; 3];
    for _ in 0..kills {
        chaos.pause(10..150).await;
        if std::path::Path::new(&rough).exists() {
            break;
        }
        let who = chaos.rng.usize(0..3);
        killed[who] += 1;
        match who {
            0 => {
                if run.ended().is_none() {
                    run.signal("KILL");
                    run.wait();
                }
                run = scorer(&nats.url(), inputs, &rough);
            }
            1 => worker.respawn(),
            _ => nats.crash_and_restart(),
        }
    }
    chaos.tell(format!("killed scorer, worker, broker: {killed:?}"));
    assert!(killed.iter().sum::<usize>() * 2 >= kills, "the run was over before it was disturbed");
    // The last one killed may have been away when the scorer looked for it.
    while chaos.elapsed() < PATIENCE {
        match run.ended() {
            Some(ended) if ended.success() => break,
            Some(_) => run = scorer(&nats.url(), inputs, &rough),
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    assert!(run.ended().is_some_and(|ended| ended.success()), "the run does not end:\n{}", run.log());
    chaos.tell(format!("{} bytes", same(&calm, &rough)));
}

/// The reader of results lives on one member only, and the streams change their leaders: the run asks anew, and ends by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_leaders_are_killed_scores_the_same() {
    let mut chaos = Chaos::begin("score, cluster").await;
    let (inputs, kills) = chaos.scale((1, 2), (4, 8));
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let mut cluster = Cluster::start().await;
    let worker = WorkerBuilder::at(cluster.url(), &["mlp"]).set("streams.replicas", 3).set("streams.ack_wait_ms", 2000);
    let _worker = worker.set("streams.max_deliver", 100).start();
    let (calm, rough) = (path("calm.parquet"), path("rough.parquet"));
    let ended = scorer(cluster.url(), inputs, &calm).wait();
    assert!(ended.success(), "{ended}");
    let mut run = scorer(cluster.url(), inputs, &rough);
    let mut hit = 0;
    for _ in 0..kills {
        let stream = *chaos.rng.choice(&["INFER_JOBS", "INFER_RESULTS"]).unwrap();
        let leader = cluster.leader_of(stream).await;
        hit += usize::from(run.ended().is_none());
        cluster.kill(&leader);
        chaos.pause(500..1500).await;
        cluster.restart(&leader);
        cluster.is_whole("INFER_JOBS").await;
        cluster.is_whole("INFER_RESULTS").await;
    }
    while run.ended().is_none() && chaos.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(run.ended().is_some_and(|ended| ended.success()), "the run does not end:\n{}", run.log());
    chaos.tell(format!("{hit} leaders killed in time, {} bytes", same(&calm, &rough)));
    assert!(hit > 0, "the run was over before it was disturbed");
}

/// The length of two files that are the same.
fn same(calm: &str, rough: &str) -> usize {
    let (calm, rough) = (std::fs::read(calm).unwrap(), std::fs::read(rough).unwrap());
    assert!(calm == rough, "{} bytes and {} bytes differ", calm.len(), rough.len());
    calm.len()
}
