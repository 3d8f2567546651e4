//! Chains as files: the `[chain]` of a `model.toml`, or the `ensemble_scheduling` of a Triton
//! `config.pbtxt` as it stands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nobat_core::chain::definition::MAX_IN_FLIGHT;
use nobat_core::chain::{ChainDefinition, Declared, StepDefinition};
use nobat_core::tensor::Datatype;
use smol_str::{SmolStr, format_smolstr};

use super::pbtxt::{self, Fields};

/// Files that may hold a chain, the one that wins first.
const FILES: [&str; 2] = ["model.toml", "config.pbtxt"];

/// The file of a folder that defines a chain, if one does.
pub(crate) fn file(folder: &Path) -> Option<PathBuf> {
    let files = FILES.iter().map(|name| folder.join(name));
    files.into_iter().find(|file| std::fs::read_to_string(file).is_ok_and(|text| defines(file, &text)))
}

/// Whether this is the file of a chain, not of a graph.
pub(crate) fn is_chain(file: &Path) -> bool {
    file.file_name().is_some_and(|name| FILES.iter().any(|own| name == *own))
}

/// Whether a text defines a chain; whether a valid one, the load says.
fn defines(file: &Path, text: &str) -> bool {
    match is_toml(file) {
        true => text.lines().map(str::trim_start).any(|line| {
            let name = line.trim_start_matches('[').trim_start();
            line.starts_with('[') && name.strip_prefix("chain").is_some_and(|rest| rest.starts_with([']', '.', ' ']))
        }),
        false => pbtxt::parse(text).is_ok_and(|fields| {
            fields.block("ensemble_scheduling").is_some() || fields.texts("platform").any(|own| own == "ensemble")
        }),
    }
}

fn is_toml(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "toml")
}

