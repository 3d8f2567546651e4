//! Outputs to the JSON of an answer.

use nobat_core::json::encode::{self, Printer};
use nobat_core::tensor::Tensor;

use super::format::Format;

/// Appends `{"predictions": […]}` (row form) or `{"outputs": …}` (column form).
pub fn answer(out: &mut Vec<u8>, outputs: &[Tensor], form: Format) {
    out.push(b'{');
    members(out, outputs, form);
    out.push(b'}');
}

/// Appends the member that [`answer`] wraps, for objects that say more.
pub fn members(out: &mut Vec<u8>, outputs: &[Tensor], form: Format) {
    match (form, outputs) {
        (Format::Row, outputs) => {
            out.extend_from_slice(b"\"predictions\":");
            rows(out, outputs);
        }
        (Format::Column, [only]) => {
            out.extend_from_slice(b"\"outputs\":");
            encode::tensor(out, only);
        }
        (Format::Column, several) => {
            out.extend_from_slice(b"\"outputs\":");
            object(out, several, encode::tensor);
        }
    }
}

/// One entry per row: bare values for one output, objects for several. Outputs
/// that do not share a first axis have no rows: they make one entry.
fn rows(out: &mut Vec<u8>, outputs: &[Tensor]) {
    let count = outputs.first().and_then(|output| output.shape.first().copied());
    let shared = outputs.iter().all(|output| output.shape.first().copied() == count);
    out.push(b'[');
    match (count, outputs) {
        (Some(count), outputs) if shared => {
            let mut printers: Vec<_> = outputs.iter().map(Printer::new).collect();
            for row in 0..count {
                if row > 0 {
                    out.push(b',');
                }
                match &mut printers[..] {
                    [only] => only.nested(out, &outputs[0].shape[1..]),
                    several => {
                        out.push(b'{');
                        for (at, (printer, output)) in several.iter_mut().zip(outputs).enumerate() {
                            name(out, at, &output.name);
                            printer.nested(out, &output.shape[1..]);
                        }
                        out.push(b'}');
                    }
                }
            }
        }
        (_, [only]) => encode::tensor(out, only),
        (_, outputs) => object(out, outputs, encode::tensor),
    }
    out.push(b']');
}

fn object(out: &mut Vec<u8>, outputs: &[Tensor], value: impl Fn(&mut Vec<u8>, &Tensor)) {
    out.push(b'{');
    for (at, output) in outputs.iter().enumerate() {
        name(out, at, &output.name);
        value(out, output);
    }
    out.push(b'}');
}

fn name(out: &mut Vec<u8>, at: usize, text: &str) {
    if at > 0 {
        out.push(b',');
    }
    encode::string(out, text);
    out.push(b':');
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::tensor::Datatype;

    fn fp32(name: &str, shape: &[i64], values: &[f32]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor { name: name.into(), datatype: Datatype::Fp32, shape: shape.into(), data: data.into() }
    }

    fn int64(name: &str, shape: &[i64], values: &[i64]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor { name: name.into(), datatype: Datatype::Int64, shape: shape.into(), data: data.into() }
    }

    fn print(outputs: &[Tensor], form: Format) -> String {
        let mut out = Vec::new();
        answer(&mut out, outputs, form);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    #[test]
    fn one_output_prints_bare_and_several_as_objects() {
        let probabilities = fp32("probabilities", &[2, 2], &[1.0, 0.0, 0.25, 0.75]);
        let label = int64("label", &[2], &[0, 1]);
        assert_eq!(
            print(std::slice::from_ref(&probabilities), Format::Row),
            r#"{"predictions":[[1.0,0.0],[0.25,0.75]]}"#
        );
        assert_eq!(
            print(&[label.clone(), probabilities.clone()], Format::Row),
            r#"{"predictions":[{"label":0,"probabilities":[1.0,0.0]},{"label":1,"probabilities":[0.25,0.75]}]}"#
        );
        assert_eq!(print(std::slice::from_ref(&label), Format::Column), r#"{"outputs":[0,1]}"#);
        assert_eq!(
            print(&[label, probabilities], Format::Column),
            r#"{"outputs":{"label":[0,1],"probabilities":[[1.0,0.0],[0.25,0.75]]}}"#
        );
    }

    #[test]
    fn outputs_without_a_shared_first_axis_make_one_entry() {
        assert_eq!(print(&[fp32("s", &[], &[2.0])], Format::Row), r#"{"predictions":[2.0]}"#);
        assert_eq!(
            print(&[fp32("a", &[1], &[2.0]), int64("b", &[2], &[3, 4])], Format::Row),
            r#"{"predictions":[{"a":[2.0],"b":[3,4]}]}"#
        );
    }
}
