//! No bytes may make the decoders panic, and what they accept they must write so that it is accepted again.

#![no_main]

use gristmill_schemas::{JobBody, Reply};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    if let Ok(job) = JobBody::decode(payload, 1 << 20) {
        let written = job.encode();
        assert_eq!(JobBody::decode(&written, usize::MAX).as_ref(), Ok(&job));
    }
    if let Ok(Reply::Ok(result)) = Reply::decode(payload) {
        let written = result.encode();
        assert_eq!(Reply::decode(&written), Ok(Reply::Ok(result)));
    }
});
