use std::fmt;

/// A W3C trace context: the `traceparent` header of
/// [Trace Context Level 2](https://www.w3.org/TR/trace-context-2/), 55 bytes parsed by hand into 25.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The whole trace; never all zero.
    pub trace_id: [u8; 16],
    /// The span that sent this; never all zero.
    pub span_id: [u8; 8],
    /// Bit 0 is `sampled`, bit 1 is `random-trace-id`.
    pub flags: u8,
}

impl TraceContext {
    /// Reads a `traceparent`; `None` where the specification says to ignore it and start a new trace.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() < 55 || bytes[2] != b'-' || bytes[35] != b'-' || bytes[52] != b'-' {
            return None;
        }
        let [version] = hex(&bytes[..2])?;
        // Later versions may append fields behind another dash; version 00 may not.
        let well_ended = match version {
            0 => bytes.len() == 55,
            0xff => false,
            _ => bytes.len() == 55 || bytes[55] == b'-',
        };
        let (trace_id, span_id, [flags]) = (hex(&bytes[3..35])?, hex(&bytes[36..52])?, hex(&bytes[53..55])?);
        let valid = well_ended && trace_id != [0; 16] && span_id != [0; 8];
        valid.then_some(Self { trace_id, span_id, flags })
    }

    /// The context that work done under this one passes on: same trace and flags, its own span.
    pub fn child(self, span_id: [u8; 8]) -> Self {
        Self { span_id, ..self }
    }

    /// Whether the caller records this trace.
    pub fn is_sampled(self) -> bool {
        self.flags & 1 == 1
    }
}

/// The `traceparent` header, version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        for (start, bytes) in [(3, &self.trace_id[..]), (36, &self.span_id[..]), (53, &[self.flags][..])] {
            for (pair, byte) in text[start..].as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
                *pair = PAIRS[usize::from(*byte)];
            }
        }
        f.write_str(std::str::from_utf8(&text).expect("hex digits and dashes are ASCII"))
    }
}

// By tables: a context is read and written once for each job, where digits one by one show in profiles.

/// In the order of their values. The specification allows lower case only.
const DIGITS: [u8; 16] = *b"0123456789abcdef";

/// Of a byte that is no digit: more than any value.
const NONE: u8 = 0xff;

/// The value of each byte as a digit.
const VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let mut value = 0;
    while value < DIGITS.len() {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// Each byte in digits.
const PAIRS: [[u8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let (mut out, mut seen) = ([0; N], 0);
    for (byte, pair) in out.iter_mut().zip(text.as_chunks::<2>().0) {
        let [high, low] = pair.map(|digit| VALUES[usize::from(digit)]);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    (usize::from(seen) < DIGITS.len()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_survives_reading_and_writing() {
        let context = TraceContext::parse(EXAMPLE).unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), EXAMPLE);
        let child = context.child([9; 8]);
        assert_eq!((child.trace_id, child.flags), (context.trace_id, context.flags));
    }

    #[test]
    fn what_the_specification_says_to_ignore_is_ignored() {
        let zero_trace = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        let zero_span = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", "0".repeat(16));
        let upper = EXAMPLE.to_uppercase();
        let longer = format!("{EXAMPLE}-x");
        let forbidden = EXAMPLE.replacen("00", "ff", 1);
        // A digit's neighbours in ASCII, in each place of a pair.
        let no_digits =
            ["/a", "a/", ":a", "a:", "`a", "a`", "ga", "ag", "\u{e9}"].map(|pair| EXAMPLE.replacen("0a", pair, 1));
        assert!(no_digits.iter().all(|bad| bad.len() == 55 && TraceContext::parse(bad).is_none()), "{no_digits:?}");
        for bad in ["", "00", &zero_trace, &zero_span, &upper, &longer, &forbidden, &EXAMPLE[..54]] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
        assert!(TraceContext::parse(&format!("01{}-later", &EXAMPLE[2..])).is_some());
    }
}