/// Reads the chain that a file defines.
///
/// # Errors
/// One line that names the file, the key and the remedy.
pub(crate) fn read(file: &Path) -> Result<(ChainDefinition, String), String> {
    let named = |reason: String| format!("`{}`: {reason}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
    let definition = if is_toml(file) { of_toml(&text) } else { of_pbtxt(&text) };
    Ok((definition.map_err(named)?, text))
}

fn of_toml(text: &str) -> Result<ChainDefinition, String> {
    let mut table: toml::Table = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let chain = table.remove("chain").ok_or("there is no [chain] in it any more")?;
    chain.try_into().map_err(|error: toml::de::Error| format!("[chain] {}", error.message()))
}

/// Triton's ensemble: a step's map has its own tensor as the key, the ensemble's as the value.
fn of_pbtxt(text: &str) -> Result<ChainDefinition, String> {
    let fields = pbtxt::parse(text)?;
    if fields.block("instance_group").is_some() {
        return Err("a chain has no instance_group; set it at the models of its steps".into());
    }
    let scheduling = fields.block("ensemble_scheduling").ok_or("an ensemble needs ensemble_scheduling")?;
    let max_rows = fields.number("max_batch_size")?.filter(|&rows| rows > 0);
    let max_rows =
        max_rows.map(|rows| u32::try_from(rows).map_err(|_| "max_batch_size is out of range")).transpose()?;
    let steps: Vec<StepDefinition> = scheduling.blocks("step").map(step).collect::<Result<_, _>>()?;
    let tensors = |key: &str| -> Result<Vec<Declared>, String> {
        let read = |own: &Fields| declared(own, max_rows.is_some()).map_err(|reason| format!("{key}: {reason}"));
        fields.blocks(key).map(read).collect()
    };
    let most = scheduling.number("max_inflight_requests")?.filter(|&most| most > 0);
    Ok(ChainDefinition {
        steps: told_apart(steps),
        inputs: tensors("input")?,
        outputs: tensors("output")?,
        max_in_flight: most.map_or(MAX_IN_FLIGHT, |most| u32::try_from(most).unwrap_or(u32::MAX)),
        max_rows,
    })
}

fn step(fields: &Fields) -> Result<StepDefinition, String> {
    let model = text(fields, "model_name").ok_or("a step needs model_name")?;
    let version = text(fields, "model_version").filter(|version| version != "-1").unwrap_or_default();
    let map = |key: &str| -> Result<Option<BTreeMap<SmolStr, SmolStr>>, String> {
        let entry = |entry: &Fields| {
            let missing = || format!("{key} of step `{model}` needs key and value");
            Ok((text(entry, "key").ok_or_else(missing)?, text(entry, "value").ok_or_else(missing)?))
        };
        fields.blocks(key).map(entry).collect::<Result<_, String>>().map(Some)
    };
    let (inputs, outputs) = (map("input_map")?, map("output_map")?);
    Ok(StepDefinition { model: Some(model.clone()), version, inputs, outputs, ..StepDefinition::default() })
}

/// Steps of one model get names of their own: the second of `m` is `m-2`.
fn told_apart(mut steps: Vec<StepDefinition>) -> Vec<StepDefinition> {
    let mut seen: BTreeMap<SmolStr, u32> = BTreeMap::new();
    for step in &mut steps {
        let Some(model) = step.model.clone() else { continue };
        let count = seen.entry(model.clone()).or_default();
        *count += 1;
        if *count > 1 {
            step.name = Some(format_smolstr!("{model}-{count}"));
        }
    }
    steps
}

fn text(fields: &Fields, key: &str) -> Option<SmolStr> {
    fields.texts(key).next().map(SmolStr::new)
}

/// A declared tensor; the rows are no part of the dimensions where there is a batch size.
fn declared(fields: &Fields, rows: bool) -> Result<Declared, String> {
    let name = text(fields, "name").ok_or("it needs a name")?;
    let Some(kind) = text(fields, "data_type") else { return Ok(Declared::from(name)) };
    let datatype = match kind.strip_prefix("TYPE_").unwrap_or(&kind) {
        "STRING" => Some(Datatype::Bytes),
        kind => Datatype::parse(kind),
    };
    let datatype = datatype.ok_or_else(|| format!("`{name}` has data_type `{kind}`, which is none"))?;
    let mut shape: Vec<i64> = if rows { vec![-1] } else { Vec::new() };
    for dim in fields.texts("dims") {
        shape.push(dim.parse().map_err(|_| format!("`{name}` has `{dim}` among its dims; whole numbers are needed"))?);
    }
    Ok(Declared { name, holds: Some((datatype, shape)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_triton_ensemble_is_read_as_it_stands() {
        let text = r#"
            name: "ocr"  platform: "ensemble"  max_batch_size: 8
            input [ { name: "IMAGE" data_type: TYPE_UINT8 dims: [ -1, 3 ] } ]
            output { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] }
            ensemble_scheduling {
              step [
                { model_name: "read" model_version: 3
                  input_map { key: "x" value: "boxes" } output_map { key: "y" value: "TEXT" } },
                { model_name: "find" model_version: -1
                  input_map: { key: "in", value: "IMAGE" } output_map { key: "out" value: "boxes" } }
              ]
              step { model_name: "find" input_map { key: "in" value: "IMAGE" } output_map { key: "out" value: "other" } }
            }
        "#;
        let read = of_pbtxt(text).expect("an ensemble");
        assert_eq!(read.max_rows, Some(8));
        assert_eq!(read.inputs[0].holds, Some((Datatype::Uint8, vec![-1, -1, 3])));
        assert_eq!(read.outputs[0].holds, Some((Datatype::Bytes, vec![-1, 1])));
        let names: Vec<&str> = read.steps.iter().map(StepDefinition::name).collect();
        assert_eq!(names, ["read", "find", "find-2"]);
        assert_eq!((read.steps[0].version.as_str(), read.steps[1].version.as_str()), ("3", ""));
        assert_eq!(read.steps[0].inputs, Some([("x".into(), "boxes".into())].into()));
        for (broken, says) in [
            ("platform: \"ensemble\"", "needs ensemble_scheduling"),
            ("ensemble_scheduling { step { } }", "needs model_name"),
            ("ensemble_scheduling { step { model_name: \"m\" input_map { key: \"x\" } } }", "needs key and value"),
            ("ensemble_scheduling { } instance_group { count: 2 }", "has no instance_group"),
            ("ensemble_scheduling { } input { name: \"x\" data_type: TYPE_X }", "input: `x` has data_type `TYPE_X`"),
        ] {
            let error = of_pbtxt(broken).expect_err(broken);
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_chain_in_a_model_toml_is_read_and_misspelt_keys_are_named() {
        let text = "[chain]\noutputs = [\"label\"]\n[[chain.steps]]\nmodel = \"a\"\n\
                    [[chain.steps]]\nuse = \"crop\"\nsettings = { size = 4 }\ninputs = { boxes = \"b\" }\n";
        let read = of_toml(text).expect("a chain");
        assert_eq!((read.steps.len(), read.outputs[0].name.as_str(), read.max_in_flight), (2, "label", 64));
        assert_eq!(
            (read.steps[1].function.as_deref(), read.steps[1].settings["size"].as_i64()),
            (Some("crop"), Some(4))
        );
        let error = of_toml("[chain]\nstep = []").expect_err("misspelt");
        assert!(error.contains("[chain]") && error.contains("`step`"), "{error}");
    }

    #[test]
    fn only_files_that_define_a_chain_are_taken_for_one() {
        for (name, text, is) in [
            ("model.toml", "[chain]\n", true),
            ("model.toml", "  [[ chain.steps ]]\n", true),
            ("model.toml", "[chains]\n# [chain]\n", false),
            ("model.toml", "sessions = 2\n", false),
            ("config.pbtxt", "platform: \"ensemble\"", true),
            ("config.pbtxt", "name: \"ensemble\"", false),
        ] {
            assert_eq!(defines(Path::new(name), text), is, "{text}");
        }
    }
}
