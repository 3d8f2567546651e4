//! Several answers become one, and two answers are compared.

use std::collections::HashMap;

use bytes::Bytes;
use nobat_core::infer::InferResponse;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{Error, ErrorCode, Result};
use smol_str::format_smolstr;

use super::route::{Join, Target};

/// Joins the answers of a group's children, in the order the route names them.
///
/// # Errors
/// `invalid_worker_result` when answers that should agree in their outputs'
/// names, datatypes and shapes do not.
pub fn join(join: Join, mut answers: Vec<(Target, InferResponse)>) -> Result<InferResponse> {
    let Some((first_target, first)) = answers.first() else {
        return Err(Error::internal("a group's join was called without an answer"));
    };
    match join {
        Join::First => Ok(answers.swap_remove(0).1),
        Join::All => Ok(all(answers)),
        Join::Majority | Join::Mean => {
            let per_element = if join == Join::Mean { mean } else { majority };
            let outputs = first.outputs.iter().map(|output| {
                let mut votes = Vec::with_capacity(answers.len());
                for (target, answer) in &answers {
                    let twin = answer.outputs.iter().find(|tensor| tensor.name == output.name);
                    match twin {
                        Some(twin) if twin.datatype == output.datatype && twin.shape == output.shape => {
                            votes.push(&twin.data[..])
                        }
                        _ => return Err(disagree(first_target, output, target, twin)),
                    }
                }
                Ok(Tensor { data: per_element(output, &votes)?, ..output.clone() })
            });
            Ok(InferResponse { version: first.version.clone(), outputs: outputs.collect::<Result<_>>()?, mark: 0 })
        }
    }
}

fn all(answers: Vec<(Target, InferResponse)>) -> InferResponse {
    let outputs = answers.into_iter().flat_map(|(target, answer)| {
        answer.outputs.into_iter().map(move |tensor| {
            let name = format_smolstr!("{target}.{}", tensor.name);
            Tensor { name, ..tensor }
        })
    });
    InferResponse { version: "1".into(), outputs: outputs.collect(), mark: 0 }
}

fn disagree(first: &Target, output: &Tensor, other: &Target, twin: Option<&Tensor>) -> Error {
    let spell = |tensor: &Tensor| format!("{}{:?}", tensor.datatype, tensor.shape.as_slice());
    Error::new(
        ErrorCode::InvalidWorkerResult,
        format!(
            "output `{}` is {} from `{first}` and {} from `{other}`; only equal shapes can be joined",
            output.name,
            spell(output),
            twin.map_or("missing".into(), spell)
        ),
    )
}

fn mean(output: &Tensor, votes: &[&[u8]]) -> Result<Bytes> {
    let count = votes.len() as f64;
    let mut data = Vec::with_capacity(output.data.len());
    match output.datatype {
        Datatype::Fp32 => {
            for at in 0..output.data.len() / 4 {
                let sum: f64 = votes.iter().map(|vote| f64::from(f32::from_le_bytes(element(vote, at)))).sum();
                data.extend_from_slice(&((sum / count) as f32).to_le_bytes());
            }
        }
        Datatype::Fp64 => {
            for at in 0..output.data.len() / 8 {
                let sum: f64 = votes.iter().map(|vote| f64::from_le_bytes(element(vote, at))).sum();
                data.extend_from_slice(&(sum / count).to_le_bytes());
            }
        }
        other => {
            return Err(Error::new(
                ErrorCode::InvalidWorkerResult,
                format!("output `{}` is {other}; a mean takes FP32 or FP64", output.name),
            ));
        }
    }
    Ok(data.into())
}

fn element<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at * N..][..N]);
    out
}

fn majority(output: &Tensor, votes: &[&[u8]]) -> Result<Bytes> {
    let split: Vec<Vec<&[u8]>> = votes.iter().map(|vote| elements(output.datatype, vote)).collect();
    let mut data = Vec::with_capacity(output.data.len());
    for at in 0..split.first().map_or(0, Vec::len) {
        let mut counts: HashMap<&[u8], usize> = HashMap::with_capacity(votes.len());
        let mut best: &[u8] = &[];
        let mut best_count = 0;
        for vote in &split {
            *counts.entry(vote[at]).or_default() += 1;
        }
        // In the route's order, so that a tie goes to the child named first.
        for vote in &split {
            if counts[vote[at]] > best_count {
                (best, best_count) = (vote[at], counts[vote[at]]);
            }
        }
        data.extend_from_slice(best);
    }
    Ok(data.into())
}

/// A tensor's elements as byte slices, BYTES elements with their length prefix.
fn elements(datatype: Datatype, data: &[u8]) -> Vec<&[u8]> {
    if let Some(size) = datatype.size() {
        return data.chunks_exact(size).collect();
    }
    let mut rest = data;
    let mut found = Vec::new();
    while let Some((len, _)) = rest.split_first_chunk::<4>() {
        let (head, tail) = rest.split_at(rest.len().min(4 + u32::from_le_bytes(*len) as usize));
        found.push(head);
        rest = tail;
    }
    found
}

/// Whether two answers say the same: names, datatypes, shapes and elements;
/// FP32 and FP64 elements up to a relative `tolerance`.
pub fn same_answer(a: &InferResponse, b: &InferResponse, tolerance: f64) -> bool {
    a.outputs.len() == b.outputs.len()
        && a.outputs.iter().all(|output| {
            b.outputs.iter().any(|twin| {
                twin.name == output.name
                    && twin.datatype == output.datatype
                    && twin.shape == output.shape
                    && same_data(output, twin, tolerance)
            })
        })
}

