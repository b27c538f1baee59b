//! Refuses decompression bombs before the PDF library sees them, since it unpacks streams whole.
//!
//! The file is searched for streams whose dictionary names the Flate filter, and each is unpacked into nothing, as often
//! as the dictionary names the filter. What this cannot see: streams of encrypted files, and other filters, of which
//! LZW alone can grow its input much.

use std::io::{self, Read};

use flate2::read::ZlibDecoder;

use crate::{DocumentError, SourceInfo, Work};

/// Bytes before a stream in which its dictionary is looked for.
const DICTIONARY_BYTES: usize = 1024;
/// Most filters in a row that are followed.
const MAX_CHAIN: usize = 8;

/// [`DocumentError::TooMuchUnpacked`] if the streams together unpack to more than `work` allows. Pictures are left out
/// of the sum, as they are never unpacked for their text, but none alone may be larger either.
pub(super) fn check(bytes: &[u8], source: &SourceInfo, work: &Work) -> Result<(), DocumentError> {
    let limit = work.max_unpacked_bytes();
    let mut total = 0;
    let mut at = 0;
    while let Some(found) = find(&bytes[at..], b"stream") {
        let keyword = at + found;
        at = keyword + b"stream".len();
        if bytes[..keyword].ends_with(b"end") {
            continue;
        }
        work.check(source)?;
        let from = keyword.saturating_sub(DICTIONARY_BYTES);
        let dictionary = last_object(&bytes[from..keyword]);
        let filters = count(dictionary, b"/FlateDecode") + count(dictionary, b"/Fl ") + count(dictionary, b"/Fl]");
        if filters == 0 {
            continue;
        }
        let data = bytes[at..].strip_prefix(b"\r").unwrap_or(&bytes[at..]);
        let data = data.strip_prefix(b"\n").unwrap_or(data);
        let size = unpacked(data, filters.min(MAX_CHAIN), limit, work);
        let is_picture = find(dictionary, b"/Image").is_some();
        total += if is_picture { 0 } else { size };
        if total > limit || size > limit {
            return Err(work.too_much(source));
        }
    }
    Ok(())
}

/// The part of `bytes` that belongs to the last object begun in it.
fn last_object(bytes: &[u8]) -> &[u8] {
    let start = bytes.windows(4).rposition(|window| window == b" obj").unwrap_or(0);
    &bytes[start..]
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut at = 0;
    while let Some(found) = bytes.get(at..)?.iter().position(|byte| *byte == first) {
        at += found;
        if bytes[at..].starts_with(needle) {
            return Some(at);
        }
        at += 1;
    }
    None
}

fn count(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).filter(|window| *window == needle).count()
}

/// Bytes that `data` unpacks to, up to just above `limit`; what is not compressed as it says counts until the error.
fn unpacked(data: &[u8], filters: usize, limit: usize, work: &Work) -> usize {
    let mut reader: Box<dyn Read + '_> = Box::new(data);
    for _ in 0..filters {
        reader = Box::new(ZlibDecoder::new(reader));
    }
    let mut buffer = vec![0; 64 * 1024];
    let mut size = 0;
    while size <= limit && !work.is_over() {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => size += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    size
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::work::tests::work;
    use std::io::Write;

    fn zlib(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn object(dictionary: &str, data: &[u8]) -> Vec<u8> {
        [format!("1 0 obj\n<<{dictionary}>>\nstream\r\n").as_bytes(), data, b"\nendstream\nendobj\n"].concat()
    }

    #[test]
    fn bombs_are_found_and_pictures_passed_over() {
        let limits = crate::Limits { max_unpacked_bytes: 1000, ..crate::IndexProfile::default().limits };
        let work = Work::new(limits, crate::Passwords::default());
        let source = SourceInfo::new("a.pdf");
        let verdict = |bytes: &[u8]| check(bytes, &source, &work).is_ok();
        let flate = "/Filter /FlateDecode";
        assert!(verdict(&object(flate, &zlib(&[0; 900]))));
        assert!(!verdict(&object(flate, &zlib(&[0; 1100]))));
        assert!(!verdict(&object(flate, &zlib(&[0; 600])).repeat(2)));
        assert!(verdict(&object("/Subtype /Image /Filter /FlateDecode", &zlib(&[0; 600])).repeat(2)));
        assert!(!verdict(&object("/Filter [/FlateDecode /FlateDecode]", &zlib(&zlib(&[0; 2000])))));
        assert!(verdict(&object("/Filter /DCTDecode", &zlib(&[0; 2000]))));
        assert!(verdict(&object(flate, b"not compressed at all")));
    }

    #[test]
    fn a_gigabyte_is_not_unpacked_to_be_refused() {
        let bomb = object("/Filter /FlateDecode", &zlib(&vec![0; 300 << 20]));
        assert!(matches!(check(&bomb, &SourceInfo::new("a.pdf"), &work()), Err(DocumentError::TooMuchUnpacked { .. })));
    }
}
