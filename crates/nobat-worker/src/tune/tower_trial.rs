//! Texts and pictures alone and together: whether the rows of a graph of two towers are independent, which
//! the axes of its inputs cannot say, as each tower has its own.

use nobat_core::parameters::Parameters;
use nobat_core::tensor::{Datatype, Shape, Tensor, put_bytes_element};
use nobat_transform::{JobState, Row};

use super::row_costs::RowRunner;
use super::trial::Trial;

/// Texts of unlike length.
const TEXTS: [&str; 3] = ["a", "the quick brown fox jumps over the lazy dog", "3 + 4 = 7"];
/// How many pictures are tried, and their sides.
const PICTURES: u32 = 3;
const SIDE: u32 = 16;
/// How much a number may differ by kernel choice, in proportion to the largest of its row.
const TOLERANCE: f32 = 2e-3;

/// Runs made-up texts and pictures alone and together.
pub(crate) fn try_towers(runner: &mut RowRunner<'_>) -> Trial {
    match compared(runner) {
        Ok(None) => Trial::Same,
        Ok(Some(differs)) => Trial::Differs(differs),
        Err(why) => Trial::None(why),
    }
}

fn compared(runner: &mut RowRunner<'_>) -> Result<Option<String>, String> {
    let mut jobs: Vec<(JobState, Vec<Row>)> = Vec::new();
    let texts = TEXTS.map(|text| ("text", text.as_bytes().to_vec()));
    for (name, element) in texts.into_iter().chain((0..PICTURES).map(|seed| ("image", picture(seed)))) {
        let specs = &runner.transform.signature().inputs;
        let inputs: Vec<Option<Tensor>> =
            specs.iter().map(|spec| (spec.name == name).then(|| one_element(name, &element))).collect();
        let prepared = runner.transform.prepare(&inputs, &Parameters::default()).map_err(|error| error.message)?;
        jobs.push((prepared.job, prepared.rows));
    }
    let mut alone = Vec::new();
    for (job, rows) in &jobs {
        let finished = runner.run(&rows.iter().collect::<Vec<_>>())?;
        alone.push(vector(runner, job, finished)?);
    }
    let all: Vec<&Row> = jobs.iter().flat_map(|(_, rows)| rows).collect();
    let mut together = runner.run(&all)?.into_iter();
    for (at, (job, rows)) in jobs.iter().enumerate() {
        let finished = together.by_ref().take(rows.len()).collect();
        let (own, other) = (&alone[at], vector(runner, job, finished)?);
        let largest = own.iter().fold(0f32, |most, number| most.max(number.abs()));
        let off: Vec<f32> = own.iter().zip(&other).map(|(one, other)| (one - other).abs()).collect();
        // What is no number is within nothing.
        let alike = own.len() == other.len() && off.iter().all(|&off| off <= TOLERANCE * largest);
        if !alike {
            let off = off.into_iter().fold(0f32, f32::max);
            let what = if at < TEXTS.len() { "text" } else { "picture" };
            return Ok(Some(format!("a {what} among others got another vector than alone, off by {off}")));
        }
    }
    Ok(None)
}

fn vector(
    runner: &RowRunner<'_>,
    job: &JobState,
    finished: Vec<nobat_transform::Finished>,
) -> Result<Vec<f32>, String> {
    let answer = runner.transform.answer(job, finished).map_err(|error| error.message)?;
    let embedding = answer.into_iter().find(|tensor| tensor.name == "embedding");
    let data = embedding.ok_or("a made-up row came to no vector")?.data;
    Ok(data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}

fn one_element(name: &str, element: &[u8]) -> Tensor {
    let mut data = Vec::new();
    put_bytes_element(&mut data, element);
    Tensor { name: name.into(), datatype: Datatype::Bytes, shape: Shape::from_slice(&[1]), data: data.into() }
}

/// A BMP of noise, another for each seed.
fn picture(seed: u32) -> Vec<u8> {
    let size = SIDE * SIDE * 3;
    let mut bytes = b"BM".to_vec();
    for word in [54 + size, 0, 54, 40, SIDE, SIDE, 1 | 24 << 16, 0, size, 2835, 2835, 0, 0] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend((0..size).map(|at| ((at + 1).wrapping_mul(2_654_435_761).wrapping_mul(2 * seed + 1) >> 24) as u8));
    bytes
}
