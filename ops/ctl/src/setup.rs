use gristmill_schemas::Token;
use gristmill_schemas::topology::{self, Config, Step, Topology, apply, plan};
use serde_json::json;

use crate::connection::Connection;
use crate::error::Failure;
use crate::table;

/// Creates streams, and a consumer for each lane of the named models. What exists is compared in what the promises depend
/// on, and never changed: sizes, ages and replicas stay as they are.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gristmill setup --model digits --model mlp --replicas 3 --dry-run")]
pub struct Args {
    /// Model to create consumers for; may be repeated (a worker creates those of its own models)
    #[arg(long, value_name = "NAME")]
    model: Vec<Token>,

    /// Show what would be created and what differs, change nothing
    #[arg(long)]
    dry_run: bool,

    /// Copies of each stream
    #[arg(long, default_value_t = Config::default().replicas)]
    replicas: usize,

    /// Consumers: time without an answer or keep-alive after which a job is delivered again
    #[arg(long, default_value_t = Config::default().ack_wait_ms)]
    ack_wait_ms: u64,

    /// Jobs stream: most bytes of waiting jobs, -1 for no limit
    #[arg(long, default_value_t = Config::default().jobs_max_bytes, allow_negative_numbers = true)]
    jobs_max_bytes: i64,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `gristmill setup`.
pub async fn run(connection: &Connection, args: Args) -> Result<(), Failure> {
    let Args { replicas, ack_wait_ms, jobs_max_bytes, .. } = args;
    let mut config = Config { replicas, ack_wait_ms, jobs_max_bytes, ..Config::default() };
    config.duplicate_window_s =
        config.duplicate_window_s.max(config.least_window(topology::DEFAULT_MAX_HOLD).as_secs() + 1);
    let (namespace, max_hold) = (connection.namespace.clone(), topology::DEFAULT_MAX_HOLD);
    let topology = Topology { namespace, config, models: args.model, in_flight: 1, max_hold };
    let context = connection.jetstream().await?;
    let steps = plan(&context, &topology).await?.0;
    let differs = steps.iter().filter(|(_, step)| matches!(step, Step::Differs(_))).count();
    let is_plan = args.dry_run || differs > 0;
    if !is_plan {
        apply(&context, &topology).await?;
    }
    show(&steps, args.json, is_plan)?;
    if differs > 0 {
        return Err(Failure::with(4, anyhow::anyhow!("{differs} differ from what is needed; nothing was changed")));
    }
    Ok(())
}

fn show(steps: &[(String, Step)], as_json: bool, is_plan: bool) -> anyhow::Result<()> {
    let create = if is_plan { "would be created" } else { "created" };
    let state = |step: &Step| match step {
        Step::Keep => "is there".to_owned(),
        Step::Create => create.to_owned(),
        Step::Differs(differences) => {
            let each =
                differences.iter().map(|d| format!("{} is {}, needed is {}; {}", d.field, d.have, d.need, d.fix));
            format!("differs: {}", each.collect::<Vec<_>>().join("; "))
        }
    };
    if as_json {
        let rows = steps.iter().map(|(object, step)| json!({ "object": object, "state": state(step) }));
        return table::json(&rows.collect::<Vec<_>>());
    }
    let rows: Vec<_> = steps.iter().map(|(object, step)| [object.clone(), state(step)]).collect();
    Ok(table::print(["OBJECT", "STATE"], &rows)?)
}
