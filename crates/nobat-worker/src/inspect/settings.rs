//! The `model.toml` to start from: what was found is written, what may be wanted stands
//! behind a `#`.

use super::facts::Facts;
use super::guess::{Guess, Kind};
use super::words::short;

/// The text of the settings.
pub(super) fn model_toml(facts: &Facts, guess: &Guess) -> String {
    let mut lines: Vec<String> = Vec::new();
    for needed in &guess.needed {
        lines.push(format!("# needed: {}", short(needed)));
    }
    match guess.kind {
        Kind::Text => lines
            .push("# The folder says how texts are read: nothing has to be set. `[text]` decides otherwise.".into()),
        Kind::TextAndImage | Kind::Files => {
            lines.push("# Its files say how it is served: nothing has to be set.".into());
        }
        Kind::Image if !guess.is_for_its_owner_to_say => {
            lines.push(
                "# The folder says how pictures are prepared: nothing has to be set. `[image]` decides otherwise."
                    .into(),
            );
        }
        Kind::Image => pictures(guess, &mut lines),
        Kind::Table => {
            lines.push(
                "# Columns are matched by the names of the inputs. Others in a table are refused, unless:".into(),
            );
            lines.push("# [settings]".into());
            lines.push("# extra_columns = \"ignore\"".into());
        }
        Kind::Tensors => {
            lines.push("# Nothing has to be set: it takes and gives the tensors of its graph.".into());
            lines.push("# [batching]".into());
            lines.push("# slo_ms = 50.0".into());
        }
    }
    let scores =
        facts.outputs.iter().find(|output| output.fixed(1).is_some_and(|count| count == facts.labels.len() as u64));
    if let (Kind::Table | Kind::Tensors, Some(scores)) = (guess.kind, scores) {
        let labels: Vec<String> = facts.labels.iter().map(|label| quoted(label)).collect();
        lines.push("[settings]".into());
        lines.push(format!("class_labels = {{ {} = [{}] }}", quoted(&scores.name), labels.join(", ")));
    }
    lines.join("\n") + "\n"
}

fn pictures(guess: &Guess, lines: &mut Vec<String>) {
    lines.push("[image]".into());
    match &guess.task {
        Some(task) => lines.push(format!("task = \"{task}\"")),
        None => lines.push("# task = \"classify\"      # or detect, segment, read, embed".into()),
    }
    if guess.guessed.iter().any(|line| line.contains("divided by 255")) {
        lines.push("# rescale = 0.00392156862745098     # 1/255, then mean and std, as it was trained".into());
        lines.push("# mean = [0.485, 0.456, 0.406]".into());
        lines.push("# std = [0.229, 0.224, 0.225]".into());
    }
}

/// A text as TOML has it; JSON's escapes are TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