fn same_data(a: &Tensor, b: &Tensor, tolerance: f64) -> bool {
    if a.data == b.data {
        return true;
    }
    let close = |x: f64, y: f64| (x - y).abs() <= tolerance * x.abs().max(y.abs()) || (x.is_nan() && y.is_nan());
    let (x, y) = (&a.data[..], &b.data[..]);
    match a.datatype {
        Datatype::Fp32 => (0..x.len() / 4).all(|at| {
            close(f64::from(f32::from_le_bytes(element(x, at))), f64::from(f32::from_le_bytes(element(y, at))))
        }),
        Datatype::Fp64 => {
            (0..x.len() / 8).all(|at| close(f64::from_le_bytes(element(x, at)), f64::from_le_bytes(element(y, at))))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smallvec::smallvec;

    fn answer(target: &str, datatype: Datatype, data: Vec<u8>, len: usize) -> (Target, InferResponse) {
        let tensor = Tensor { name: "y".into(), datatype, shape: smallvec![len as i64], data: data.into() };
        (target.into(), InferResponse { version: "3".into(), outputs: vec![tensor], mark: 0 })
    }

    fn floats(target: &str, values: &[f32]) -> (Target, InferResponse) {
        answer(target, Datatype::Fp32, values.iter().flat_map(|v| v.to_le_bytes()).collect(), values.len())
    }

    fn ints(target: &str, values: &[i64]) -> (Target, InferResponse) {
        answer(target, Datatype::Int64, values.iter().flat_map(|v| v.to_le_bytes()).collect(), values.len())
    }

    #[test]
    fn all_keeps_every_output_under_its_targets_name() {
        let joined = join(Join::All, vec![floats("a", &[1.0]), ints("b", &[2])]).expect("joins");
        assert_eq!(joined.outputs.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["a.y", "b.y"]);
    }

    #[test]
    fn a_tie_goes_to_the_child_named_first() {
        let joined = join(Join::Majority, vec![ints("a", &[7, 1]), ints("b", &[8, 2]), ints("c", &[9, 2])]);
        assert_eq!(joined.expect("joins").outputs, ints("", &[7, 2]).1.outputs);
    }

    #[test]
    fn byte_strings_are_voted_on_whole() {
        let text = |words: &[&str]| {
            let framed = words.iter().flat_map(|w| [&(w.len() as u32).to_le_bytes()[..], w.as_bytes()].concat());
            framed.collect::<Vec<u8>>()
        };
        let vote = |target, words: &[&str]| answer(target, Datatype::Bytes, text(words), words.len());
        let joined = join(Join::Majority, vec![vote("a", &["cat"]), vote("b", &["hound"]), vote("c", &["hound"])]);
        assert_eq!(&joined.expect("joins").outputs[0].data[..], text(&["hound"]));
    }

    #[test]
    fn answers_of_different_shapes_are_refused_by_name() {
        let error = join(Join::Mean, vec![floats("a", &[1.0]), floats("b", &[1.0, 2.0])]).expect_err("differ");
        assert!(error.message.contains("FP32[1] from `a` and FP32[2] from `b`"), "{}", error.message);
    }

    #[test]
    fn float_noise_within_the_tolerance_is_no_difference() {
        let (a, b) = (floats("a", &[1.0, f32::NAN]).1, floats("b", &[1.00001, f32::NAN]).1);
        assert!(same_answer(&a, &b, 1e-4));
        assert!(!same_answer(&a, &b, 1e-6));
        assert!(!same_answer(&a, &ints("b", &[1, 2]).1, 1.0));
    }

    proptest! {
        #[test]
        fn a_mean_lies_between_its_children_and_equal_children_are_kept(
            rows in prop::collection::vec(prop::collection::vec(-1e6f32..1e6, 3), 1..5),
        ) {
            let answers = rows.iter().enumerate().map(|(n, row)| floats(&n.to_string(), row)).collect();
            let joined = join(Join::Mean, answers).expect("joins");
            for (at, bytes) in joined.outputs[0].data.chunks_exact(4).enumerate() {
                let mean = f32::from_le_bytes(bytes.try_into().expect("four"));
                let low = rows.iter().map(|row| row[at]).fold(f32::INFINITY, f32::min);
                let high = rows.iter().map(|row| row[at]).fold(f32::NEG_INFINITY, f32::max);
                prop_assert!(mean >= low && mean <= high);
            }
            let twice = vec![floats("a", &rows[0]), floats("b", &rows[0])];
            prop_assert_eq!(join(Join::Mean, twice).expect("joins").outputs, floats("", &rows[0]).1.outputs);
        }

        #[test]
        fn a_value_that_more_than_half_give_wins(value: i64, others in prop::collection::vec(any::<i64>(), 0..4)) {
            let mut answers: Vec<_> = others.iter().map(|other| ints("o", &[*other])).collect();
            answers.extend((0..=others.len()).map(|_| ints("v", &[value])));
            prop_assert_eq!(join(Join::Majority, answers).expect("joins").outputs, ints("", &[value]).1.outputs);
        }
    }
}
