//! Route: a job meets its model. Pure: it reads a table and checks the job against a signature.

use std::collections::HashMap;
use std::sync::Arc;

use gristmill_engine::{InputSpec, Part, Signature};
use gristmill_schemas::{ErrorCode, Token};

use crate::datatype;
use crate::message::{Input, Job, Outcome, RoutedJob, Served, Tails};

/// The models of this worker. Written by the registry, read by the batch task.
#[derive(Debug, Default)]
pub struct Routes {
    /// By name; the versions, the default one first.
    pub models: HashMap<Token, Vec<Arc<Served>>>,
}

/// Why a job has no place to go.
struct Refusal {
    model: Option<Arc<Served>>,
    code: ErrorCode,
    message: String,
}

/// A job with the model it goes to and the shape it shares with its batch-mates.
pub struct Routed {
    /// The model.
    pub model: Arc<Served>,
    /// Its dimensions behind the rows.
    pub tails: Tails,
    /// The job.
    pub job: RoutedJob,
}

impl Routes {
    /// Finds the job's model and checks the job against it.
    pub fn route(&self, mut job: Job) -> Result<Routed, Box<Outcome>> {
        let checked = self.find(&job).and_then(|model| {
            let refuse = |(code, message)| Refusal { model: Some(Arc::clone(&model)), code, message };
            let wanted = wanted(&model.signature, job.outputs.as_deref()).map_err(refuse)?;
            let (tails, part) = check(&model, std::mem::take(&mut job.inputs), job.rows).map_err(refuse)?;
            Ok((model, tails, part, wanted))
        });
        match checked {
            Ok((model, tails, part, wanted)) => {
                let job = RoutedJob { envelope: job.envelope, deadline: job.deadline, part, wanted };
                Ok(Routed { model, tails, job })
            }
            Err(Refusal { model, code, message }) => {
                Err(Box::new(Outcome::refused(job.envelope, model, code, message)))
            }
        }
    }

    fn find(&self, job: &Job) -> Result<Arc<Served>, Refusal> {
        let name = &job.envelope.origin.consumer.model;
        let refuse = |code, message| Refusal { model: None, code, message };
        let Some(versions) = self.models.get(name).filter(|versions| !versions.is_empty()) else {
            return Err(refuse(ErrorCode::UnknownModel, format!("this worker has no model {name:?}")));
        };
        let Some(pinned) = &job.version else { return Ok(Arc::clone(&versions[0])) };
        let found = versions.iter().find(|model| model.version == *pinned);
        found.cloned().ok_or_else(|| {
            let have: Vec<&str> = versions.iter().map(|model| model.version.as_str()).collect();
            let message = format!("model {name:?} has no version {pinned:?} here, only {}", have.join(", "));
            refuse(ErrorCode::UnknownVersion, message)
        })
    }
}

type Fault = (ErrorCode, String);

fn invalid(message: impl ToString) -> Fault {
    (ErrorCode::InvalidInput, message.to_string())
}

fn wanted(signature: &Signature, names: Option<&[String]>) -> Result<Vec<usize>, Fault> {
    let Some(names) = names else { return Ok((0..signature.outputs.len()).collect()) };
    let index = |name: &String| {
        let found = signature.outputs.iter().position(|output| output.name == *name);
        found.ok_or_else(|| {
            let have: Vec<&str> = signature.outputs.iter().map(|output| output.name.as_str()).collect();
            invalid(format!("the model has no output {name:?}, only {}", have.join(", ")))
        })
    };
    names.iter().map(index).collect()
}

fn check(model: &Served, mut inputs: Vec<Input>, rows: usize) -> Result<(Tails, Part), Fault> {
    if rows > model.max_rows {
        let message = format!("the job has {rows} rows, model {:?} takes at most {}", model.name, model.max_rows);
        return Err((ErrorCode::TooLarge, message));
    }
    let specs = &model.signature.inputs;
    let mut tails = Vec::with_capacity(specs.len());
    let mut data = Vec::with_capacity(specs.len());
    for spec in specs {
        let found = inputs.iter().position(|input| input.name == spec.name.as_bytes());
        let Some(found) = found else { return Err(invalid(format!("input {:?} is missing", spec.name))) };
        let input = inputs.swap_remove(found);
        check_input(spec, &input)?;
        let elements = input.shape.elements().unwrap_or(usize::MAX);
        if elements > model.max_elements {
            let (name, most) = (&spec.name, model.max_elements);
            return Err((ErrorCode::TooLarge, format!("input {name:?} has {elements} elements, the limit is {most}")));
        }
        tails.push(input.shape[1..].to_vec());
        data.push(input.data);
    }
    if let Some(extra) = inputs.first() {
        return Err(invalid(format!("the model has no input {:?}", String::from_utf8_lossy(&extra.name))));
    }
    Ok((tails, Part { rows, inputs: data }))
}

fn check_input(spec: &InputSpec, input: &Input) -> Result<(), Fault> {
    if datatype::host(input.datatype) != Some(spec.dtype) {
        return Err(invalid(format!("input {:?} is {}, the model takes {}", spec.name, input.datatype, spec.dtype)));
    }
    let named = |mismatch| invalid(format!("input {mismatch}"));
    spec.check_shape(&input.shape).map_err(named)?;
    spec.check_values(&input.data).map_err(named)
}
