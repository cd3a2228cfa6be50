//! The laws of a journal and of its documents, as tests for any implementer.
