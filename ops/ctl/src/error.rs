/// Why a command failed, and the exit code that says so to scripts.
pub struct Failure {
    /// See the exit codes in `gristmill --help`.
    pub code: u8,
    /// In words.
    pub error: anyhow::Error,
}

impl Failure {
    /// With a code other than 1.
    pub fn with(code: u8, error: anyhow::Error) -> Self {
        Self { code, error }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: 1, error: error.into() }
    }
}

/// An error and its causes in one line, without those that the text before them already holds.
pub fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.contains(&cause) {
        _ if text.is_empty() => cause,
        true => text,
        false => format!("{text}: {cause}"),
    })
}
