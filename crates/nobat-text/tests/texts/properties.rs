//! Whatever bytes come, a text is answered or refused, alike alone and beside others.

use std::sync::LazyLock;

use nobat_core::parameters::Parameters;
use nobat_text::TextModel;
use nobat_transform::Transform;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{answer, elements, given, model, named, texts};

static MODELS: LazyLock<Vec<(&str, TextModel)>> =
    LazyLock::new(|| ["embed", "classify", "tokens", "sparse"].map(|name| (name, model(name))).into());

/// Letters that the vocabulary has and has not, marks that combine, emoji, spaces, special tokens.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-z ]{0,12}",
        "\\PC{0,8}",
        Just("e\u{301}\u{323}".to_owned()),
        Just("👩‍👩‍👧 نوبت 北京".to_owned()),
        Just("[SEP] [MASK]".to_owned()),
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_text_is_answered_alike_alone_and_beside_others(given_texts in prop::collection::vec(any_text(), 1..5)) {
        for (name, model) in MODELS.iter() {
            let mut inputs = vec![texts("text", &given_texts)];
            inputs.resize(model.signature().inputs.len(), None);
            let alone = answer(name, model, &inputs, &Parameters::default(), 1).expect("answered");
            let together = answer(name, model, &inputs, &Parameters::default(), 8).expect("answered");
            prop_assert_eq!(alone, together);
        }
    }

    #[test]
    fn any_bytes_are_answered_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80), ids: bool) {
        let parameters = if ids { given(&[("input", json!("ids"))]) } else { Parameters::default() };
        for (name, model) in MODELS.iter() {
            let mut inputs = vec![texts("text", std::slice::from_ref(&bytes))];
            inputs.resize(model.signature().inputs.len(), None);
            let _ = answer(name, model, &inputs, &parameters, 1);
        }
    }

    #[test]
    fn offsets_count_characters_and_never_go_back(text in any_text()) {
        let (_, model) = &MODELS[0];
        let prepared =
            model.prepare(&[texts("text", &[&text])], &given(&[("operation", json!("tokenize"))])).expect("prepared");
        let answer = model.answer(&prepared.job, Vec::new()).expect("answered");
        let tokens: Vec<Value> = serde_json::from_slice(&elements(named(&answer, "result"))[0]).expect("JSON");
        let characters: Vec<char> = text.chars().collect();
        let mut last = 0;
        for token in tokens.iter().filter(|token| token["special"] == false) {
            let place = |name: &str| token[name].as_u64().expect("a place") as usize;
            let (start, stop) = (place("start"), place("stop"));
            prop_assert!(last <= start && start <= stop && stop <= characters.len(), "{token}");
            let shown: String = characters[start..stop].iter().collect();
            prop_assert_eq!(token["text"].as_str(), Some(shown.as_str()));
            last = start;
        }
    }
}
