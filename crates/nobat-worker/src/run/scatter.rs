//! One run's outputs into many answers: split along the batch axis, each packed
//! with one copy out of the runtime's buffer.

use bytes::Bytes;
use nobat_core::infer::InferResponse;
use nobat_core::tensor::{Datatype, Shape, put_bytes_element};
use nobat_core::timings::Timings;
use smol_str::SmolStr;

use super::answer::within;
use super::failure::Failure;
use crate::batch::queue::ReadyJob;
use crate::engine::{OutputData, OutputView};
use crate::model::Version;

/// Checks that every output has the batch axis, so that it can be split.
pub(super) fn batch_axis(version: &Version, outputs: &[OutputView<'_>], rows: u32) -> Result<(), Failure> {
    for (output, spec) in outputs.iter().zip(&version.signature.outputs) {
        if output.shape.first() != Some(&i64::from(rows)) {
            let why = format!("output `{}` has shape {:?} for {rows} rows", spec.name, output.shape);
            version.stop_batching(&why);
            let what = format!("{why}; its first axis is not the batch axis, send one row per request");
            return Err(Failure::outputs(&what, version));
        }
    }
    Ok(())
}

/// Packs one job's result: timings, then the outputs it asked for. `part` is its first row,
/// its rows and the run's rows; `None` takes the outputs whole. Outputs of more than `most`
/// bytes are refused before they are copied.
pub(super) fn pack(
    version: &Version,
    job: &ReadyJob,
    outputs: &[OutputView<'_>],
    part: Option<(u32, u32, u32)>,
    timings: &Timings,
    most: usize,
) -> Result<Bytes, Failure> {
    let signature = &version.signature;
    let wanted = |name: &SmolStr| job.outputs.is_empty() || job.outputs.contains(name);
    let named = || outputs.iter().zip(&signature.outputs).map(|(output, spec)| (output, &spec.name));
    let asked = || named().filter(|(_, name)| wanted(name));
    let size = asked().map(|(output, name)| {
        let len = output.data.len();
        let len = part.map_or(len, |(_, rows, all)| len * rows as usize / all.max(1) as usize);
        name.len() + output.shape.len() * 3 + 16 + len
    });
    let size: usize = size.sum();
    within(version, size, most)?;
    let mut out = Vec::with_capacity(size + signature.version.len() + 48);
    timings.encode(&mut out);
    InferResponse::encode_head(&mut out, &signature.version, asked().count());
    for (output, name) in asked() {
        let mut shape: Shape = output.shape.into();
        let slice = |len: usize| match part {
            None => 0..len,
            Some((first, rows, all)) => {
                let per_row = len / all.max(1) as usize;
                first as usize * per_row..(first + rows) as usize * per_row
            }
        };
        if let (Some((_, rows, _)), Some(dim)) = (part, shape.first_mut()) {
            *dim = i64::from(rows);
        }
        match &output.data {
            OutputData::Raw(raw) => {
                let raw = &raw[slice(raw.len())];
                InferResponse::encode_output(&mut out, name, output.datatype, &shape, raw.len());
                out.extend_from_slice(raw);
            }
            OutputData::Text(elements) => {
                let mut framed = Vec::new();
                for element in &elements[slice(elements.len())] {
                    put_bytes_element(&mut framed, element.as_bytes());
                }
                InferResponse::encode_output(&mut out, name, output.datatype, &shape, framed.len());
                out.extend_from_slice(&framed);
            }
        }
    }
    InferResponse::encode_mark(&mut out, version.mark);
    Ok(out.into())
}

/// One output of a split job, growing run by run.
#[derive(Default)]
pub(super) struct Joined {
    datatype: Option<Datatype>,
    shape: Shape,
    raw: Vec<u8>,
    text: Vec<String>,
}

impl Joined {
    /// Adds the rows of a run; `name` is the output's.
    pub(super) fn append(&mut self, version: &Version, name: &str, output: &OutputView<'_>) -> Result<(), Failure> {
        match self.datatype {
            None => {
                self.datatype = Some(output.datatype);
                self.shape = output.shape.into();
            }
            Some(_) if self.shape[1..] != output.shape[1..] => {
                let what = format!(
                    "output `{name}` has shape {:?} for some rows and {:?} for others; send fewer rows per request",
                    self.shape.as_slice(),
                    output.shape
                );
                return Err(Failure::outputs(&what, version));
            }
            Some(_) => self.shape[0] += output.shape[0],
        }
        match &output.data {
            OutputData::Raw(raw) => self.raw.extend_from_slice(raw),
            OutputData::Text(elements) => self.text.extend_from_slice(elements),
        }
        Ok(())
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.raw.len() + self.text.iter().map(|element| element.len() + 4).sum::<usize>()
    }

    pub(super) fn view(&self) -> OutputView<'_> {
        let datatype = self.datatype.unwrap_or(Datatype::Uint8);
        let data = match datatype {
            Datatype::Bytes => OutputData::Text(self.text.clone()),
            _ => OutputData::Raw(&self.raw),
        };
        OutputView { datatype, shape: &self.shape, data }
    }
}
