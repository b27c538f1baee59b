//! Server-sent events (WHATWG HTML, section 9.2), as far as completions use them: the data of events.
//!
//! More tolerant than the standard: an event whose last line ends with the stream, instead of with an empty line, counts.
//! Pieces may be cut anywhere, inside a character or between `\r` and `\n`. What grows without end is an error.

/// Most bytes of one event. A chunk of a completion has some hundred.
const MOST: usize = 4 << 20;

/// Takes bytes, gives the data of events.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    /// Bytes of a line that has not ended.
    line: Vec<u8>,
    /// Data of an event that has not ended.
    data: Vec<u8>,
    has_data: bool,
    /// Whether the last byte was a `\r`, whose `\n` may follow.
    after_cr: bool,
    begun: bool,
}

/// The stream is no stream of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

impl SseParser {
    /// Takes the next bytes and appends the data of events that they end to `events`. Data that is not UTF-8 has its
    /// faults replaced.
    pub(crate) fn push(&mut self, mut bytes: &[u8], events: &mut Vec<String>) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = bytes.iter().position(|b| matches!(b, b'\n' | b'\r')) else {
                self.line.extend_from_slice(bytes);
                break;
            };
            self.line.extend_from_slice(&bytes[..end]);
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line(events);
        }
        if self.line.len() + self.data.len() > MOST { Err(TooLong) } else { Ok(()) }
    }

    /// The end of the stream.
    pub(crate) fn finish(&mut self, events: &mut Vec<String>) {
        if !self.line.is_empty() {
            self.end_line(events);
        }
        self.end_event(events);
    }

    fn end_line(&mut self, events: &mut Vec<String>) {
        let line = std::mem::take(&mut self.line);
        let mut line = line.as_slice();
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        if line.is_empty() {
            return self.end_event(events);
        }
        let (field, value) = match line.iter().position(|b| *b == b':') {
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &line[line.len()..]),
        };
        // Comments have an empty field; names, ids and times to reconnect do not matter here.
        if field == b"data" {
            if std::mem::replace(&mut self.has_data, true) {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value);
        }
    }

    fn end_event(&mut self, events: &mut Vec<String>) {
        let data = std::mem::take(&mut self.data);
        if std::mem::take(&mut self.has_data) {
            events.push(String::from_utf8_lossy(&data).into_owned());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut parser = SseParser::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.push(piece, &mut events).unwrap();
        }
        parser.finish(&mut events);
        events
    }

    #[test]
    fn comments_fields_and_line_ends_are_as_the_standard_has_them() {
        let text = "\u{feff}: ping\r\n\r\nevent: x\rdata: {\"a\":\rdata:1}\r\rid: 3\n\ndata\n\ndata:  two spaces\n\nretry: 5\n\ndata: last";
        assert_eq!(parse([text.as_bytes()]), ["{\"a\":\n1}", "", " two spaces", "last"]);
        assert!(parse([b": only a comment\n\n".as_slice(), b""]).is_empty());
    }

    #[test]
    fn a_stream_without_an_end_of_line_is_given_up() {
        let mut parser = SseParser::default();
        let piece = vec![b'x'; 1 << 20];
        let given_up = (0..8).find(|_| parser.push(&piece, &mut Vec::new()).is_err());
        assert_eq!(given_up, Some(4));
    }

    proptest! {
        #[test]
        fn where_it_is_cut_does_not_matter(
            lines in proptest::collection::vec("(data: ?|: |event: )?[a-zé日{}\": ]{0,8}(\r\n|\r|\n){1,2}", 0..12),
            cuts in proptest::collection::vec(0usize..200, 0..10),
        ) {
            let text = lines.concat();
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            prop_assert_eq!(parse(pieces), parse([bytes]));
        }
    }
}
