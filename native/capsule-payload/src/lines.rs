//! Cuts a byte stream into lines, holding back at most one incomplete line.

/// How a piece of a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The line is complete: a newline followed, or the stream ended.
    Full,
    /// The line goes on: it was cut at the limit.
    Partial,
}

/// Splits one stream. Invariant: `pending` holds no newline and at most `limit` bytes.
#[derive(Debug)]
pub struct LineSplitter {
    pending: Vec<u8>,
    limit: usize,
}

impl LineSplitter {
    /// `limit` is the longest piece in bytes; longer lines come as several [`Ending::Partial`] pieces and a last full one.
    pub fn new(limit: usize) -> Self {
        Self {
            pending: Vec::new(),
            limit: limit.max(1),
        }
    }

    /// Takes the next bytes of the stream and hands every piece that is now certain to `emit`.
    pub fn push(&mut self, mut data: &[u8], emit: &mut impl FnMut(&[u8], Ending)) {
        while let Some(end) = memchr::memchr(b'\n', data) {
            self.line(&data[..end], emit);
            data = &data[end + 1..];
        }
        self.hold(data, emit);
    }

    /// Ends the stream (or abandons the line at hand): what is pending becomes a full line.
    pub fn finish(&mut self, emit: &mut impl FnMut(&[u8], Ending)) {
        if !self.pending.is_empty() {
            emit(&self.pending, Ending::Full);
            self.pending = Vec::new();
        }
    }

    fn line(&mut self, text: &[u8], emit: &mut impl FnMut(&[u8], Ending)) {
        if self.pending.is_empty() && text.len() <= self.limit {
            emit(text, Ending::Full);
            return;
        }
        self.hold(text, emit);
        emit(&self.pending, Ending::Full);
        self.pending.clear();
    }

    /// Keeps `text` back. A full buffer is given out only when another byte follows, so that a line of exactly `limit`
    /// bytes stays one full line and the last piece of a cut line is never empty.
    fn hold(&mut self, mut text: &[u8], emit: &mut impl FnMut(&[u8], Ending)) {
        while self.pending.len() + text.len() > self.limit {
            let (now, later) = text.split_at(self.limit - self.pending.len());
            self.pending.extend_from_slice(now);
            emit(&self.pending, Ending::Partial);
            self.pending.clear();
            text = later;
        }
        self.pending.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(limit: usize, chunks: &[&[u8]]) -> Vec<(Vec<u8>, Ending)> {
        let mut pieces = Vec::new();
        let mut splitter = LineSplitter::new(limit);
        let mut emit = |text: &[u8], ending| pieces.push((text.to_vec(), ending));
        for chunk in chunks {
            splitter.push(chunk, &mut emit);
        }
        splitter.finish(&mut emit);
        pieces
    }

    fn full(text: &[u8]) -> (Vec<u8>, Ending) {
        (text.to_vec(), Ending::Full)
    }

    fn partial(text: &[u8]) -> (Vec<u8>, Ending) {
        (text.to_vec(), Ending::Partial)
    }

    #[test]
    fn joins_chunks_and_keeps_empty_lines() {
        assert_eq!(split(16, &[b"a\n\nb", b"c\n"]), [full(b"a"), full(b""), full(b"bc")]);
        assert_eq!(
            split(16, &[b"no newline"]),
            [full(b"no newline")],
            "the end of the stream ends the line"
        );
        assert_eq!(split(16, &[b""]), []);
    }

    #[test]
    fn cuts_long_lines_and_ends_them_full() {
        assert_eq!(split(4, &[b"abcd\n"]), [full(b"abcd")]);
        assert_eq!(split(4, &[b"abcde\n"]), [partial(b"abcd"), full(b"e")]);
        assert_eq!(
            split(4, &[b"ab", b"cdef", b"gh", b"i"]),
            [partial(b"abcd"), partial(b"efgh"), full(b"i")]
        );
    }

    #[test]
    fn chunking_never_changes_the_result() {
        let text: Vec<u8> = (0..400u32)
            .map(|i| if i * i % 37 == 1 { b'\n' } else { b'a' + (i % 26) as u8 })
            .collect();
        let whole = split(7, &[&text]);
        for size in 1..50 {
            let chunks: Vec<&[u8]> = text.chunks(size).collect();
            assert_eq!(split(7, &chunks), whole, "chunks of {size}");
        }
    }
}
