//! What a Parquet file's pages become, found before any is unpacked: a file of a few bytes
//! may hold gigabytes.
//!
//! Each page begins with a header that says its sizes, a struct in Thrift's compact protocol.
//! Source: apache/parquet-format, parquet.thrift, `PageHeader`.

use std::io::Read;

use flate2::read::MultiGzDecoder;
use nobat_core::{Error, ErrorCode, Result, clip};
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;

use super::layout::invalid;

/// Number of DELTA_BYTE_ARRAY among the encodings.
const DELTA_BYTE_ARRAY: i64 = 7;
/// Structs in one another in a header; those of the format are three deep.
const MAX_DEPTH: u8 = 8;

/// What was found of the pages.
pub(super) struct Unpacked {
    /// Whether texts repeat the beginnings of those before them: a few bytes may be as many
    /// long texts.
    pub(super) texts_build_on_texts: bool,
}

/// Walks the pages of the root columns that are `read`, and refuses a file whose pages become
/// more than `most` bytes.
///
/// # Errors
/// `payload_too_large`; `invalid_tensor` for pages that are not where the file says, and for
/// a compression that is not read.
pub(super) fn check(
    body: &[u8],
    file: &ParquetMetaData,
    read: impl Fn(usize) -> bool,
    most: usize,
) -> Result<Unpacked> {
    let schema = file.file_metadata().schema_descr();
    let mut unpacked = Unpacked { texts_build_on_texts: false };
    let mut bytes = 0usize;
    for group in file.row_groups() {
        for (leaf, column) in group.columns().iter().enumerate() {
            if leaf >= schema.num_columns() || !read(schema.get_column_root_idx(leaf)) {
                continue;
            }
            let is_gzip = match column.compression() {
                Compression::UNCOMPRESSED | Compression::SNAPPY => false,
                Compression::GZIP(_) => true,
                other => {
                    // Without the level that it was written with.
                    let name = other.to_string().split('(').next().unwrap_or_default().to_ascii_lowercase();
                    return Err(invalid(format!(
                        "column `{}` is compressed with {name}; write the file with snappy or gzip",
                        clip(&column.column_path().string())
                    )));
                }
            };
            let begins = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let mut rest = slice(body, begins, column.compressed_size())?;
            while !rest.is_empty() {
                let page = header(&mut rest).ok_or_else(misplaced)?;
                let packed = usize::try_from(page.packed).ok().filter(|&size| size <= rest.len());
                let (data, after) = rest.split_at(packed.ok_or_else(misplaced)?);
                rest = after;
                let size = usize::try_from(page.unpacked).map_err(|_| misplaced())?;
                bytes = bytes.saturating_add(size);
                if bytes > most || (is_gzip && is_larger(data, size)) {
                    return Err(too_large(most));
                }
                unpacked.texts_build_on_texts |= page.encoding == DELTA_BYTE_ARRAY;
            }
        }
    }
    Ok(unpacked)
}

/// Whether gzip becomes more than it says: the library would unpack it all.
fn is_larger(data: &[u8], size: usize) -> bool {
    let mut unpacked = MultiGzDecoder::new(data).take(size as u64 + 1);
    std::io::copy(&mut unpacked, &mut std::io::sink()).is_ok_and(|found| found > size as u64)
}

fn slice(body: &[u8], begins: i64, length: i64) -> Result<&[u8]> {
    let begins = usize::try_from(begins).map_err(|_| misplaced())?;
    let length = usize::try_from(length).map_err(|_| misplaced())?;
    begins.checked_add(length).and_then(|end| body.get(begins..end)).ok_or_else(misplaced)
}

fn misplaced() -> Error {
    invalid("the Parquet data cannot be read: its pages are not where it says; write it again".into())
}

fn too_large(most: usize) -> Error {
    let message =
        format!("the table takes over {most} bytes when it is unpacked; split the request or raise the limit");
    Error::new(ErrorCode::PayloadTooLarge, message)
}

