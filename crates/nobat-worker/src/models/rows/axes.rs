//! What the names of axes say: inputs whose first axes have different names have
//! different numbers of rows, so there are none to join.

use super::graph::{Axis, Graph, Port};

/// Inputs that a request must bring: the others have a default.
pub(crate) fn required(graph: &Graph) -> impl Iterator<Item = &Port> {
    graph.inputs.iter().filter(|port| !graph.initializers.iter().any(|own| own.name == port.name))
}

/// Whether an axis has a name of its own: exporters number axes without a name, so that
/// one axis may have two numbers.
pub(crate) fn is_given(name: &str) -> bool {
    let numbered = |stem: &str| {
        name.rsplit_once(stem).is_some_and(|(_, end)| !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let made = ["unk__", "DynamicDimension.", "_dynamic_axes_", "_dim_", "dyn_", "unknown_", "dim_"];
    !(matches!(name, "?" | "None" | "none" | "-1") || made.iter().any(|stem| numbered(stem)))
}

/// The first axis's name, where it says anything.
fn first_name(port: &Port) -> Option<&str> {
    match port.axes.as_ref()?.first()? {
        Axis::Named(name) if is_given(name) => Some(name),
        _ => None,
    }
}

/// The name of the batch axis, which is the first of all inputs, where it has one; an error
/// says why the first axes cannot be one axis.
pub(crate) fn batch_axis(graph: &Graph) -> Result<Option<String>, String> {
    let inputs: Vec<&Port> = required(graph).collect();
    let named = inputs.iter().find_map(|port| Some((port, first_name(port)?)));
    for port in &inputs {
        let name = &port.name;
        let Some(axes) = &port.axes else { continue };
        match axes.first() {
            None => return Err(format!("input `{name}` has no axes")),
            Some(Axis::Fixed(size)) => {
                return Err(match later_batch(axes, named.map(|(_, name)| name)) {
                    Some((at, batch)) => format!(
                        "the batch axis of input `{name}` is axis {at} (`{batch}`), and requests are joined along the first one alone; export it with that axis first"
                    ),
                    None => format!("the first axis of input `{name}` is fixed to {size}"),
                });
            }
            Some(_) => {}
        }
        if let (Some((other, first)), Some(own)) = (named, first_name(port))
            && first != own
        {
            let other = &other.name;
            return Err(format!(
                "the first axis of input `{other}` is `{first}`, that of input `{name}` is `{own}`: different names are different axes"
            ));
        }
    }
    let batch = named.map(|(_, name)| name);
    for port in &inputs {
        let inner = port.axes.iter().flatten().skip(1);
        if let Some(batch) = batch
            && inner.clone().any(|axis| matches!(axis, Axis::Named(name) if name == batch))
        {
            return Err(format!("input `{}` has axis `{batch}` more than once", port.name));
        }
    }
    Ok(batch.map(str::to_owned))
}

/// An axis after the first that is named like a batch axis, or like the first axis of another input.
fn later_batch<'a>(axes: &'a [Axis], batch: Option<&str>) -> Option<(usize, &'a str)> {
    axes.iter().enumerate().skip(1).find_map(|(at, axis)| match axis {
        Axis::Named(name) => {
            let own = name.to_lowercase();
            (Some(name.as_str()) == batch || own.contains("batch") || matches!(own.as_str(), "n" | "b" | "bs"))
                .then_some((at, name.as_str()))
        }
        _ => None,
    })
}

/// Why an output's first axis is not the inputs', by their names.
pub(crate) fn other_output(graph: &Graph, batch: Option<&str>) -> Option<String> {
    let batch = batch?;
    graph.outputs.iter().find_map(|port| {
        let own = first_name(port).filter(|own| *own != batch)?;
        Some(format!(
            "the first axis of output `{}` is `{own}`, that of the inputs `{batch}`: different names are different axes",
            port.name
        ))
    })
}
