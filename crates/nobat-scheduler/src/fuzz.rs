//! Entry for the fuzz target and the replay of its corpus (`fuzz/`).

use crate::schedule::Crontab;

/// A crontab, and a time zone on the next line.
pub fn crontab(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (text, zone) = text.split_once('\n').unwrap_or((text, "UTC"));
    if let Ok(crontab) = Crontab::parse(text, zone) {
        let mut at = 1_700_000_000;
        for _ in 0..3 {
            let Some(next) = crontab.next_after(at) else { break };
            assert!(next > at, "{text:?}: ticks go forward");
            at = next;
        }
        crontab.describe();
    }
}
