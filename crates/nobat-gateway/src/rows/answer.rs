//! Outputs to the JSON of an answer.

use std::borrow::Cow;

use nobat_core::json::encode::{self, Printer};
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::{Tensor, take_bytes_element};

use super::format::Format;

/// Appends `{"predictions": […]}` (row and record form) or `{"outputs": …}` (column form).
/// What the model's signature says of its outputs shapes their JSON, where it is known.
pub fn answer(out: &mut Vec<u8>, outputs: &[Tensor], form: Format, signature: Option<&ModelSignature>) {
    out.push(b'{');
    members(out, outputs, form, signature);
    out.push(b'}');
}

/// Appends the member that [`answer`] wraps, for objects that say more.
pub fn members(out: &mut Vec<u8>, outputs: &[Tensor], form: Format, signature: Option<&ModelSignature>) {
    let outputs: Vec<Shown<'_>> = outputs.iter().map(|output| Shown::of(output, form, signature)).collect();
    match (form, &outputs[..]) {
        (Format::Row | Format::Record, outputs) => {
            out.extend_from_slice(b"\"predictions\":");
            rows(out, outputs);
        }
        (Format::Column, [only]) => {
            out.extend_from_slice(b"\"outputs\":");
            only.whole(out);
        }
        (Format::Column, several) => {
            out.extend_from_slice(b"\"outputs\":");
            object(out, several);
        }
    }
}

/// Appends the entries of some more rows in row or record form, without the list around them;
/// `first` says that none stand before them.
pub fn entries(out: &mut Vec<u8>, outputs: &[Tensor], form: Format, signature: &ModelSignature, first: bool) {
    let outputs: Vec<Shown<'_>> = outputs.iter().map(|output| Shown::of(output, form, Some(signature))).collect();
    if !first {
        out.push(b',');
    }
    listed(out, &outputs);
}

/// An output and how it is printed.
struct Shown<'a> {
    output: &'a Tensor,
    name: Cow<'a, str>,
    how: How<'a>,
}

enum How<'a> {
    /// As its elements are.
    Plain,
    /// Its elements are JSON already.
    Json,
    /// A row is an object of scores by class.
    Classes(Vec<&'a str>),
    /// A row is a single element, whatever axes of length 1 it has.
    Scalar,
}

impl<'a> Shown<'a> {
    fn of(output: &'a Tensor, form: Format, signature: Option<&'a ModelSignature>) -> Shown<'a> {
        let task = signature.and_then(|signature| signature.task.as_ref());
        let how = match form {
            _ if task.is_some_and(|task| task.json_outputs.contains(&output.name)) => How::Json,
            Format::Record => {
                let classes = signature.map(|signature| signature.class_labels(&output.name)).unwrap_or_default();
                match output.shape.get(1..).unwrap_or_default() {
                    [width] if *width == classes.len() as i64 && *width > 0 => How::Classes(classes),
                    rest if rest.iter().all(|&dim| dim == 1) => How::Scalar,
                    _ => How::Plain,
                }
            }
            _ => How::Plain,
        };
        // What skl2onnx calls them says less than what they are.
        let name = match (form, output.name.as_str()) {
            (Format::Record, "output_label") => "label".into(),
            (Format::Record, "output_probability") => "probabilities".into(),
            (_, name) => name.into(),
        };
        Shown { output, name, how }
    }

    fn rows(&self) -> Option<i64> {
        self.output.shape.first().copied()
    }

    fn printer(&self) -> Elements<'a> {
        match self.how {
            How::Json => Elements::Json(&self.output.data),
            _ => Elements::Plain(Printer::new(self.output)),
        }
    }

    /// The next row.
    fn row(&self, elements: &mut Elements<'_>, out: &mut Vec<u8>) {
        let shape = self.output.shape.get(1..).unwrap_or_default();
        match (&self.how, elements) {
            (How::Classes(classes), Elements::Plain(printer)) => {
                out.push(b'{');
                for (at, class) in classes.iter().enumerate() {
                    name(out, at, class);
                    printer.nested(out, &[]);
                }
                out.push(b'}');
            }
            (How::Scalar, Elements::Plain(printer)) => printer.nested(out, &[]),
            (_, Elements::Plain(printer)) => printer.nested(out, shape),
            (_, Elements::Json(rest)) => json(out, rest, shape),
        }
    }

    /// All of it, by its shape.
    fn whole(&self, out: &mut Vec<u8>) {
        match self.printer() {
            Elements::Plain(_) => encode::tensor(out, self.output),
            Elements::Json(mut rest) => json(out, &mut rest, &self.output.shape),
        }
    }
}