/// What a page's header says.
#[derive(Debug, Default, PartialEq)]
struct PageHeader {
    unpacked: i64,
    packed: i64,
    encoding: i64,
}

/// Takes a header off the front.
fn header(rest: &mut &[u8]) -> Option<PageHeader> {
    let mut page = PageHeader::default();
    fields(rest, 0, &mut |path, value| match path {
        [2] => page.unpacked = value,
        [3] => page.packed = value,
        // Of a data page of the first and of the second version.
        [5, 2] | [8, 4] => page.encoding = value,
        _ => {}
    })?;
    Some(page)
}

/// Takes a struct, telling each of its numbers by the way to it.
fn fields(rest: &mut &[u8], depth: u8, tell: &mut dyn FnMut(&[i64], i64)) -> Option<()> {
    if depth == MAX_DEPTH {
        return None;
    }
    let mut id = 0i64;
    loop {
        let head = byte(rest)?;
        if head == 0 {
            return Some(());
        }
        id = match head >> 4 {
            0 => number(rest)?,
            delta => id.checked_add(i64::from(delta))?,
        };
        match head & 15 {
            1 | 2 => {}
            4..=6 => tell(&[id], number(rest)?),
            12 => fields(rest, depth + 1, &mut |path, value| {
                if let [inner] = *path {
                    tell(&[id, inner], value);
                }
            })?,
            kind => skip(rest, kind, depth)?,
        }
    }
}

/// Takes a value of a kind that nothing is told of. Truths in lists take a byte each.
fn skip(rest: &mut &[u8], kind: u8, depth: u8) -> Option<()> {
    match kind {
        1..=3 => byte(rest).map(drop),
        4..=6 => number(rest).map(drop),
        7 => take(rest, 8),
        8 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            take(rest, length)
        }
        9 | 10 if depth < MAX_DEPTH => {
            let head = byte(rest)?;
            let count = match head >> 4 {
                15 => varint(rest)?,
                count => u64::from(count),
            };
            // Every element takes a byte at least: the data ends before a made-up count does.
            (0..count).try_for_each(|_| skip(rest, head & 15, depth + 1))
        }
        12 if depth < MAX_DEPTH => fields(rest, depth + 1, &mut |_, _| {}),
        _ => None,
    }
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    let (&first, after) = rest.split_first()?;
    *rest = after;
    Some(first)
}

fn take(rest: &mut &[u8], count: usize) -> Option<()> {
    *rest = rest.get(count..)?;
    Some(())
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let next = byte(rest)?;
        value |= u64::from(next & 0x7f) << shift;
        if next < 0x80 {
            return Some(value);
        }
    }
    None
}

/// A signed number, in zigzag.
fn number(rest: &mut &[u8]) -> Option<i64> {
    let value = varint(rest)?;
    Some((value >> 1) as i64 ^ -((value & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_says_its_sizes_and_its_encoding() {
        // type 0, unpacked 300, packed 5, a data page of 3 values in encoding 7, statistics
        // of one text.
        let bytes = [
            0x15, 0, 0x15, 0xd8, 4, 0x15, 10, 0x2c, 0x15, 6, 0x15, 14, 0x15, 6, 0x15, 6, 0x1c, 0x18, 1, b'x', 0, 0, 0,
            99,
        ];
        let mut rest = &bytes[..];
        assert_eq!(header(&mut rest), Some(PageHeader { unpacked: 300, packed: 5, encoding: 7 }));
        assert_eq!(rest, [99]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_take_long(bytes: Vec<u8>) {
            let _ = header(&mut &bytes[..]);
        }

        #[test]
        fn lists_in_lists_end_before_the_stack_does(deep in 1usize..100_000) {
            let mut bytes = vec![0x19u8; 1];
            bytes.resize(deep, 0x19);
            prop_assert_eq!(header(&mut &bytes[..]), None);
        }
    }
}
