//! The collections of each tenant: `local` has the data folder itself, others a folder below `_tenants` in it. No
//! collection's name starts with an underscore, so neither is ever in the other's way.
//!
//! Invariant: a tenant's collections are opened under its own folder and looked up there alone. A name that only another
//! tenant knows is as unknown as one that nobody knows.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use edgewise_access::tenant_name;
use edgewise_retrieval::{Collections, RetrievalError};
use edgewise_types::TenantId;

/// Where the folders of tenants other than `local` are.
const FOLDER: &str = "_tenants";

/// Collections by tenant. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Tenants {
    local: Arc<Collections>,
    others: Arc<Mutex<HashMap<TenantId, Arc<Collections>>>>,
}

impl Tenants {
    pub(crate) fn new(local: Arc<Collections>) -> Self {
        Self { local, others: Arc::default() }
    }

    fn folder(&self) -> PathBuf {
        self.local.root().join(FOLDER)
    }

    /// The collections of a tenant. Its folder is made when it is first asked for, which is the only I/O here.
    pub(crate) fn of(&self, tenant: &TenantId) -> Result<Arc<Collections>, RetrievalError> {
        if *tenant == TenantId::local() {
            return Ok(Arc::clone(&self.local));
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(collections) = others.get(tenant) {
            return Ok(Arc::clone(collections));
        }
        let collections = Arc::new(self.local.beside(self.folder().join(&*tenant.0))?);
        others.insert(tenant.clone(), Arc::clone(&collections));
        Ok(collections)
    }

    /// Every tenant that ever had a collection, `local` first.
    pub(crate) fn all(&self) -> Vec<TenantId> {
        let mut tenants = vec![TenantId::local()];
        // Without the folder there are no others.
        let folders = std::fs::read_dir(self.folder()).into_iter().flatten().flatten();
        let names =
            folders.filter(|entry| entry.path().is_dir()).filter_map(|entry| entry.file_name().into_string().ok());
        let mut others: Vec<TenantId> = names.filter_map(|name| tenant_name(&name).ok()).collect();
        others.sort();
        tenants.extend(others);
        tenants
    }
}
