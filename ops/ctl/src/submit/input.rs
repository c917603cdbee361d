//! Tensors from what people have at hand.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use gristmill_schemas::{Datatype, Shape, Tensor};
use gristmill_score::npy::Header;
use serde_json::{Map, Value};

use super::{Inputs, encode, pair};

/// The job's body, from whichever source was named.
pub(super) fn body(args: &Inputs) -> anyhow::Result<Vec<u8>> {
    if let Some(path) = &args.raw {
        return read(path);
    }
    if !args.npy.is_empty() {
        let files = args.npy.iter().map(|text| {
            let (name, path) = pair(text)?;
            let bytes = read(Path::new(path))?;
            npy(name, &bytes).with_context(|| format!("{path}: not a NumPy file we can read"))
        });
        let tensors: Vec<Owned> = files.collect::<anyhow::Result<_>>()?;
        return Ok(encode(tensors.iter().map(Owned::tensor).collect(), &args.output));
    }
    let Some(text) = &args.json else { bail!("one of --json, --npy and --raw is needed") };
    let text = match text.strip_prefix('@') {
        Some(path) => String::from_utf8(read(Path::new(path))?).with_context(|| format!("{path}: not text"))?,
        None => text.clone(),
    };
    let datatypes = args.datatype.iter().map(|text| {
        let (name, datatype) = pair(text)?;
        let known = Datatype::ALL.map(Datatype::as_str).join(" ");
        let datatype = datatype.parse().map_err(|()| anyhow::anyhow!("datatype {datatype:?} is none of {known}"))?;
        Ok((name, datatype))
    });
    let datatypes: HashMap<&str, Datatype> = datatypes.collect::<anyhow::Result<_>>()?;
    let inputs: Map<String, Value> = serde_json::from_str(&text).context("--json is not an object of arrays")?;
    if let Some(unknown) = datatypes.keys().find(|name| !inputs.contains_key(**name)) {
        bail!("--datatype names {unknown:?}, which is no input in --json");
    }
    let tensors = inputs.iter().map(|(name, value)| {
        json(name, value, datatypes.get(name.as_str()).copied()).with_context(|| format!("input {name:?}"))
    });
    let tensors: Vec<Owned> = tensors.collect::<anyhow::Result<_>>()?;
    Ok(encode(tensors.iter().map(Owned::tensor).collect(), &args.output))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes).context("standard input")?;
    } else {
        bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    }
    Ok(bytes)
}

/// A tensor that owns what it is made of.
#[derive(Debug, PartialEq)]
struct Owned {
    name: String,
    datatype: Datatype,
    shape: Shape,
    data: Vec<u8>,
}

impl Owned {
    fn try_new(name: &str, datatype: Datatype, dims: &[usize], data: Vec<u8>) -> anyhow::Result<Self> {
        let shape = Shape::try_new(dims).with_context(|| format!("{} dimensions are too many", dims.len()))?;
        Ok(Self { name: name.to_owned(), datatype, shape, data })
    }

    fn tensor(&self) -> Tensor<'_> {
        Tensor { name: &self.name, datatype: self.datatype, shape: self.shape, data: Cow::Borrowed(&self.data) }
    }
}

fn json(name: &str, value: &Value, datatype: Option<Datatype>) -> anyhow::Result<Owned> {
    let (mut dims, mut values) = (Vec::new(), Vec::new());
    flatten(value, 0, &mut dims, &mut values)?;
    let guess = || match values.first() {
        Some(Value::Bool(_)) => Datatype::Bool,
        Some(Value::String(_)) => Datatype::Bytes,
        _ if values.iter().all(|value| value.is_i64()) => Datatype::Int64,
        _ => Datatype::Fp32,
    };
    let datatype = datatype.unwrap_or_else(guess);
    let mut data = Vec::new();
    for value in &values {
        element(value, datatype, &mut data).with_context(|| format!("{value} is no {datatype}"))?;
    }
    Owned::try_new(name, datatype, &dims, data)
}

fn flatten<'a>(value: &'a Value, depth: usize, dims: &mut Vec<usize>, out: &mut Vec<&'a Value>) -> anyhow::Result<()> {
    let Value::Array(items) = value else {
        if depth < dims.len() {
            bail!("a value where arrays of {} elements were before", dims[depth]);
        }
        out.push(value);
        return Ok(());
    };
    if dims.len() <= depth && !out.is_empty() {
        bail!("an array where values were before");
    }
    match dims.get(depth) {
        None => dims.push(items.len()),
        Some(&size) if size == items.len() => {}
        Some(size) => bail!("arrays of {size} and of {} elements at the same level", items.len()),
    }
    items.iter().try_for_each(|item| flatten(item, depth + 1, dims, out))
}

fn element(value: &Value, datatype: Datatype, out: &mut Vec<u8>) -> Option<()> {
    let float = || value.as_f64();
    match datatype {
        Datatype::Bool => out.push(u8::from(value.as_bool()?)),
        Datatype::Uint8 => out.push(value.as_u64()?.try_into().ok()?),
        Datatype::Int8 => out.extend(i8::try_from(value.as_i64()?).ok()?.to_le_bytes()),
        Datatype::Int16 => out.extend(i16::try_from(value.as_i64()?).ok()?.to_le_bytes()),
        Datatype::Int32 => out.extend(i32::try_from(value.as_i64()?).ok()?.to_le_bytes()),
        Datatype::Int64 => out.extend(value.as_i64()?.to_le_bytes()),
        Datatype::Fp16 => out.extend(half::f16::from_f64(float()?).to_le_bytes()),
        Datatype::Bf16 => out.extend(half::bf16::from_f64(float()?).to_le_bytes()),
        Datatype::Fp32 => out.extend((float()? as f32).to_le_bytes()),
        Datatype::Fp64 => out.extend(float()?.to_le_bytes()),
        Datatype::Bytes => {
            let text = value.as_str()?;
            out.extend(u32::try_from(text.len()).ok()?.to_le_bytes());
            out.extend(text.as_bytes());
        }
    }
    Some(())
}

fn npy(name: &str, bytes: &[u8]) -> anyhow::Result<Owned> {
    let mut data = bytes;
    let Header { datatype, dims } = Header::read(&mut data)?;
    Owned::try_new(name, datatype, &dims, data.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_json_becomes_a_tensor() {
        let value = serde_json::json!([[1, 2, 3], [4, 5, 6]]);
        let tensor = json("x", &value, Some(Datatype::Int16)).unwrap();
        assert_eq!((&*tensor.shape, tensor.data.len()), (&[2usize, 3][..], 12));
        assert_eq!(json("x", &value, None).unwrap().datatype, Datatype::Int64);
        assert_eq!(json("x", &serde_json::json!([[0.5]]), None).unwrap().datatype, Datatype::Fp32);
        for ragged in [serde_json::json!([[1], [1, 2]]), serde_json::json!([[1], 2]), serde_json::json!([1, [2]])] {
            assert!(json("x", &ragged, None).is_err(), "{ragged}");
        }
        assert!(json("x", &serde_json::json!([[300]]), Some(Datatype::Uint8)).is_err());
    }

    #[test]
    fn a_numpy_file_becomes_a_tensor() {
        let header = "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 1), }\n";
        let length = (header.len() as u16).to_le_bytes();
        let file = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &[1, 0, 2, 0]].concat();
        let tensor = npy("x", &file).unwrap();
        assert_eq!(
            (&*tensor.shape, tensor.data, tensor.datatype),
            (&[2usize, 1][..], vec![1, 0, 2, 0], Datatype::Int16)
        );
        assert!(npy("x", b"PK").is_err());
    }
}
