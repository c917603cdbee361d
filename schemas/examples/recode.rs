//! Reads bodies from standard input and writes each back as our encoder writes it. The Python package is tested against
//! this, byte for byte.
//!
//! A frame is a kind (`j` job, `r` result), a 4-byte little-endian length, and that many bytes. Answers are frames of the
//! same kind, or of kind `e` with the error's text.

use std::io::{self, Read, Write};

use gristmill_schemas::{JobBody, Reply};

fn recode(kind: u8, body: &[u8]) -> Result<Vec<u8>, String> {
    if kind == b'j' {
        return JobBody::decode(body, usize::MAX).map(|job| job.encode()).map_err(|error| error.to_string());
    }
    match Reply::decode(body).map_err(|error| error.to_string())? {
        Reply::Ok(result) => Ok(result.encode()),
        Reply::Error(error) => Ok(error.encode()),
    }
}

fn main() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut head = [0; 5];
    while input.read_exact(&mut head).is_ok() {
        let [kind, length @ ..] = head;
        let mut body = vec![0; u32::from_le_bytes(length) as usize];
        input.read_exact(&mut body)?;
        let (kind, answer) = match recode(kind, &body) {
            Ok(answer) => (kind, answer),
            Err(text) => (b'e', text.into_bytes()),
        };
        output.write_all(&[kind])?;
        output.write_all(&u32::try_from(answer.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        output.write_all(&answer)?;
        output.flush()?;
    }
    Ok(())
}
