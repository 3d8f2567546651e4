//! What an answer is kept under.

use nobat_core::infer::InferRequest;
use nobat_core::parameters::{Parameter, Parameters};
use xxhash_rust::xxh3::Xxh3;

/// A model version: its name, its number and the mark of its file's digest, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(pub u64);

/// Model, version digest, and everything asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey {
    /// The model version asked.
    pub source: Source,
    /// 128-bit hash of the inputs and the outputs asked for.
    pub content: u128,
}

impl CacheKey {
    /// The key of the same request to another version.
    pub fn of(self, source: Source) -> CacheKey {
        CacheKey { source, ..self }
    }

    /// Both halves as one number: the key in a second tier.
    pub fn flat(self) -> u128 {
        self.content ^ (u128::from(self.source.0) << 64 | u128::from(self.source.0))
    }
}

/// Hashes requests under a seed. The hash is fast, not cryptographic: the seed
/// must be the deployment's secret (or random), or a caller could craft two
/// inputs with one key.
#[derive(Clone, Copy)]
pub struct KeyHasher {
    seed: u64,
}

impl KeyHasher {
    /// Hashes under `seed`, which stays secret.
    pub fn new(seed: u64) -> KeyHasher {
        KeyHasher { seed }
    }

    /// The source of `model` at `version`, whose digest has this `mark`.
    pub fn source(self, model: &str, version: &str, mark: u64) -> Source {
        let mut hash = Xxh3::with_seed(self.seed ^ mark);
        hash.update(model.as_bytes());
        // A NUL cannot be part of a name, so the pair is read in one way only.
        hash.update(&[0]);
        hash.update(version.as_bytes());
        Source(hash.digest())
    }

    /// The key of `request` to `source`. Every part is framed by its length, so
    /// no two requests are the same run of bytes.
    ///
    /// # Complexity
    /// Reads every input byte once, at memory speed.
    pub fn key(self, source: Source, request: &InferRequest) -> CacheKey {
        let mut hash = Xxh3::with_seed(self.seed);
        for tensor in &request.inputs {
            let head = [tensor.name.len() as u64, tensor.shape.len() as u64, tensor.data.len() as u64];
            head.iter().for_each(|len| hash.update(&len.to_le_bytes()));
            hash.update(&[tensor.datatype as u8]);
            hash.update(tensor.name.as_bytes());
            tensor.shape.iter().for_each(|dim| hash.update(&dim.to_le_bytes()));
            hash.update(&tensor.data);
        }
        hash.update(&(request.inputs.len() as u64).to_le_bytes());
        for name in &request.outputs {
            hash.update(&(name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
        }
        hash_parameters(&mut hash, &request.parameters);
        CacheKey { source, content: hash.digest128() }
    }
}

/// No name is as long as the mark that they begin with, so they are told from outputs.
fn hash_parameters(hash: &mut Xxh3, parameters: &Parameters) {
    for (name, value) in parameters.iter() {
        hash.update(&u64::MAX.to_le_bytes());
        let (kind, bits, text) = match value {
            Parameter::Bool(value) => (0, u64::from(*value), ""),
            Parameter::Int64(value) => (1, *value as u64, ""),
            Parameter::Double(value) => (2, value.to_bits(), ""),
            Parameter::Text(text) => (3, text.len() as u64, text.as_str()),
        };
        [name.len() as u64, kind, bits].iter().for_each(|number| hash.update(&number.to_le_bytes()));
        hash.update(name.as_bytes());
        hash.update(text.as_bytes());
    }
}

impl std::fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyHasher(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::tensor::{Datatype, Tensor};
    use proptest::prelude::*;
    use smallvec::smallvec;
    use std::collections::HashSet;

    fn tensor(name: &str, datatype: Datatype, rows: i64, data: &[u8]) -> Tensor {
        Tensor { name: name.into(), datatype, shape: smallvec![rows], data: data.to_vec().into() }
    }

    #[test]
    fn everything_that_changes_the_answer_changes_the_key() {
        let hasher = KeyHasher::new(9);
        let base = InferRequest {
            version: "".into(),
            inputs: vec![tensor("ab", Datatype::Uint8, 4, b"wxyz"), tensor("c", Datatype::Uint8, 1, b"w")],
            outputs: vec!["label".into()],
            parameters: Parameters::from_iter([("dimensions".into(), Parameter::Int64(1))]),
        };
        let mut variants = vec![base.clone()];
        let mut vary = |change: fn(&mut InferRequest)| {
            let mut one = base.clone();
            change(&mut one);
            variants.push(one);
        };
        vary(|r| r.inputs[0].data = b"wxyy".to_vec().into());
        vary(|r| r.inputs[0].shape = smallvec![2, 2]);
        vary(|r| r.inputs[0].datatype = Datatype::Int8);
        vary(|r| r.inputs[0].name = "a".into());
        vary(|r| r.inputs.truncate(1));
        vary(|r| r.outputs.clear());
        vary(|r| r.outputs = vec!["lab".into(), "el".into()]);
        vary(|r| r.parameters.clear());
        vary(|r| r.parameters.set("dimensions", Parameter::Int64(2)));
        vary(|r| r.parameters.set("dimensions", Parameter::Bool(true)));
        vary(|r| r.parameters.set("dimensions", Parameter::Text("".into())));
        vary(|r| r.parameters.set("normalize", Parameter::Int64(1)));
        let one = hasher.source("digits", "1", 1);
        let mut keys: HashSet<_> = variants.iter().map(|request| hasher.key(one, request)).collect();
        assert_eq!(keys.len(), variants.len());
        keys.insert(hasher.key(hasher.source("digits", "1", 2), &base));
        keys.insert(hasher.key(hasher.source("digits", "2", 1), &base));
        keys.insert(hasher.key(hasher.source("letters", "1", 1), &base));
        keys.insert(KeyHasher::new(10).key(one, &base));
        assert_eq!(keys.len(), variants.len() + 4);
        // What one version was asked is found again when another is named.
        assert_eq!(hasher.key(one, &base).of(Source(7)), hasher.key(Source(7), &base));
        assert_ne!(hasher.key(one, &base).flat(), hasher.key(Source(7), &base).flat());
    }

    proptest! {
        #[test]
        fn moving_a_byte_between_tensors_changes_the_key(a in prop::collection::vec(any::<u8>(), 1..40), cut in any::<prop::sample::Index>()) {
            let request = |at: usize| InferRequest {
                version: "".into(),
                inputs: vec![tensor("x", Datatype::Uint8, 1, &a[..at]), tensor("x", Datatype::Uint8, 1, &a[at..])],
                ..InferRequest::default()
            };
            let (hasher, at) = (KeyHasher::new(1), cut.index(a.len()));
            let key = |at| hasher.key(Source(1), &request(at));
            prop_assert_eq!(key(at), key(at));
            prop_assert_ne!(key(at), key(at + 1));
        }
    }
}
