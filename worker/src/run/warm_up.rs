use gristmill_engine::{Engine, HostTensor, InputSpec, LoadError, RunError};

use crate::message::Served;

/// Runs one row and a full batch, and checks what comes out. The TorchScript executor specialises in its first runs.
pub(super) fn warm_up(engine: &mut dyn Engine, model: &Served) -> Result<(), LoadError> {
    let signature = &model.signature;
    let largest = signature.inputs.iter().map(|input| input.example.iter().product::<usize>().max(1)).max();
    let most = model.max_rows.min(model.max_elements / largest.unwrap_or(1)).max(1);
    for rows in [1, 2, most, most] {
        let rows = rows.min(most);
        let inputs: Vec<HostTensor> = signature.inputs.iter().map(|input: &InputSpec| input.example(rows)).collect();
        let failed = |reason: String| LoadError(format!("warm-up with {rows} rows: {reason}"));
        let outputs = engine.run(&inputs).map_err(|error| failed(error.to_string()))?;
        signature.check_outputs(&outputs, rows).map_err(|mismatch| failed(format!("output {mismatch}")))?;
    }
    Ok(())
}

/// One row of the manifest's own example: what a sound instance can run at any time.
pub(super) fn control(engine: &mut dyn Engine, model: &Served) -> Result<(), RunError> {
    let inputs: Vec<HostTensor> = model.signature.inputs.iter().map(|input| input.example(1)).collect();
    let outputs = engine.run(&inputs)?;
    let checked = model.signature.check_outputs(&outputs, 1);
    checked.map_err(|mismatch| RunError::Failed(format!("the model's output {mismatch}")))
}
