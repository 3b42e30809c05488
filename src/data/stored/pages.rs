//! The headers of a Parquet column's pages, looked at before the `parquet` crate acts on them.
//!
//! That crate allocates what a header claims, up to 2 GiB a page, and expands shared prefixes without a bound. A
//! header is a Thrift structure in the compact protocol; of all its fields three matter here.
//! Format: `parquet.thrift` of apache/parquet-format.

use std::collections::HashMap;

/// Structures within structures; a page header has three levels.
const MAX_DEPTH: usize = 8;
/// Code of `DELTA_BYTE_ARRAY`, which gives every value as a prefix of the one before it and a suffix.
const DELTA_BYTE_ARRAY: i64 = 7;

/// Bytes that the pages of a column chunk, of which `bytes` is the content, take when they are decompressed.
///
/// # Errors
/// One sentence on what is wrong with the headers.
pub(super) fn content_bytes(bytes: &[u8]) -> Result<u64, String> {
    let (mut rest, mut total) = (bytes, 0u64);
    while !rest.is_empty() {
        let mut header = Header { rest, integers: HashMap::new() };
        header.structure(0, 0).ok_or("the header of a page cannot be read")?;
        let size = |field| header.integers.get(&(0, field)).and_then(|&size| u64::try_from(size).ok());
        let (Some(whole), Some(stored)) = (size(2), size(3)) else {
            return Err("the header of a page gives no size".into());
        };
        // The encoding in the header of a data page, of version 1 or 2.
        if [(5, 2), (8, 4)].iter().any(|place| header.integers.get(place) == Some(&DELTA_BYTE_ARRAY)) {
            return Err("values are stored as DELTA_BYTE_ARRAY, which is not read".into());
        }
        total = total.saturating_add(whole);
        let stored = usize::try_from(stored).unwrap_or(usize::MAX);
        rest = header.rest.get(stored..).ok_or("a page ends after its column")?;
    }
    Ok(total)
}

/// A header that is being read.
struct Header<'a> {
    rest: &'a [u8],
    /// Integers by the field of the enclosing structure (0 at the top) and by their own.
    integers: HashMap<(i64, i64), i64>,
}

impl Header<'_> {
    /// Reads the fields of a structure that is itself the field `parent`. Nothing if the bytes are no such structure.
    fn structure(&mut self, parent: i64, depth: usize) -> Option<()> {
        let mut field = 0i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            field = if head >> 4 == 0 { self.integer()? } else { field + i64::from(head >> 4) };
            match head & 0xf {
                1 | 2 => {} // a boolean is its type
                4..=6 => {
                    let value = self.integer()?;
                    self.integers.insert((parent, field), value);
                }
                kind => self.skip(kind, field, depth + 1)?,
            }
        }
    }

    fn skip(&mut self, kind: u8, field: i64, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match kind {
            1..=3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.take(8),
            8 => {
                let n = self.varint()?;
                self.take(n)
            }
            9 | 10 => {
                let head = self.byte()?;
                let n = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                (0..n).try_for_each(|_| self.skip(head & 0xf, -1, depth + 1))
            }
            // Structures in structures are told from those at the top by a number of their own.
            12 => self.structure(if depth == 1 { field } else { -1 }, depth),
            _ => None, // maps are in no page header
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn take(&mut self, n: u64) -> Option<()> {
        self.rest = self.rest.get(usize::try_from(n).ok()?..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A signed integer in zigzag order.
    fn integer(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a data page of version 1: type, sizes, and a header with the encoding.
    fn page(size: u8, encoding: u8) -> Vec<u8> {
        let header = [0x15, 0, 0x15, 2 * size, 0x15, 6, 0x2c, 0x15, 2, 0x15, 2 * encoding, 0, 0];
        [&header[..], b"abc"].concat()
    }

    #[test]
    fn pages_are_counted_by_what_they_expand_to() {
        assert_eq!(content_bytes(&[]), Ok(0));
        assert_eq!(content_bytes(&[page(40, 0), page(2, 0)].concat()), Ok(42));
    }

    #[test]
    fn headers_that_end_or_lie_are_refused() {
        let whole = page(40, 0);
        for n in 1..whole.len() {
            assert!(content_bytes(&whole[..n]).is_err(), "{n} bytes");
        }
        assert!(content_bytes(&page(3, 7)).unwrap_err().contains("DELTA_BYTE_ARRAY"));
        // Structures without end, and a list of 2^63 empty booleans.
        assert!(content_bytes(&[0x1c; 10_000]).is_err());
        let list = [&[0x19, 0xf1][..], &[0xff; 9], &[0x7f]].concat();
        assert!(content_bytes(&list).is_err());
    }
}
