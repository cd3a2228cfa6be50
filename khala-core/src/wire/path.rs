//! Where links lead: the paths in answers that a client follows, and what stands before them where a proxy is in between.
//!
//! # Invariants
//! A link is an absolute path on the host that the client asked. A client resolves it against the URL of its request and adds
//! nothing of its own.

use crate::{
    text::{TextError, text},
    topic::Topic,
};

/// Longer prefixes are refused.
const MAX_BYTES: usize = 255;

text! {
    /// The path under which clients reach a server, as `/realtime`, where an application or a proxy mounts it there: it stands
    /// before each link in an answer. It begins with a `/`, does not end with one, and is percent-encoded.
    PathPrefix, "path_prefix", check
}

fn check(field: &'static str, text: &str) -> Result<(), TextError> {
    let fault = |fault: &str| Err(TextError::new(field, fault));
    let Some(path) = text.strip_prefix('/') else { return fault("does not begin with a /") };
    if text.len() > MAX_BYTES {
        return fault("is longer than 255 bytes");
    }
    if text.ends_with('/') {
        return fault("ends with a /");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return fault("has a part that is empty, . or ..");
    }
    // RFC 3986, section 3.3.
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&b)) {
        return fault("holds a character that does not stand in a path unless it is percent-encoded");
    }
    Ok(())
}

/// The HTTP path of a topic's snapshot. A `/` within the topic is written `%2F`: it does not part the path.
pub fn snapshot_path(prefix: Option<&PathPrefix>, topic: &Topic) -> String {
    let prefix = prefix.map_or("", PathPrefix::as_str);
    format!("{prefix}/v1/topics/{}/snapshot", topic.as_str().replace('/', "%2F"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_path_that_can_stand_before_another() {
        for good in ["/realtime", "/a/b", "/~ada/%C3%A9", "/v1", "/..."] {
            assert_eq!(PathPrefix::parse(good).unwrap().as_str(), good);
        }
        for (bad, fault) in [
            ("", "begin"),
            ("realtime", "begin"),
            ("http://host/a", "begin"),
            ("/", "ends"),
            ("/a/", "ends"),
            ("//host", "part"),
            ("/a//b", "part"),
            ("/a/../b", "part"),
            ("/a?b", "character"),
            ("/a#b", "character"),
            ("/a b", "character"),
            ("/é", "character"),
            (&format!("/{}", "a".repeat(255)), "longer"),
        ] {
            let error = PathPrefix::parse(bad).unwrap_err().to_string();
            assert!(error.contains(fault), "{bad}: {error}");
        }
    }

    #[test]
    fn it_stands_before_links() {
        let topic = Topic::parse("org/7:events").unwrap();
        assert_eq!(snapshot_path(None, &topic), "/v1/topics/org%2F7:events/snapshot");
        let prefix = PathPrefix::from_static("/realtime");
        assert_eq!(snapshot_path(Some(&prefix), &topic), "/realtime/v1/topics/org%2F7:events/snapshot");
    }
}
