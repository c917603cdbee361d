//! Which columns go to which inputs of the model, and which come along.

use anyhow::{bail, ensure};
use arrow::datatypes::{DataType, Schema};
use gristmill_schemas::Datatype;
use gristmill_schemas::manifest::{Input, Signature};

/// What the user asks for.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Column (or columns, with `*` in it) to input.
    pub maps: Vec<(String, String)>,
    /// Columns that come along; `None` for all.
    pub keep: Option<Vec<String>>,
    /// Outputs, in this order; `None` for all.
    pub outputs: Option<Vec<String>>,
}

/// What is read, and what becomes of it.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Columns read, by their index in the input.
    pub columns: Vec<usize>,
    /// Inputs that columns feed. Those of a mask that no column feeds are missing: they are made.
    pub inputs: Vec<Bound>,
    /// Columns that come along, by their index in `columns`.
    pub keep: Vec<usize>,
}

/// An input and where its values come from.
#[derive(Debug, Clone)]
pub struct Bound {
    /// The input.
    pub spec: Input,
    /// By index in [`Mapping::columns`]. Several are scalars, side by side in this order.
    pub columns: Vec<usize>,
}

impl Mapping {
    /// Matches columns and inputs, by wish first, then by name; one column and one input match whatever their names.
    pub fn try_new(schema: &Schema, signature: &Signature, wish: &Wish) -> anyhow::Result<Self> {
        let mut mapping = Self { columns: Vec::new(), inputs: Vec::new(), keep: Vec::new() };
        if let Some((_, input)) = wish.maps.iter().find(|(_, name)| signature.inputs.iter().all(|i| i.name != *name)) {
            bail!("--map names input {input:?}; the model has {}", names(signature.inputs.iter().map(|i| &i.name)));
        }
        for spec in &signature.inputs {
            let columns = match wished(schema, &spec.name, wish)? {
                Some(columns) => columns,
                None => match schema.index_of(&spec.name) {
                    Ok(column) => vec![column],
                    Err(_) if spec.mask => continue,
                    Err(_) if is_alone(schema, signature, wish) => vec![0],
                    Err(_) => bail!(
                        "no column {:?} for the input of that name (--map COLUMN={0}); the columns are {}",
                        spec.name,
                        names(schema.fields().iter().map(|field| field.name()))
                    ),
                },
            };
            check(schema, spec, &columns)?;
            let columns = columns.into_iter().map(|column| mapping.read(column)).collect();
            mapping.inputs.push(Bound { spec: spec.clone(), columns });
        }
        let keep: Vec<usize> = match &wish.keep {
            None => (0..schema.fields().len()).collect(),
            Some(keep) => {
                let columns = keep.iter().map(|name| matching(schema, name)).collect::<anyhow::Result<Vec<_>>>()?;
                columns.into_iter().flatten().collect()
            }
        };
        mapping.keep = keep.into_iter().map(|column| mapping.read(column)).collect();
        Ok(mapping)
    }

    fn read(&mut self, column: usize) -> usize {
        self.columns.iter().position(|known| *known == column).unwrap_or_else(|| {
            self.columns.push(column);
            self.columns.len() - 1
        })
    }
}

/// Columns that a wish gives to an input.
fn wished(schema: &Schema, input: &str, wish: &Wish) -> anyhow::Result<Option<Vec<usize>>> {
    let mut columns = Vec::new();
    for (pattern, _) in wish.maps.iter().filter(|(_, name)| name == input) {
        columns.extend(matching(schema, pattern)?);
    }
    Ok((!columns.is_empty()).then_some(columns))
}

/// Columns of a name, or, with a `*` in it, all whose names begin and end so; in the file's order.
fn matching(schema: &Schema, pattern: &str) -> anyhow::Result<Vec<usize>> {
    let is_match = |name: &str| match pattern.split_once('*') {
        None => name == pattern,
        Some((start, end)) => name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end),
    };
    let fields = schema.fields().iter().enumerate();
    let found: Vec<usize> = fields.filter(|(_, field)| is_match(field.name())).map(|(index, _)| index).collect();
    let all = || names(schema.fields().iter().map(|field| field.name()));
    ensure!(!found.is_empty(), "no column is called {pattern:?}; the columns are {}", all());
    Ok(found)
}

fn is_alone(schema: &Schema, signature: &Signature, wish: &Wish) -> bool {
    let needed = signature.inputs.iter().filter(|input| !input.mask).count();
    schema.fields().len() == 1 && needed == 1 && wish.maps.is_empty()
}

/// At most a dozen names: an error is to be read.
fn names<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = names.len().saturating_sub(12);
    let shown: Vec<&str> = names.take(12).map(String::as_str).collect();
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

fn check(schema: &Schema, spec: &Input, columns: &[usize]) -> anyhow::Result<()> {
    let free = spec.shape.iter().skip(1).filter(|dim| **dim == -1).count();
    ensure!(free <= 1, "input {:?} has {free} free dimensions; a column has one length at most", spec.name);
    for &column in columns {
        let field = schema.field(column);
        let refuse = |why: &str| {
            let (name, kind) = (field.name(), field.data_type());
            bail!("column {name:?} is {kind}, input {:?} takes {}: {why}", spec.name, spec.datatype)
        };
        let (scalar, depth) = scalar(field.data_type());
        if columns.len() > 1 && depth > 0 {
            return refuse("where several columns make one input, each has to be a single number");
        }
        let is_raw = matches!(
            scalar,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_)
        );
        match scalar {
            _ if is_raw && depth == 0 => {}
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {}
            DataType::Boolean => {}
            kind if kind.is_integer() && spec.datatype != Datatype::Bool => {}
            kind if kind.is_floating() && is_float(spec.datatype) => {}
            kind if kind.is_floating() => return refuse("fractions would be lost"),
            _ => return refuse("that is no number"),
        }
    }
    Ok(())
}

/// Whether the datatype has fractions.
pub(crate) fn is_float(datatype: Datatype) -> bool {
    matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
}

/// What lists of lists hold in the end, and how deep.
fn scalar(kind: &DataType) -> (&DataType, usize) {
    match kind {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            let (scalar, depth) = scalar(item.data_type());
            (scalar, depth + 1)
        }
        DataType::Dictionary(_, value) => scalar(value),
        _ => (kind, 0),
    }
}
