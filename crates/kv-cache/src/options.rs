//! How a cache is set up.

use std::collections::HashMap;

use edgewise_types::TenantId;

use crate::{CacheError, Identity};

/// Set-up of a [`crate::KvCache`].
#[derive(Debug, Clone)]
pub struct CacheOptions {
    /// Positions of a page.
    pub page_tokens: usize,
    /// Pages of the engine's storage.
    pub pages: usize,
    /// Slots of the host tier; 0 does without one.
    pub host_pages: usize,
    /// Prompts of fewer tokens are neither looked up nor published, boundaries before it are not retained.
    pub min_prefix_tokens: usize,
    /// What the keys and values depend on besides the tokens.
    pub identity: Identity,
    /// The server's secret, from which tenants' salts are derived.
    pub secret: [u8; 32],
    /// How many retained pages are safe from eviction.
    pub reserved: Reserved,
}

impl CacheOptions {
    pub(crate) fn validate(&self) -> Result<(), CacheError> {
        let refuse = |why: String| Err(CacheError::Options(why));
        if self.page_tokens == 0 {
            return refuse("a page must hold at least one token".to_owned());
        }
        if self.pages == 0 || self.pages > MAX_PAGES || self.host_pages > MAX_PAGES {
            let (pages, host) = (self.pages, self.host_pages);
            return refuse(format!(
                "{pages} pages and {host} host pages must be 1 to {MAX_PAGES} and 0 to {MAX_PAGES}"
            ));
        }
        let promised = self.reserved.promised();
        if promised > self.reserved.limit || self.reserved.limit > self.pages {
            let (limit, pages) = (self.reserved.limit, self.pages);
            return refuse(format!(
                "{promised} pages are reserved by name, which must be at most the limit of {limit} reserved pages, and \
                 that at most the {pages} pages there are"
            ));
        }
        Ok(())
    }
}

/// Indices are 32 bits wide, with a few values to spare.
const MAX_PAGES: usize = 1 << 30;

/// Budgets of retained pages, in pages. Within its budget a tenant's retained pages are evicted before they expire only
/// if a request that is alone in the pool can't run otherwise.
#[derive(Debug, Clone, Default)]
pub struct Reserved {
    /// Of the pages shared by all tenants.
    pub public: usize,
    /// Of tenants by name.
    pub tenants: HashMap<TenantId, usize>,
    /// Of every other tenant, as long as the limit allows.
    pub default: usize,
    /// Of all together: what is not reserved by name is granted to the other tenants in the order they come. The rest of
    /// the pool stays for running requests.
    pub limit: usize,
}

impl Reserved {
    /// Pages reserved by name.
    pub(crate) fn promised(&self) -> usize {
        self.public + self.tenants.values().sum::<usize>()
    }
}
