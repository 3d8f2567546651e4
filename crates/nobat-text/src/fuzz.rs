//! Entries for the fuzz targets and the replay of their corpora (`fuzz/`).

use std::sync::LazyLock;

use crate::folder::config::{ModelConfig, TokenizerConfig};
use crate::folder::pooling::PoolingModule;
use crate::settings::Side;
use crate::tokenizer::{Cut, Input, TextTokenizer};
use crate::{operations, task};

static TOKENIZER: LazyLock<TextTokenizer> = LazyLock::new(|| {
    let file = include_bytes!("../../../tests/text_models/tokens/tokenizer.json");
    TextTokenizer::read(file).expect("the project's own tokenizer reads")
});

/// A text; what follows a NUL is the second of a pair.
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let whole = TOKENIZER.whole(text, true, 0).expect("every text has tokens");
    operations::tokens(text, &whole).expect("tokens are shown");
    let characters = text.chars().count();
    for &(start, stop) in whole.get_offsets() {
        assert!(start <= stop && stop <= characters, "{text:?}: {start}..{stop} of {characters}");
    }
    let (first, second) = text.split_once('\0').unwrap_or((text, ""));
    for (side, only_first) in [(Side::Left, false), (Side::Right, true)] {
        let cut = Cut { most: 12, truncate: true, side, only_first };
        if let Ok(pair) = TOKENIZER.encode(Input::Pair(first, second), cut, true, 0) {
            assert!(pair.len() <= 12, "{text:?} is cut to 12 tokens");
        }
        let ids = TOKENIZER.encode(Input::Text(text), cut, false, 0).expect("one text can be cut").get_ids().to_vec();
        assert!(
            ids.len() <= 12 && ids == TOKENIZER.encode(Input::Ids(&ids), cut, false, 0).expect("its ids").get_ids()
        );
        TOKENIZER.decode(&ids, true).expect("ids are a text");
    }
}

/// A folder's `config.json`, `tokenizer_config.json` and pooling, apart by NULs.
pub fn text_folder(data: &[u8]) {
    let mut parts = data.split(|&byte| byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    if let Ok(config) = serde_json::from_slice::<ModelConfig>(part()) {
        let found = task::find(None, &config, None).expect("without a setting there is a task or none");
        assert!(!found.how.is_empty());
        config.labels();
        assert_ne!(config.positions(), Some(0));
        config.padding_id();
        config.activation();
    }
    if let Ok(config) = serde_json::from_slice::<TokenizerConfig>(part()) {
        assert_ne!(config.max_length(), Some(0));
        config.mask_token();
    }
    if let Ok(config) = serde_json::from_slice(part())
        && let Ok(pooling) = PoolingModule::read(&config, "1_Pooling/config.json")
    {
        assert!(!pooling.modes.is_empty());
    }
}
