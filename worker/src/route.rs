//! Route: a job meets its model. Pure: it reads a table and checks the job against a signature.

use std::collections::HashMap;
use std::sync::Arc;

use gristmill_engine::{InputSpec, Part, Signature};
use gristmill_schemas::{ErrorCode, Token};
use rustc_hash::FxBuildHasher;

use crate::datatype;
use crate::message::{Input, Job, Outcome, RoutedJob, Served, Tails};

/// The models of this worker. Made by the registry at start, read where jobs come in.
#[derive(Debug, Default)]
pub struct Routes {
    /// By name; the versions, the default one first. No stranger chooses these names, so a fast hash will do.
    pub models: Models,
}

/// See [`Routes`].
pub type Models = HashMap<Token, Vec<Arc<Served>>, FxBuildHasher>;

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
            let checked = check(&model, std::mem::take(&mut job.inputs), job.rows).map_err(refuse)?;
            Ok((model, checked, wanted))
        });
        match checked {
            Ok((model, Checked { tails, part }, wanted)) => {
                let Job { envelope, deadline, is_suspect, .. } = job;
                let job = RoutedJob { envelope, deadline, part, wanted, is_suspect };
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

fn wanted(signature: &Signature, names: Option<&[String]>) -> Result<Option<Vec<usize>>, Fault> {
    let Some(names) = names else { return Ok(None) };
    let index = |name: &String| {
        let found = signature.outputs.iter().position(|output| output.name == *name);
        found.ok_or_else(|| {
            let have: Vec<&str> = signature.outputs.iter().map(|output| output.name.as_str()).collect();
            invalid(format!("the model has no output {name:?}, only {}", have.join(", ")))
        })
    };
    names.iter().map(index).collect::<Result<_, _>>().map(Some)
}

/// Inputs that a model takes.
struct Checked {
    /// Their dimensions behind the rows; 0 where the length stands.
    tails: Tails,
    part: Part,
}

fn check(model: &Served, mut inputs: Vec<Input>, rows: usize) -> Result<Checked, Fault> {
    if rows > model.max_rows {
        let message = format!("the job has {rows} rows, model {:?} takes at most {}", model.name, model.max_rows);
        return Err((ErrorCode::TooLarge, message));
    }
    let specs = &model.signature.inputs;
    let mut tails = Vec::with_capacity(specs.len());
    let mut data = Vec::with_capacity(specs.len());
    let mut length = None;
    for spec in specs {
        let Some(found) = inputs.iter().position(|input| input.name == spec.name.as_bytes()) else {
            if spec.pad.is_some_and(|pad| pad.is_mask) {
                // Made when its batch is stacked.
                tails.push(vec![0]);
                data.push(None);
                continue;
            }
            return Err(invalid(format!("input {:?} is missing", spec.name)));
        };
        let input = inputs.swap_remove(found);
        check_input(spec, &input)?;
        let elements = input.shape.elements().unwrap_or(usize::MAX);
        if elements > model.max_elements {
            let (name, most) = (&spec.name, model.max_elements);
            return Err((ErrorCode::TooLarge, format!("input {name:?} has {elements} elements, the limit is {most}")));
        }
        let mut tail = input.shape[1..].to_vec();
        if let Some(pad) = spec.pad {
            agree(&mut length, &spec.name, std::mem::take(&mut tail[pad.dim]))?;
        }
        tails.push(tail);
        data.push(Some(input.data));
    }
    if let Some(extra) = inputs.first() {
        return Err(invalid(format!("the model has no input {:?}", String::from_utf8_lossy(&extra.name))));
    }
    let length = length.map_or(1, |(_, length)| length);
    Ok(Checked { tails, part: Part { rows, length, inputs: data } })
}

/// Inputs that are filled up have one length in a job. `known`: that of one of them, and whose it is.
fn agree<'a>(known: &mut Option<(&'a str, usize)>, name: &'a str, length: usize) -> Result<(), Fault> {
    match *known {
        Some((other, have)) if have != length => {
            Err(invalid(format!("input {name:?} has length {length}, input {other:?} has {have}; they have to agree")))
        }
        _ => {
            *known = Some((name, length));
            Ok(())
        }
    }
}

