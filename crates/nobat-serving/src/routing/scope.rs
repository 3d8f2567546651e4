//! What a route's evidence is of: its rule, and the model files behind its targets. Found when
//! the route is bound, by the models that all gateways see; pure.
//!
//! So a gateway that has had no request yet names the others' counts as they do, and a request
//! costs no hashing.

use nobat_core::signature::{ModelSignature, digest_mark};
use smol_str::{SmolStr, format_smolstr};
use xxhash_rust::xxh3::xxh3_64;

use super::route::{Route, Rule};
use super::signature::{ServedModel, members};
use super::table::{Table, split_version};

/// What a route's evidence is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EvidenceScope {
    pub(crate) route: SmolStr,
    /// Of the rules and of every file: another one begins anew.
    pub(crate) hash: u64,
    /// Of the route's rule and of those of the routes that it names.
    rules: u64,
    /// The file behind each target that names a model, as the route names it; `ROUTE>TARGET` where
    /// that is a target of a route that it names. 0 is not known.
    files: Vec<(SmolStr, u64)>,
}

impl EvidenceScope {
    /// The scope of `route` with the models that are served now.
    pub(super) fn of(table: &Table, route: &Route, models: &[ServedModel<'_>]) -> EvidenceScope {
        let (mut rules, mut files) = (Vec::new(), Vec::new());
        collect(table, route, models, "", &mut rules, &mut files);
        let scope = EvidenceScope { route: route.name.clone(), hash: 0, rules: xxh3_64(&rules), files };
        scope.hashed()
    }

    /// The same, where a file that is not known now, as while a worker starts, is the one that it was.
    #[must_use]
    pub(super) fn after(mut self, before: &EvidenceScope) -> EvidenceScope {
        if self.rules == before.rules {
            for (target, file) in self.files.iter_mut().filter(|(_, file)| *file == 0) {
                *file = before.file(target);
            }
        }
        self.hashed()
    }

    fn hashed(self) -> EvidenceScope {
        let mut text = self.rules.to_le_bytes().to_vec();
        self.files.iter().for_each(|(_, file)| text.extend_from_slice(&file.to_le_bytes()));
        EvidenceScope { hash: xxh3_64(&text), ..self }
    }

    fn file(&self, target: &str) -> u64 {
        self.files.iter().find(|(own, _)| own == target).map_or(0, |(_, file)| *file)
    }

    /// Whether an answer marked so may count for `target`: it is of the file that the target
    /// stands for, as far as both are known.
    pub(crate) fn admits(&self, target: &str, mark: u64) -> bool {
        // An answer that is joined, or of an earlier release, does not say its file.
        let file = self.file(target);
        mark == 0 || file == 0 || mark == file
    }

    /// Names a target's counts, alike in every gateway that sees the same models.
    pub(crate) fn key(&self, target: &str) -> String {
        format!("route/{}/{:016x}/{target}", self.route, self.hash)
    }
}

/// The rule and the files of a route, and of the routes that it names; a table has no cycle.
fn collect(
    table: &Table,
    route: &Route,
    models: &[ServedModel<'_>],
    within: &str,
    rules: &mut Vec<u8>,
    files: &mut Vec<(SmolStr, u64)>,
) {
    rules.extend(serde_json::to_vec(route).unwrap_or_default());
    let of_model = |target: &str| (format_smolstr!("{within}{target}"), file_of(target, models));
    if let Ok(Rule::Topic(topic)) = route.rule() {
        files.extend(members(topic, models).iter().map(|member| of_model(member)));
    }
    for target in route.targets() {
        match table.follow(route, target) {
            Some(inner) => collect(table, inner, models, &format!("{within}{target}>"), rules, files),
            None => files.push(of_model(target)),
        }
    }
}

/// The mark of the file behind a target that names a model; 0 where none is known.
fn file_of(target: &str, models: &[ServedModel<'_>]) -> u64 {
    let (name, version) = split_version(target);
    let is_named = |own: &&ModelSignature| {
        own.name == name
            && !own.digest.is_empty()
            && (version.is_empty() || own.version == version || own.labels.iter().any(|label| label == version))
    };
    let named = models.iter().map(|known| known.signature).filter(is_named);
    let newest = named.max_by_key(|own| (own.default, own.version.parse::<u64>().unwrap_or(0)));
    newest.map_or(0, |own| digest_mark(&own.digest))
}
