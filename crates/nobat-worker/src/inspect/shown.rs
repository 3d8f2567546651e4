//! An inspection as a person reads it.

use std::fmt;

use super::words::short;
use super::{Input, Inspection, Kind};

/// Most lines of one kind.
const MOST_LINES: usize = 24;

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &self.facts;
        writeln!(f, "{}", facts.file.display())?;
        let opsets: Vec<String> = facts.opsets.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
        let producer = if facts.producer.is_empty() { "unknown" } else { &facts.producer };
        writeln!(
            f,
            "  {} bytes, opset {}, IR {}, written by {}",
            facts.bytes,
            opsets.join(", "),
            facts.ir_version,
            short(producer)
        )?;
        tensors(f, "inputs", &facts.inputs)?;
        tensors(f, "outputs", &facts.outputs)?;
        let mut operators: Vec<_> = facts.operators.iter().collect();
        operators.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let shown: Vec<String> =
            operators.iter().take(12).map(|(name, count)| format!("{} {count}", short(name))).collect();
        let more = if operators.len() > 12 { format!(", and {} more", operators.len() - 12) } else { String::new() };
        writeln!(f, "\noperators\n  {}{more}", shown.join(", "))?;
        pairs(f, "metadata", facts.metadata.iter())?;
        pairs(f, "files beside it", facts.files.iter())?;
        let kind = match self.guess.kind {
            Kind::Text => "texts",
            Kind::Image => "pictures",
            Kind::TextAndImage => "texts or pictures",
            Kind::Files => "files",
            Kind::Table => "rows of a table",
            Kind::Tensors => "tensors",
        };
        let task = self.guess.task.as_ref().map_or(String::new(), |task| format!(", task {}", short(task)));
        writeln!(f, "\ntakes {kind}{task}")?;
        list(f, "found", &self.guess.found)?;
        list(f, "guessed", &self.guess.guessed)?;
        list(f, "needed", &self.guess.needed)?;
        writeln!(f, "\n{} to start from", self.settings_file.display())?;
        self.model_toml.lines().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

fn tensors(f: &mut fmt::Formatter<'_>, what: &str, tensors: &[Input]) -> fmt::Result {
    writeln!(f, "\n{what}")?;
    let width = tensors.iter().map(|tensor| short(&tensor.name).chars().count()).max().unwrap_or(0);
    for tensor in tensors.iter().take(MOST_LINES) {
        let dims: Vec<String> =
            tensor.shape.iter().map(|dim| dim.as_str().map_or_else(|| dim.to_string(), str::to_owned)).collect();
        let optional = if tensor.optional { ", has a default" } else { "" };
        writeln!(f, "  {:width$}  {:6} [{}]{optional}", short(&tensor.name), tensor.datatype, short(&dims.join(", ")))?;
    }
    more(f, tensors.len())
}

fn pairs<'a>(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    pairs: impl ExactSizeIterator<Item = (&'a String, &'a String)>,
) -> fmt::Result {
    let count = pairs.len();
    if count == 0 {
        return Ok(());
    }
    writeln!(f, "\n{what}")?;
    for (name, value) in pairs.take(MOST_LINES) {
        writeln!(f, "  {}: {}", short(name), short(value))?;
    }
    more(f, count)
}

fn list(f: &mut fmt::Formatter<'_>, what: &str, lines: &[String]) -> fmt::Result {
    lines.iter().try_for_each(|line| writeln!(f, "  {what:8} {line}"))
}

fn more(f: &mut fmt::Formatter<'_>, count: usize) -> fmt::Result {
    if count > MOST_LINES { writeln!(f, "  … and {} more", count - MOST_LINES) } else { Ok(()) }
}
