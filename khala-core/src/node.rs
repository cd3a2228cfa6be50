//! The node: one process among those that share a journal, by its name. The name means nothing but itself.

use std::fmt::Write as _;

use crate::text::{plain, text};

text! {
    /// The name of a node, which no other node of the same journal has: 1 to 128 bytes without control characters.
    NodeId, "node", |field, text| plain(field, text, 128)
}

impl NodeId {
    /// A name that no other node has.
    ///
    /// # Panics
    /// If the operating system has no randomness to give.
    pub fn random() -> Self {
        let mut bits = [0; 8];
        getrandom::fill(&mut bits).expect("the operating system gives randomness");
        let mut name = String::from("node-");
        for byte in bits {
            // Writing into a String cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        Self::parse(&name).expect("21 bytes of ASCII are a name")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_drawn_apart() {
        let names = [(); 2].map(|()| NodeId::random());
        assert_ne!(names[0], names[1]);
        assert_eq!(names[0].as_str().len(), 21);
    }
}
