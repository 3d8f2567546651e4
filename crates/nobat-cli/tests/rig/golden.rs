//! The digits model's golden set: inputs, and what Python's onnxruntime answers.

use serde_json::Value;

use super::process::root;

/// One golden digit.
pub(crate) struct Digit {
    /// `{"instances":[[…]]}` with this digit alone.
    pub(crate) row: String,
    pub(crate) probabilities: Vec<f64>,
}

/// The golden digits of the committed model.
pub(crate) fn digits() -> Vec<Digit> {
    let path = root().join("models/digits/golden.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let golden: Value = serde_json::from_str(&text).expect("the golden file is JSON");
    let rows = |of: &str, name: &str, width: usize| -> Vec<Vec<f64>> {
        let tensors = golden[of].as_array().expect("a list of tensors");
        let tensor = tensors.iter().find(|tensor| tensor["name"] == name).expect("the tensor is there");
        numbers(&tensor["data"]).chunks(width).map(<[f64]>::to_vec).collect()
    };
    rows("inputs", "input", 64)
        .into_iter()
        .zip(rows("outputs", "probabilities", 10))
        .map(|(row, probabilities)| Digit { row: format!("{row:?}"), probabilities })
        .collect()
}

/// The body of a prediction of several digits.
pub(crate) fn body<'a>(digits: impl IntoIterator<Item = &'a Digit>) -> String {
    let rows: Vec<&str> = digits.into_iter().map(|digit| digit.row.as_str()).collect();
    format!("{{\"instances\":[{}]}}", rows.join(","))
}

/// Checks the answer to [`body`] of `digits` within 1e-5.
pub(crate) fn check<'a>(digits: impl IntoIterator<Item = &'a Digit>, answer: &Value) {
    let predictions = answer["predictions"].as_array().unwrap_or_else(|| panic!("no predictions: {answer}"));
    let mut count = 0;
    for (digit, prediction) in digits.into_iter().zip(predictions) {
        let got = numbers(&prediction["probabilities"]);
        assert_eq!(got.len(), digit.probabilities.len());
        for (got, expected) in got.iter().zip(&digit.probabilities) {
            assert!((got - expected).abs() <= 1e-5, "{got} is not {expected}");
        }
        count += 1;
    }
    assert_eq!(count, predictions.len());
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(|number| number.as_f64().expect("a number")).collect()
}
