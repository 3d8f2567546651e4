//! What an operator may limit.

use nobat_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// What an operator may limit. 0 is no limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Predictions in flight, all callers together; bounds memory.
    pub max_in_flight: u32,
    /// Predictions in flight of one caller, unless its key says otherwise.
    pub max_in_flight_per_key: u32,
    /// Bytes of request bodies in memory, all callers together.
    pub max_body_bytes_in_flight: u64,
    /// Bytes of request bodies in memory of one caller with a key.
    pub max_body_bytes_in_flight_per_key: u64,
    /// Jobs per second of one caller, unless its key says otherwise.
    pub rate_per_s: f64,
    /// Jobs of one caller at once beyond its rate; 0 is one second's worth.
    pub burst: u32,
    /// Tokens a minute that the texts of one caller may have, unless its key says otherwise.
    pub tokens_per_min: u32,
    /// Highest priority of a caller's jobs, unless its key says otherwise.
    pub max_priority: u8,
    /// Look-ups of jobs that are not there, or another's, that a caller with a key
    /// may make in a minute.
    pub failed_lookups_per_min: u32,
    /// Count a caller's rate and tokens over all gateways, where they share a Redis; off,
    /// each gateway counts by itself.
    pub shared_rate: bool,
    /// Refuse a job that cannot finish within its deadline by the queue's
    /// present length and pace (`backlog`).
    pub predict_deadline: bool,
}

impl Default for LimitsConfig {
    fn default() -> LimitsConfig {
        LimitsConfig {
            max_in_flight: 8192,
            max_in_flight_per_key: 0,
            max_body_bytes_in_flight: 1 << 30,
            max_body_bytes_in_flight_per_key: 512 << 20,
            rate_per_s: 0.0,
            burst: 0,
            tokens_per_min: 0,
            max_priority: u8::MAX,
            failed_lookups_per_min: 300,
            shared_rate: true,
            predict_deadline: true,
        }
    }
}

impl LimitsConfig {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the key and the remedy.
    pub fn validate(&self, max_body_bytes: usize) -> Result<()> {
        let refuse = |why: &str| Err(Error::invalid(why));
        if !(self.rate_per_s >= 0.0 && self.rate_per_s.is_finite()) {
            return refuse(
                "limits.rate_per_s is negative or not a number; give requests per second, or 0 for no limit",
            );
        }
        if self.burst > 0 && self.rate_per_s == 0.0 {
            return refuse("limits.burst needs limits.rate_per_s; give both or neither");
        }
        let bounds = [self.max_body_bytes_in_flight, self.max_body_bytes_in_flight_per_key];
        if bounds.into_iter().any(|most| most > 0 && most < max_body_bytes as u64) {
            return refuse(
                "limits.max_body_bytes_in_flight or limits.max_body_bytes_in_flight_per_key is below max_body_bytes: no \
                 body of that size could come in; raise it, or lower max_body_bytes",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictory_settings_are_told() {
        assert!(LimitsConfig { burst: 5, ..LimitsConfig::default() }.validate(1).is_err());
        assert!(LimitsConfig { rate_per_s: f64::NAN, ..LimitsConfig::default() }.validate(1).is_err());
        assert!(LimitsConfig { rate_per_s: 5.0, burst: 5, ..LimitsConfig::default() }.validate(1).is_ok());
        assert!(LimitsConfig { max_body_bytes_in_flight: 9, ..LimitsConfig::default() }.validate(10).is_err());
        assert!(LimitsConfig { max_body_bytes_in_flight: 0, ..LimitsConfig::default() }.validate(10).is_ok());
    }
}
