//! The topic: unit of order, access and fanout.

use crate::text::{TextError, text};

text! {
    /// The name of a topic: 1 to 255 bytes of `A-Z a-z 0-9 . _ : - /`, not starting or ending with `:`; not
    /// `phoenix`, which the wire keeps for itself; and not `.` or `..`, which no HTTP client leaves in a path.
    ///
    /// ```
    /// # use khala_core::Topic;
    /// assert_eq!(Topic::parse("run:7:events")?.as_str(), "run:7:events");
    /// assert!(Topic::parse("run:7:").is_err());
    /// # Ok::<(), khala_core::TextError>(())
    /// ```
    Topic, "topic", check
}

const MAX_BYTES: usize = 255;

fn check(field: &'static str, text: &str) -> Result<(), TextError> {
    if text.is_empty() {
        return Err(TextError::new(field, "is empty"));
    }
    if text.len() > MAX_BYTES {
        return Err(TextError::new(
            field,
            format!("is {} bytes long; at most {MAX_BYTES} are allowed", text.len()),
        ));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-/".contains(&byte);
    if let Some(at) = text.bytes().position(|byte| !allowed(byte)) {
        return Err(TextError::new(
            field,
            format!("may hold A-Z a-z 0-9 . _ : - / only; byte {at} is none of them"),
        ));
    }
    if text.starts_with(':') || text.ends_with(':') {
        return Err(TextError::new(field, "may not start or end with ':'"));
    }
    if text == "phoenix" {
        return Err(TextError::new(field, "'phoenix' is reserved for the connection itself"));
    }
    if matches!(text, "." | "..") {
        return Err(TextError::new(field, "may not be '.' or '..'"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_and_the_bounds() {
        for good in ["a", "run:7:events", "a/b", "A.b_c-d", &"x".repeat(255)] {
            assert!(Topic::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ":a", "a:", ":", "a b", "ä", "a\n", "phoenix", ".", "..", "a?b", &"x".repeat(256)] {
            assert!(Topic::parse(bad).is_err(), "{bad}");
        }
    }
}
