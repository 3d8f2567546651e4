//! Entries for the fuzz targets and the replay of their corpora (`fuzz/`).

/// A list's cursor, as a caller sends it back.
pub fn cursor(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok((number, stage, place)) = crate::redis::list::parse_cursor(text) {
        let again = crate::redis::list::parse_cursor(&format!("{number}:{stage}:{place}"));
        assert_eq!(again.ok(), Some((number, stage, place)), "{text:?} reads back");
    }
}
