//! How a model's cache is set up.

use std::time::Duration;

use nobat_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Which entry goes first when a bound is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CachePolicy {
    /// The one least recently used.
    #[default]
    Lru,
    /// As `lru`, and `ttl_s` is required: an unused entry goes by itself.
    Ttl,
    /// The one least often used (TinyLFU): a newcomer must be asked for more
    /// often than the entry it would replace.
    Lfu,
}

/// A model's cache. Every model is off until it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Eviction order.
    pub policy: CachePolicy,
    /// Most answers held.
    pub max_entries: usize,
    /// Most bytes held, bookkeeping included.
    pub max_bytes: u64,
    /// An entry goes this long after its last use, in seconds; 0 is never.
    pub ttl_s: u64,
    /// Also keep answers in the queue's store, where every gateway finds them
    /// (Redis only; `ttl_s`, or an hour without one, counts from the write there).
    pub shared: bool,
}

impl Default for CacheConfig {
    fn default() -> CacheConfig {
        CacheConfig { policy: CachePolicy::Lru, max_entries: 10_000, max_bytes: 64 << 20, ttl_s: 0, shared: false }
    }
}

impl CacheConfig {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the key and the remedy.
    pub fn validate(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::invalid(why));
        if self.max_entries == 0 {
            return refuse("cache.max_entries is 0; give at least 1, or leave the cache out");
        }
        if self.max_bytes == 0 {
            return refuse("cache.max_bytes is 0; give at least 1, or leave the cache out");
        }
        if self.policy == CachePolicy::Ttl && self.ttl_s == 0 {
            return refuse("cache.policy `ttl` needs cache.ttl_s; give the seconds an unused answer lives");
        }
        if self.ttl_s > 366 * 86_400 {
            return refuse("cache.ttl_s is over a year; give less, or 0 for no limit");
        }
        Ok(())
    }

    /// How long a second tier keeps an answer, counted from its writing.
    pub fn shared_ttl(&self) -> Duration {
        Duration::from_secs(if self.ttl_s == 0 { 3600 } else { self.ttl_s })
    }

    /// Reads a model's `cache` setting: an object of these keys, or `true` for
    /// the defaults. `None` when the model does not ask for a cache.
    ///
    /// # Errors
    /// `invalid_parameter` for an unknown key, a wrong type or a contradiction.
    pub fn from_setting(setting: Option<&serde_json::Value>) -> Result<Option<CacheConfig>> {
        let config = match setting {
            None | Some(serde_json::Value::Null | serde_json::Value::Bool(false)) => return Ok(None),
            Some(serde_json::Value::Bool(true)) => CacheConfig::default(),
            Some(object) => {
                CacheConfig::deserialize(object).map_err(|e| Error::invalid(format!("cache setting: {e}")))?
            }
        };
        config.validate()?;
        Ok(Some(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_setting_is_off_default_or_spelt_out() {
        assert_eq!(CacheConfig::from_setting(None).expect("off"), None);
        assert_eq!(CacheConfig::from_setting(Some(&json!(false))).expect("off"), None);
        assert_eq!(CacheConfig::from_setting(Some(&json!(true))).expect("on"), Some(CacheConfig::default()));
        let spelt = CacheConfig::from_setting(Some(&json!({"policy": "lfu", "max_entries": 5}))).expect("on");
        assert_eq!(spelt.map(|config| (config.policy, config.max_entries)), Some((CachePolicy::Lfu, 5)));
    }

    #[test]
    fn a_wrong_setting_is_told_by_name() {
        for (setting, says) in [
            (json!({"polcy": "lru"}), "unknown field `polcy`"),
            (json!({"policy": "fifo"}), "unknown variant `fifo`"),
            (json!({"policy": "ttl"}), "needs cache.ttl_s"),
            (json!({"max_entries": 0}), "cache.max_entries is 0"),
            (json!({"max_bytes": 0}), "cache.max_bytes is 0"),
            (json!("yes"), "invalid type"),
        ] {
            let error = CacheConfig::from_setting(Some(&setting)).expect_err("wrong");
            assert!(error.message.contains(says), "{setting}: {}", error.message);
        }
    }
}
