//! libtorch's errors are pages of TorchScript and C++ frames around one line that matters.

/// The line that says what went wrong, without frames and addresses, at most 500 characters.
pub(crate) fn essence(error: &tch::TchError) -> String {
    let whole = error.to_string();
    // Its Display puts words of its own before libtorch's.
    let text = if let tch::TchError::Torch(text) = error { text } else { &whole };
    let text = text.split("Exception raised from").next().unwrap_or_default();
    let told = |line: &&str| line.contains("Error: ") || line.starts_with("builtins.");
    let line = text.lines().rev().map(str::trim).find(told);
    let first = || text.lines().map(str::trim).find(|line| !line.is_empty());
    line.or_else(first).unwrap_or("libtorch gave no reason").chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_found_between_the_frames() {
        let error = tch::TchError::Torch(
            "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript (most recent call \
             last):\n  File \"m.py\", line 3, in forward\n    return x @ y\nRuntimeError: mat1 and mat2 shapes cannot be \
             multiplied\nException raised from meta at /pytorch/x.cpp:1 (most recent call first):\nframe #0: ..."
                .into(),
        );
        assert_eq!(essence(&error), "RuntimeError: mat1 and mat2 shapes cannot be multiplied");
        assert_eq!(essence(&tch::TchError::Torch("\n  plain text\nframe".into())), "plain text");
    }
}
