//! A version's profile: what its inputs and answers looked like on rows that it was not
//! trained on, published with it so that gateways can tell drift without a file.
//!
//! `profile.json` stands where a golden file would (in the version's folder or the model's;
//! for a plain `NAME.onnx` among others `NAME.profile.json`). A profile that cannot be used
//! keeps no version out of service: why is published in its place.

use std::path::Path;

use nobat_core::signature::ModelSignature;
use nobat_statistics::profile::Profile;
use nobat_statistics::sketch::{DriftReference, PROFILE_SETTING, PublishedProfile};
use sha2::{Digest, Sha256};

use super::files::beside;

/// The file's name.
const FILE: &str = "profile.json";
/// Most bytes of the file; one of a thousand classes and inputs has about a tenth of it.
const MOST_BYTES: u64 = 8 << 20;

/// The hash of a version's profile, which tells a new or changed one; `None` without one.
pub(crate) fn hash(model_file: &Path) -> Option<[u8; 32]> {
    // One that cannot be read is told of where it is published.
    beside(model_file, FILE).map(|file| Sha256::digest(read(&file).unwrap_or_else(String::into_bytes)).into())
}

/// Adds the profile beside the model, if there is one, to what is published of it.
pub(crate) fn publish(model_file: &Path, signature: &mut ModelSignature) {
    let Some(file) = beside(model_file, FILE) else { return };
    let reference = read(&file).and_then(|json| {
        let profile = Profile::parse(&json)?;
        DriftReference::for_model(&profile, &signature.name, &signature.inputs, &signature.outputs)
    });
    let published = match reference {
        Ok(reference) => PublishedProfile::Reference(reference),
        Err(why) => {
            let model = signature.name.as_str();
            log::warn!(model; "model `{model}` is not watched for drift: `{}`: {why}", file.display());
            PublishedProfile::Unusable(why)
        }
    };
    // A reference is numbers and names, which every JSON can hold.
    let value = serde_json::to_value(&published).unwrap_or_default();
    signature.settings.insert(PROFILE_SETTING.into(), value);
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let bytes = std::fs::metadata(file).map_err(|error| format!("it cannot be read: {error}"))?.len();
    if bytes > MOST_BYTES {
        return Err(format!("it has {bytes} bytes, over {MOST_BYTES}; `nobat test init` writes smaller ones"));
    }
    std::fs::read(file).map_err(|error| format!("it cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::tensor::{Datatype, Tensor};
    use nobat_statistics::building::ProfileBuilder;
    use nobat_testkit::signatures::{ready, spec};

    fn signature() -> ModelSignature {
        let [x, y] = ["x", "y"].map(|name| spec(name, Datatype::Fp32, &[-1]));
        ModelSignature { max_batch_size: 1, max_rows: 1, ..ready("m", vec![x], vec![y]) }
    }

    fn profile(model: &str) -> String {
        let tensor = |name: &str, value: f32| Tensor {
            name: name.into(),
            datatype: Datatype::Fp32,
            shape: [1].as_slice().into(),
            data: value.to_le_bytes().to_vec().into(),
        };
        let mut builder = ProfileBuilder::new(1);
        (0..100u8).for_each(|row| builder.add(&[tensor("x", row.into())], &[tensor("y", row.into())], 1));
        serde_json::to_string(&builder.finish(model, "1")).expect("serializes")
    }

    fn published(model_file: &Path) -> Option<PublishedProfile> {
        let mut signature = signature();
        publish(model_file, &mut signature);
        signature.settings.get(PROFILE_SETTING).map(|value| serde_json::from_value(value.clone()).expect("reads"))
    }

    #[test]
    fn a_profile_beside_the_model_is_published_and_one_that_is_not_its_own_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let model = folder.path().join("m.onnx");
        assert_eq!((published(&model), hash(&model)), (None, None));
        let file = folder.path().join("m.profile.json");
        std::fs::write(&file, profile("m")).expect("written");
        let Some(PublishedProfile::Reference(reference)) = published(&model) else { panic!("a reference") };
        assert_eq!((reference.rows, reference.groups.len()), (100, 2));
        let before = hash(&model);
        std::fs::write(&file, profile("other")).expect("written");
        assert_ne!(before, hash(&model), "a changed one is published anew");
        let why = |wanted: &str| match published(&model) {
            Some(PublishedProfile::Unusable(why)) => assert!(why.contains(wanted), "{why}"),
            other => panic!("{other:?}"),
        };
        why("profile of model `other`, not of `m`");
        std::fs::write(&file, "{").expect("written");
        why("no profile");
        std::fs::File::create(&file).and_then(|file| file.set_len(100 << 20)).expect("a sparse file");
        why("104857600 bytes");
        assert!(hash(&model).is_some());
    }
}
