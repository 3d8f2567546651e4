//! What callers of a text model see: its inputs, its outputs and its task.

use nobat_core::signature::TensorSpec;
use nobat_core::task::{Task, TaskKind};
use nobat_core::tensor::Datatype;
use nobat_transform::CallerSignature;

use crate::folder::TextFolder;
use crate::head::Head;
use crate::options;

/// The signature of a folder's task. An output that is optional is there for those who ask for it by
/// a parameter: `token_embeddings` by `pooling`, `result` by `operation`.
pub(crate) fn of(folder: &TextFolder, head: &Head, most_tokens: usize, labels: &[String]) -> CallerSignature {
    let kind = folder.kind;
    let spec = |name: &str, datatype, shape: &[i64], optional| TensorSpec {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
        optional,
    };
    let texts = |name: &str, optional| spec(name, Datatype::Bytes, &[-1], optional);
    let mut inputs = vec![texts("text", false)];
    match kind {
        TaskKind::Classify => inputs.push(texts("text_pair", true)),
        TaskKind::Rerank => inputs.push(texts("text_pair", false)),
        TaskKind::ZeroShot => inputs.push(texts("labels", false)),
        _ => {}
    }
    let dimensions = match head {
        Head::Embed(embedder) => embedder.dimensions,
        _ => None,
    };
    let width = |count: Option<usize>| count.map_or(-1, |count| count as i64);
    let mut outputs = match kind {
        TaskKind::Embed => vec![spec("embedding", Datatype::Fp32, &[-1, width(dimensions)], false)],
        TaskKind::Classify => vec![
            spec("scores", Datatype::Fp32, &[-1, width(Some(labels.len()))], false),
            spec("label", Datatype::Bytes, &[-1], false),
        ],
        TaskKind::Rerank => vec![spec("score", Datatype::Fp32, &[-1], false)],
        TaskKind::Tokens => vec![texts("entities", false)],
        TaskKind::FillMask => vec![texts("fills", false)],
        TaskKind::ZeroShot => vec![texts("scores", false)],
        _ => vec![texts("sparse", false)],
    };
    outputs.push(spec("tokens", Datatype::Int32, &[-1], false));
    if kind == TaskKind::Embed {
        outputs.push(texts("token_embeddings", true));
    }
    outputs.push(texts("result", true));
    let named = matches!(kind, TaskKind::Classify | TaskKind::Tokens | TaskKind::Rerank);
    let task = Task {
        labels: if named { labels.iter().map(|label| label.as_str().into()).collect() } else { Vec::new() },
        multi_label: folder.config.problem_type.as_deref() == Some("multi_label_classification"),
        dimensions: dimensions.and_then(|count| u32::try_from(count).ok()),
        max_tokens: u32::try_from(most_tokens).ok(),
        prompts: folder.prompts.keys().map(|name| name.as_str().into()).collect(),
        parameters: options::taken(kind).into_iter().map(Into::into).collect(),
        ..Task::new(kind)
    };
    CallerSignature { inputs, outputs, task }
}
