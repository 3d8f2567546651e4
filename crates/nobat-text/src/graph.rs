//! What the session takes: which of its inputs is what, and rows padded into them.
//!
//! Rows are padded at the right, whatever the tokenizer says: neither attention that is masked
//! nor one that looks left alone sees what follows, so a text's answer does not depend on its
//! neighbours. At the left only where the graph pools by itself and the tokenizer says left.

use bytes::Bytes;
use half::{bf16, f16};
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Shape, Tensor};
use nobat_core::{Error, Result};
use smallvec::smallvec;

use crate::folder::config::ModelConfig;
use crate::row::TokenRow;
use crate::settings::Side;

/// What an input of the graph is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Ids,
    Mask,
    Types,
    Positions,
    /// The keys and values of earlier tokens: there are none.
    Past {
        heads: i64,
        size: i64,
    },
    /// Whether there are earlier tokens: there are none.
    UsesPast,
}

#[derive(Clone, Debug)]
struct Input {
    spec: TensorSpec,
    role: Role,
}

/// The graph's inputs, filled from rows of tokens.
#[derive(Clone, Debug)]
pub(crate) struct GraphInputs {
    inputs: Vec<Input>,
    /// Rows, where the graph has a fixed number of them.
    rows: Option<usize>,
    /// Tokens, where the graph has a fixed number of them.
    length: Option<usize>,
    padding_id: u32,
    padding: Side,
    first_position: usize,
}

impl GraphInputs {
    /// # Errors
    /// An input whose meaning is not known, or whose shape is not one of tokens.
    pub(crate) fn new(specs: &[TensorSpec], config: &ModelConfig, padding_id: u32) -> Result<GraphInputs> {
        let mut inputs = Vec::with_capacity(specs.len());
        let (mut rows, mut length) = (None, None);
        for spec in specs {
            let role = role(spec, config)?;
            if matches!(role, Role::Ids | Role::Mask | Role::Types | Role::Positions) {
                let &[own_rows, own_length] = spec.shape.as_slice() else {
                    return Err(refuse(spec, "has no two axes, texts and tokens"));
                };
                rows = rows.or(usize::try_from(own_rows).ok());
                length = length.or(usize::try_from(own_length).ok());
            }
            inputs.push(Input { spec: spec.clone(), role });
        }
        if !inputs.iter().any(|input| input.role == Role::Ids) {
            let there: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
            return Err(Error::invalid(format!(
                "the graph has no input `input_ids`; it has: {}; export it for text, \
                 or serve it as it is: `task = \"tensors\"` in `[text]` of model.toml",
                there.join(", ")
            )));
        }
        let first_position = config.first_position();
        Ok(GraphInputs { inputs, rows, length, padding_id, padding: Side::Right, first_position })
    }

    /// Pads at the left.
    pub(crate) fn pad_left(&mut self) {
        self.padding = Side::Left;
    }

    /// Pads every row to so many tokens, where the graph has no number of its own.
    pub(crate) fn pad_to(&mut self, length: usize) {
        self.length.get_or_insert(length);
    }

    /// Tokens of a row, where they are a fixed number.
    pub(crate) fn length(&self) -> Option<usize> {
        self.length
    }

    /// Whether the graph is told what is padding.
    pub(crate) fn takes_mask(&self) -> bool {
        self.inputs.iter().any(|input| input.role == Role::Mask)
    }

    /// Whether the graph reads the tokens' types.
    pub(crate) fn takes_types(&self) -> bool {
        self.inputs.iter().any(|input| input.role == Role::Types)
    }

    /// Tokens that a run of `rows` has for each row.
    pub(crate) fn width(&self, rows: &[&TokenRow]) -> usize {
        self.length.unwrap_or_else(|| rows.iter().map(|row| row.ids.len()).max().unwrap_or(0))
    }

    /// Where a row's tokens begin in a run of this width.
    pub(crate) fn start(&self, row: &TokenRow, width: usize) -> usize {
        match self.padding {
            Side::Right => 0,
            Side::Left => width - row.ids.len(),
        }
    }

