//! Identities of prefixes: a keyed BLAKE3 chain over pages.
//!
//! The chain's key is derived from the server's secret and the [`Identity`] of whatever determines the keys and values
//! besides the tokens, so digests of two servers, models or configurations never meet. Each link hashes its parent's
//! digest and its own tokens. Where the public part of a prompt ends, a gate link hashes the tenant's salt.
//!
//! Digests name prefixes (files, history, statistics). They are never what finds a page: the tree compares tokens.

use std::fmt;

use edgewise_types::TenantId;

/// What keys and values depend on besides the tokens: model, rotary embedding, number type, page size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity([u8; 32]);

impl Identity {
    /// The identity of these named properties. Their order matters.
    pub fn new(properties: &[(&str, &[u8])]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("edgewise kv-cache 1 identity");
        for (name, value) in properties {
            // Lengths keep ("ab", "c") and ("a", "bc") apart.
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
            hasher.update(&(value.len() as u64).to_le_bytes()).update(value);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// As bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Name of a prefix under one server's secret and [`Identity`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub(crate) [u8; 32]);

impl Digest {
    /// As bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex()[..16])
    }
}

/// Computes the links.
#[derive(Clone)]
pub(crate) struct Chain {
    key: [u8; 32],
    secret: [u8; 32],
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chain")
    }
}

/// First byte of what a link hashes, so that no two kinds of link agree.
const ROOT: u8 = 0;
const GATE: u8 = 1;
const PAGE: u8 = 2;
const SALT: u8 = 3;
const ANY_TENANT: u8 = 4;

impl Chain {
    pub(crate) fn new(secret: [u8; 32], identity: &Identity) -> Self {
        Self { key: *blake3::keyed_hash(&secret, identity.as_bytes()).as_bytes(), secret }
    }

    /// The empty prefix.
    pub(crate) fn root(&self) -> Digest {
        self.link(&[ROOT], &[])
    }

    /// The prefix `parent`, from here on private to `tenant`.
    pub(crate) fn gate(&self, parent: &Digest, tenant: &TenantId) -> Digest {
        let mut salt = blake3::Hasher::new_keyed(&self.secret);
        salt.update(&[SALT]).update(tenant.0.as_bytes());
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&[GATE]).update(&parent.0).update(salt.finalize().as_bytes());
        Digest(*hasher.finalize().as_bytes())
    }

    /// The prefix `parent` followed by `tokens`.
    pub(crate) fn page(&self, parent: &Digest, tokens: &[u32]) -> Digest {
        let mut head = [PAGE; 33];
        head[1..].copy_from_slice(&parent.0);
        self.link(&head, tokens)
    }

    /// Like [`Self::page`] in a chain that knows no tenants; half as long, since nothing but a count rests on it.
    pub(crate) fn any_tenant(&self, parent: &AnyTenant, tokens: &[u32]) -> AnyTenant {
        let mut head = [ANY_TENANT; 17];
        head[1..].copy_from_slice(&parent.0);
        let mut half = [0; 16];
        half.copy_from_slice(&self.link(&head, tokens).0[..16]);
        AnyTenant(half)
    }

    fn link(&self, head: &[u8], tokens: &[u32]) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(head);
        let mut bytes = [0; 256];
        for part in tokens.chunks(bytes.len() / 4) {
            for (to, token) in bytes.chunks_exact_mut(4).zip(part) {
                to.copy_from_slice(&token.to_le_bytes());
            }
            hasher.update(&bytes[..part.len() * 4]);
        }
        Digest(*hasher.finalize().as_bytes())
    }
}

/// Name of a prefix whoever sent it. For the operator's statistics only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct AnyTenant([u8; 16]);

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId(name.into())
    }

    #[test]
    fn digests_differ_in_every_part_of_the_identity() {
        let identity = Identity::new(&[("model", b"a"), ("rope", b"b")]);
        assert_ne!(identity, Identity::new(&[("model", b"ab"), ("rope", b"")]));
        assert_ne!(identity, Identity::new(&[("rope", b"b"), ("model", b"a")]));
        let chain = Chain::new([1; 32], &identity);
        let other_secret = Chain::new([2; 32], &identity);
        let other_identity = Chain::new([1; 32], &Identity::new(&[("model", b"b")]));
        let of =
            |chain: &Chain, name: &str, tokens: &[u32]| chain.page(&chain.gate(&chain.root(), &tenant(name)), tokens);
        let digest = of(&chain, "a", &[1, 2]);
        assert_eq!(digest, of(&chain, "a", &[1, 2]));
        assert_ne!(digest, of(&chain, "b", &[1, 2]));
        assert_ne!(digest, of(&chain, "a", &[2, 1]));
        assert_ne!(digest, of(&chain, "a", &[1]));
        assert_ne!(digest, of(&other_secret, "a", &[1, 2]));
        assert_ne!(digest, of(&other_identity, "a", &[1, 2]));
        // A chain is over its links, too: the same tokens in other pages are another prefix.
        assert_ne!(digest, chain.page(&of(&chain, "a", &[1]), &[2]));
    }

    #[test]
    fn long_pages_are_hashed_whole() {
        let chain = Chain::new([1; 32], &Identity::new(&[]));
        let mut tokens: Vec<u32> = (0..256).collect();
        let before = chain.page(&chain.root(), &tokens);
        tokens[255] = 0;
        assert_ne!(before, chain.page(&chain.root(), &tokens));
    }
}
