//! Who may do what: tokens, what verifying one proves, what that opens, and what takes it back.
//!
//! A [`Grant`] is a witness: a session cannot be made without one, and only verification makes one. A
//! [`Verifier`] turns a token into a grant, an [`Authorizer`] is asked for every topic after the topic class was,
//! [`Revocations`] take a grant back before its end, and an [`Issuer`] makes tokens. No token ever appears in a
//! `Debug` or `Display` output.

mod authorizer;
mod denied;
mod grant;
mod issuer;
mod revocation;
mod revocation_cache;
mod verifier;

pub(crate) use self::revocation_cache::RevocationCache;
pub use self::{
    authorizer::{Access, AllowAll, Authorizer},
    denied::Denied,
    grant::{Grant, VerifiedClaims},
    issuer::{IssuedToken, Issuer, TokenClaims},
    revocation::{
        CorruptRevocation, MemoryRevocations, Revocation, RevocationId, RevocationPage, RevocationTarget,
        Revocations,
    },
    verifier::{DenyAll, Token, Verifier},
};
