//! The kinds of tables, by their content types.

/// What a table is written in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TableKind {
    /// Comma-separated values under a line of names.
    Csv,
    /// The same without that line.
    CsvWithoutHeader,
    /// Arrow's streaming format.
    ArrowStream,
    /// Arrow's file format, which Feather's second version is.
    ArrowFile,
    /// Parquet.
    Parquet,
}

impl TableKind {
    /// The kind that a content type in lower case names.
    pub(crate) fn of(given: &str) -> Option<TableKind> {
        let mut parts = given.split(';').map(str::trim);
        Some(match parts.next()? {
            // RFC 4180, section 3, has the parameter.
            "text/csv" | "application/csv" if parts.any(|part| part == "header=absent") => TableKind::CsvWithoutHeader,
            "text/csv" | "application/csv" => TableKind::Csv,
            "application/vnd.apache.arrow.stream" => TableKind::ArrowStream,
            "application/vnd.apache.arrow.file" => TableKind::ArrowFile,
            "application/vnd.apache.parquet" | "application/x-parquet" => TableKind::Parquet,
            _ => return None,
        })
    }
}