    /// The session's inputs for a run of these rows.
    ///
    /// # Errors
    /// `internal` for more rows, or longer ones, than the graph has.
    pub(crate) fn collate(&self, rows: &[&TokenRow]) -> Result<Vec<Tensor>> {
        let width = self.width(rows);
        let batch = self.rows.unwrap_or(rows.len());
        if rows.len() > batch || rows.iter().any(|row| row.ids.len() > width) {
            return Err(Error::internal(format!("{} rows do not fit into a graph of {batch} by {width}", rows.len())));
        }
        let shape: Shape = smallvec![batch as i64, width as i64];
        let mut tensors = Vec::with_capacity(self.inputs.len());
        for Input { spec, role } in &self.inputs {
            let (shape, data) = match *role {
                Role::Past { heads, size } => (smallvec![batch as i64, heads, 0, size], Bytes::new()),
                Role::UsesPast => (smallvec![1], Bytes::from_static(&[0])),
                role => {
                    let mut data = Numbers::new(spec.datatype, batch * width);
                    for row in rows {
                        let start = self.start(row, width);
                        data.repeat(self.filler(role), start);
                        self.row_values(row, role, &mut data);
                        data.repeat(self.filler(role), width - start - row.ids.len());
                    }
                    data.repeat(self.filler(role), (batch - rows.len()) * width);
                    (shape.clone(), data.bytes.into())
                }
            };
            tensors.push(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data });
        }
        Ok(tensors)
    }

    fn row_values(&self, row: &TokenRow, role: Role, data: &mut Numbers) {
        match role {
            Role::Ids => row.ids.iter().for_each(|&id| data.push(i64::from(id))),
            Role::Mask => data.repeat(1, row.ids.len()),
            Role::Types if row.types.is_empty() => data.repeat(0, row.ids.len()),
            Role::Types => row.types.iter().for_each(|&kind| data.push(i64::from(kind))),
            Role::Positions => (0..row.ids.len()).for_each(|at| data.push((self.first_position + at) as i64)),
            Role::Past { .. } | Role::UsesPast => {}
        }
    }

    fn filler(&self, role: Role) -> i64 {
        if role == Role::Ids { i64::from(self.padding_id) } else { 0 }
    }
}

/// Whole numbers as elements of a datatype.
struct Numbers {
    datatype: Datatype,
    bytes: Vec<u8>,
}

impl Numbers {
    fn new(datatype: Datatype, count: usize) -> Numbers {
        Numbers { datatype, bytes: Vec::with_capacity(count * datatype.size().unwrap_or(0)) }
    }

    fn push(&mut self, number: i64) {
        let bytes = &mut self.bytes;
        match self.datatype {
            Datatype::Int64 | Datatype::Uint64 => bytes.extend_from_slice(&number.to_le_bytes()),
            Datatype::Int32 | Datatype::Uint32 => bytes.extend_from_slice(&(number as i32).to_le_bytes()),
            Datatype::Int16 | Datatype::Uint16 => bytes.extend_from_slice(&(number as i16).to_le_bytes()),
            Datatype::Int8 | Datatype::Uint8 | Datatype::Bool => bytes.push(number as u8),
            Datatype::Fp64 => bytes.extend_from_slice(&(number as f64).to_le_bytes()),
            Datatype::Fp32 => bytes.extend_from_slice(&(number as f32).to_le_bytes()),
            Datatype::Fp16 => bytes.extend_from_slice(&f16::from_f32(number as f32).to_le_bytes()),
            Datatype::Bf16 => bytes.extend_from_slice(&bf16::from_f32(number as f32).to_le_bytes()),
            Datatype::Bytes => {}
        }
    }

    fn repeat(&mut self, number: i64, count: usize) {
        (0..count).for_each(|_| self.push(number));
    }
}

/// What an input is for, by its name.
fn role(spec: &TensorSpec, config: &ModelConfig) -> Result<Role> {
    let wide = matches!(spec.datatype, Datatype::Int64 | Datatype::Int32);
    Ok(match spec.name.as_str() {
        "input_ids" if wide => Role::Ids,
        "input_ids" => return Err(refuse(spec, "is neither INT64 nor INT32")),
        "attention_mask" | "input_mask" if spec.datatype != Datatype::Bytes => Role::Mask,
        "token_type_ids" | "segment_ids" if wide => Role::Types,
        "position_ids" if wide => Role::Positions,
        "use_cache_branch" if spec.datatype == Datatype::Bool => Role::UsesPast,
        name if name.starts_with("past_key_values.") => past(spec, config)?,
        _ => return Err(refuse(spec, "is not known")),
    })
}

fn past(spec: &TensorSpec, config: &ModelConfig) -> Result<Role> {
    let &[_, heads, _, size] = spec.shape.as_slice() else {
        return Err(refuse(spec, "has not the four axes of keys and values"));
    };
    let named = |own: i64, from: Option<i64>| if own >= 0 { Some(own) } else { from };
    let attention_heads = config.num_attention_heads;
    let head_size = config.head_dim.or_else(|| config.hidden_size?.checked_div(attention_heads?));
    let heads = named(heads, config.num_key_value_heads.or(attention_heads));
    match (heads, named(size, head_size)) {
        (Some(heads), Some(size)) => Ok(Role::Past { heads, size }),
        _ => Err(refuse(spec, "has heads of a size that neither the graph nor config.json says")),
    }
}

fn refuse(spec: &TensorSpec, why: &str) -> Error {
    Error::invalid(format!(
        "input `{}` of the graph, {} {:?}, {why}; a text model takes input_ids, attention_mask, token_type_ids, \
         position_ids and past_key_values; export it again without the input, \
         or serve it as it is: `task = \"tensors\"` in `[text]` of model.toml",
        spec.name, spec.datatype, spec.shape
    ))
}
