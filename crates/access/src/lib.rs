//! API keys, tenants, scopes and the audit log.
