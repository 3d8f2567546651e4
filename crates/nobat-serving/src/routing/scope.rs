//! What a route's evidence is of: its rule, and the model files behind its targets. Found when
//! the route is bound, by the models that all gateways see; pure.
//!
//! So a gateway that has had no request yet names the others' counts as they do, and a request
//! costs no hashing.

use nobat_core::signature::{ModelSignature, ModelState, digest_mark};
use smol_str::SmolStr;
use xxhash_rust::xxh3::xxh3_64;

use super::route::{Route, Rule, Target};
use super::signature::{ServedModel, members};
use super::table::{Table, split_version};

/// What a route's evidence is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EvidenceScope {
    pub(crate) route: SmolStr,
    /// Of the rule and of every file: another one begins anew.
    pub(crate) hash: u64,
    /// The file behind each target that names a model; 0 is not known.
    files: Vec<(Target, u64)>,
}

impl EvidenceScope {
    /// The scope of `route` with the models that are served now.
    pub(super) fn of(table: &Table, route: &Route, models: &[ServedModel<'_>]) -> EvidenceScope {
        let files = route.targets().into_iter().filter(|target| table.follow(route, target).is_none());
        EvidenceScope {
            route: route.name.clone(),
            hash: hash_of(table, route, models),
            files: files.map(|target| (target.clone(), file_of(target, models))).collect(),
        }
    }

    /// Whether an answer marked so may count for `target`: it is of the file that the target
    /// stands for, as far as both are known.
    pub(crate) fn admits(&self, target: &str, mark: u64) -> bool {
        // An answer that is joined, or of an earlier release, does not say its file.
        let file = self.files.iter().find(|(own, _)| own == target).map_or(0, |(_, file)| *file);
        mark == 0 || file == 0 || mark == file
    }

    /// Names a target's counts, alike in every gateway that sees the same models.
    pub(crate) fn key(&self, target: &str) -> String {
        format!("route/{}/{:016x}/{target}", self.route, self.hash)
    }
}

/// The rule and the files of a route, and of the routes that it names.
fn hash_of(table: &Table, route: &Route, models: &[ServedModel<'_>]) -> u64 {
    let mut text = serde_json::to_vec(route).unwrap_or_default();
    let mut add = |mark: u64| text.extend_from_slice(&mark.to_le_bytes());
    for target in route.targets() {
        add(match table.follow(route, target) {
            Some(inner) => hash_of(table, inner, models),
            None => file_of(target, models),
        });
    }
    if let Ok(Rule::Topic(topic)) = route.rule() {
        members(topic, models).iter().for_each(|member| add(file_of(member, models)));
    }
    xxh3_64(&text)
}

/// The mark of the file behind a target that names a model; 0 where none is known.
fn file_of(target: &str, models: &[ServedModel<'_>]) -> u64 {
    let (name, version) = split_version(target);
    let is_named = |own: &&ModelSignature| {
        own.name == name
            && own.state == ModelState::Ready
            && (version.is_empty() || own.version == version || own.labels.iter().any(|label| label == version))
    };
    let named = models.iter().map(|known| known.signature).filter(is_named);
    let newest = named.max_by_key(|own| (own.default, own.version.parse::<u64>().unwrap_or(0)));
    newest.map_or(0, |own| digest_mark(&own.digest))
}