fn check_input(spec: &InputSpec, input: &Input) -> Result<(), Fault> {
    if datatype::host(input.datatype) != Some(spec.dtype) {
        return Err(invalid(format!("input {:?} is {}, the model takes {}", spec.name, input.datatype, spec.dtype)));
    }
    let named = |mismatch| invalid(format!("input {mismatch}"));
    spec.check_shape(&input.shape).map_err(named)?;
    spec.check_values(&input.data).map_err(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::testing::{envelope, refusal};
    use gristmill_engine::{Dtype, OutputSpec};
    use gristmill_schemas::{Datatype, Shape};
    use std::time::Duration;

    fn served(version: &str) -> Arc<Served> {
        let input = |name: &str, dtype, range| InputSpec {
            name: name.into(),
            dtype,
            dims: vec![None],
            range,
            example: vec![1],
            pad: None,
        };
        let inputs = vec![input("x", Dtype::F32, None), input("ids", Dtype::I64, Some((0.0, 9.0)))];
        let output = |name: &str| OutputSpec { name: name.into(), dtype: Dtype::F32, dims: vec![None] };
        Arc::new(Served {
            name: "m".parse().unwrap(),
            version: version.parse().unwrap(),
            digest: String::new(),
            device: "cpu".into(),
            signature: Arc::new(Signature { inputs, outputs: vec![output("y"), output("z")] }),
            max_rows: 4,
            max_elements: 20,
            max_delay: Duration::ZERO,
            to_knee: false,
            target: None,
            buckets: Vec::new(),
            meters: crate::message::testing::meters(),
        })
    }

    fn route(widths: [usize; 2], rows: usize, id: i64, version: Option<&str>) -> Result<Routed, Box<Outcome>> {
        let input = |name: &'static str, datatype, width, element: &[u8]| Input {
            name: name.into(),
            datatype,
            shape: Shape::try_new(&[rows, width]).unwrap(),
            data: element.repeat(rows * width).into(),
        };
        // Not in the order of the signature.
        let ids = input("ids", Datatype::Int64, widths[1], &id.to_le_bytes());
        let inputs = vec![ids, input("x", Datatype::Fp32, widths[0], &1f32.to_le_bytes())];
        let version = version.map(|version| version.parse().unwrap());
        let outputs = Some(vec!["z".to_owned()]);
        let job = Job { envelope: envelope("j"), version, deadline: None, rows, inputs, outputs, is_suspect: false };
        let models = [("m".parse().unwrap(), vec![served("2"), served("1")])];
        Routes { models: models.into_iter().collect() }.route(job)
    }

    #[test]
    fn inputs_come_in_the_order_of_the_signature() {
        let routed = route([3, 2], 2, 5, None).ok().unwrap();
        assert_eq!((routed.tails, routed.job.wanted), (vec![vec![3], vec![2]], Some(vec![1])));
        assert_eq!(routed.job.part.inputs[0].as_ref().unwrap().len(), 2 * 3 * 4);
        assert_eq!(routed.job.part.inputs[1].as_ref().unwrap().len(), 2 * 2 * 8);
    }

    #[test]
    fn the_first_version_is_the_default_and_another_can_be_pinned() {
        let version = |pin| route([1, 1], 1, 5, pin).map(|routed| routed.model.version.to_string());
        assert_eq!(version(None).unwrap(), "2");
        assert_eq!(version(Some("1")).unwrap(), "1");
        let outcome = version(Some("3")).unwrap_err();
        let says = "model \"m\" has no version \"3\" here, only 2, 1";
        assert_eq!(refusal(&outcome), (ErrorCode::UnknownVersion, says));
    }

    #[test]
    fn limits_of_rows_elements_and_values_hold_for_one_job() {
        let says = |result: Result<Routed, Box<Outcome>>| {
            let outcome = result.err().unwrap();
            let (code, message) = refusal(&outcome);
            (code, message.to_owned())
        };
        assert_eq!(says(route([1, 1], 5, 5, None)).0, ErrorCode::TooLarge);
        let (code, message) = says(route([7, 1], 3, 5, None));
        assert_eq!((code, message.as_str()), (ErrorCode::TooLarge, "input \"x\" has 21 elements, the limit is 20"));
        let (code, message) = says(route([1, 1], 1, 10, None));
        assert_eq!(code, ErrorCode::InvalidInput);
        assert_eq!(message, "input \"ids\": value 0 is 10, the model takes 0 to 9");
    }
}
