//! The two forms, and what the OpenAPI document says of a body in them.

use serde::Serialize;
use utoipa::ToSchema;

use crate::openapi::digit_example;

/// How the inputs were written; the answer takes the same form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One entry per row.
    Row,
    /// One tensor per input.
    Column,
    /// One record per row of a table: values bare where an input takes one a row.
    Record,
}

/// A prediction's body: `instances`, `inputs` or `records`.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "instances": [digit_example()] }))]
#[allow(dead_code, reason = "documents what `rows` reads")]
pub(crate) struct PredictBody {
    /// Row form: one entry per row; bare values for one input, objects for several.
    #[schema(required = false)]
    pub instances: Option<Vec<serde_json::Value>>,
    /// Column form: one tensor, or an object of tensors by name.
    #[schema(required = false)]
    pub inputs: Option<serde_json::Value>,
    /// Table form: one object per row, a value for each input by name.
    #[schema(required = false)]
    pub records: Option<Vec<serde_json::Map<String, serde_json::Value>>>,
    /// The same, as MLflow's clients name it.
    #[schema(required = false)]
    pub dataframe_records: Option<Vec<serde_json::Map<String, serde_json::Value>>>,
    /// A data frame as pandas writes it with `orient="split"`: `columns` and `data`.
    #[schema(required = false, value_type = Option<Object>)]
    pub dataframe_split: Option<serde_json::Map<String, serde_json::Value>>,
    /// Outputs wanted; all when left out.
    #[schema(required = false)]
    pub outputs: Option<Vec<String>>,
    /// What is set for a model that has a task: texts, numbers, true or false by name.
    #[schema(required = false, value_type = Option<Object>)]
    pub parameters: Option<serde_json::Map<String, serde_json::Value>>,
    /// `serving_default`, or left out.
    #[schema(required = false)]
    pub signature_name: Option<String>,
}
