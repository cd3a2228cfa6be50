//! Why a key, or a set of keys, cannot be used.

/// Why a key, or a set of them, cannot be used. Its `Display` names the key and the fault, and shows no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}{fault}")]
pub struct KeyError {
    kid: Option<String>,
    place: String,
    fault: String,
}

impl KeyError {
    pub(crate) fn new(kid: Option<&str>, fault: impl Into<String>) -> Self {
        let place = kid.map(|kid| format!("key {kid:?}: ")).unwrap_or_default();
        Self { kid: kid.map(str::to_owned), place, fault: fault.into() }
    }

    /// Says which key of a set it is, if it has no name.
    pub(crate) fn at(mut self, number: usize) -> Self {
        if self.kid.is_none() {
            self.place = format!("key number {number} of the set: ");
        }
        self
    }

    /// The name of the key that is at fault, if it is one key and has a name.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }
}
