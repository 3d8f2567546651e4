//! Paths that name a version or a label: the same operations as without, said
//! once and written out.

use utoipa::Modify;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{OpenApi, RefOr, Required};

/// Where a path may go on, with which segment, and the parameter in it.
const FORMS: [(&str, &str, &str); 3] = [
    ("/v1/models/{model}", "versions", "version"),
    ("/v1/models/{model}", "labels", "label"),
    ("/v2/models/{model}", "versions", "version"),
];

/// Adds the forms with a version or a label.
pub(super) struct Variants;

impl Modify for Variants {
    fn modify(&self, document: &mut OpenApi) {
        let mut added = Vec::new();
        for (path, item) in &document.paths.paths {
            for (prefix, segment, name) in FORMS {
                let Some(rest) = path.strip_prefix(prefix) else { continue };
                // These belong to the model, whichever version serves.
                if rest.starts_with("/trace") {
                    continue;
                }
                added.push((format!("{prefix}/{segment}/{{{name}}}{rest}"), with_parameter(item.clone(), name)));
            }
        }
        document.paths.paths.extend(added);
    }
}

fn with_parameter(mut item: PathItem, name: &str) -> PathItem {
    for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
        name_in_path(operation, name);
    }
    item
}

fn name_in_path(operation: &mut Operation, name: &str) {
    if let Some(id) = &mut operation.operation_id {
        *id = format!("{id}_by_{name}");
    }
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(format!("The model's {name}")))
        .example(Some("1".into()))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build();
    operation.parameters.get_or_insert_default().push(RefOr::T(parameter));
}