/// An output's elements, taken off the front one after the other.
enum Elements<'a> {
    Plain(Printer<'a>),
    Json(&'a [u8]),
}

/// The next elements that this shape calls for, each printed as it stands. One that is no JSON
/// is printed as a string: an answer is always JSON.
fn json(out: &mut Vec<u8>, rest: &mut &[u8], shape: &[i64]) {
    match *shape {
        [] => {
            let element = take_bytes_element(rest).unwrap_or_default();
            match serde_json::from_slice::<&serde_json::value::RawValue>(element) {
                Ok(value) => out.extend_from_slice(value.get().as_bytes()),
                Err(_) => encode::string(out, &String::from_utf8_lossy(element)),
            }
        }
        [count, ref inner @ ..] => {
            out.push(b'[');
            for at in 0..count {
                if at > 0 {
                    out.push(b',');
                }
                json(out, rest, inner);
            }
            out.push(b']');
        }
    }
}

/// One entry per row: bare values for one output, objects for several. Outputs
/// that do not share a first axis have no rows: they make one entry.
fn rows(out: &mut Vec<u8>, outputs: &[Shown<'_>]) {
    out.push(b'[');
    listed(out, outputs);
    out.push(b']');
}

fn listed(out: &mut Vec<u8>, outputs: &[Shown<'_>]) {
    let count = outputs.first().and_then(Shown::rows);
    let shared = outputs.iter().all(|output| output.rows() == count);
    match (count, outputs) {
        (Some(count), outputs) if shared => {
            let mut elements: Vec<_> = outputs.iter().map(Shown::printer).collect();
            for row in 0..count {
                if row > 0 {
                    out.push(b',');
                }
                match &mut elements[..] {
                    [only] => outputs[0].row(only, out),
                    several => {
                        out.push(b'{');
                        for (at, (elements, output)) in several.iter_mut().zip(outputs).enumerate() {
                            name(out, at, &output.name);
                            output.row(elements, out);
                        }
                        out.push(b'}');
                    }
                }
            }
        }
        (_, [only]) => only.whole(out),
        (_, outputs) => object(out, outputs),
    }
}

fn object(out: &mut Vec<u8>, outputs: &[Shown<'_>]) {
    out.push(b'{');
    for (at, output) in outputs.iter().enumerate() {
        name(out, at, &output.name);
        output.whole(out);
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
        answer(&mut out, outputs, form, None);
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

    fn texts(name: &str, shape: &[i64], values: &[&str]) -> Tensor {
        let mut data = Vec::new();
        values.iter().for_each(|value| nobat_core::tensor::put_bytes_element(&mut data, value.as_bytes()));
        Tensor { name: name.into(), datatype: Datatype::Bytes, shape: shape.into(), data: data.into() }
    }

    #[test]
    fn records_give_classes_by_name_and_single_values_bare() {
        let mut signature = crate::test_models::model(&[]);
        signature.settings.insert("class_labels".into(), serde_json::json!({ "output_probability": ["no", "yes"] }));
        let outputs = [
            texts("output_label", &[1], &["yes"]),
            fp32("output_probability", &[1, 2], &[0.25, 0.75]),
            fp32("variable", &[1, 1], &[3.5]),
        ];
        let print = |form| {
            let mut out = Vec::new();
            answer(&mut out, &outputs, form, Some(&signature));
            String::from_utf8(out).expect("JSON is UTF-8")
        };
        assert_eq!(
            print(Format::Record),
            r#"{"predictions":[{"label":"yes","probabilities":{"no":0.25,"yes":0.75},"variable":3.5}]}"#
        );
        assert_eq!(
            print(Format::Row),
            r#"{"predictions":[{"output_label":"yes","output_probability":[0.25,0.75],"variable":[3.5]}]}"#
        );
    }

    #[test]
    fn outputs_of_json_are_printed_as_they_are_where_the_task_says_so() {
        let mut signature = crate::test_models::model(&[]);
        signature.task = Some(nobat_core::task::Task {
            json_outputs: vec!["top".into()],
            ..nobat_core::task::Task::new(nobat_core::task::TaskKind::Image)
        });
        let outputs = [texts("label", &[2], &["a", "b"]), texts("top", &[2], &[r#"[{"x":1}]"#, "no \"JSON"])];
        let mut out = Vec::new();
        answer(&mut out, &outputs, Format::Row, Some(&signature));
        let text = String::from_utf8(out).expect("JSON is UTF-8");
        assert_eq!(text, r#"{"predictions":[{"label":"a","top":[{"x":1}]},{"label":"b","top":"no \"JSON"}]}"#);
        let mut out = Vec::new();
        answer(&mut out, &outputs[1..], Format::Column, Some(&signature));
        let text = String::from_utf8(out).expect("JSON is UTF-8");
        assert_eq!(text, r#"{"outputs":[[{"x":1}],"no \"JSON"]}"#);
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
