//! The state of the collections as metrics, looked at when metrics are asked for.
//!
//! Collections and tenants are never labels: the gauges are sums, and the largest distance of an index from its catalog.

use edgewise_telemetry::names::{self, labels};

use crate::tenants::Tenants;

/// Sets the gauges, of all tenants together.
pub(crate) fn collections(tenants: &Tenants) {
    let (mut all, mut damaged) = (Vec::new(), 0);
    for tenant in tenants.all() {
        match tenants.of(&tenant).and_then(|collections| collections.list()) {
            Ok(listing) => {
                all.extend(listing.collections);
                damaged += listing.damaged.len();
            }
            Err(error) => tracing::warn!(%error, %tenant, "collections are missing in the metrics"),
        }
    }
    let behind = |reached: u64, generation: u64| generation.saturating_sub(reached);
    let lexical = all.iter().map(|c| behind(c.lexical_generation.0, c.generation.0)).max().unwrap_or(0);
    let vector = all.iter().map(|c| behind(c.vector_generation.0, c.generation.0)).max().unwrap_or(0);
    for (state, count) in [("ok", all.len()), ("damaged", damaged)] {
        metrics::gauge!(names::INDEX_COLLECTIONS, labels::STATE => state).set(count as f64);
    }
    for (index, generations) in [("lexical", lexical), ("vector", vector)] {
        metrics::gauge!(names::INDEX_BEHIND_GENERATIONS, labels::INDEX => index).set(generations as f64);
    }
    metrics::gauge!(names::INDEX_DOCUMENTS).set(all.iter().map(|c| c.documents).sum::<usize>() as f64);
    metrics::gauge!(names::INDEX_CHUNKS).set(all.iter().map(|c| c.chunks).sum::<usize>() as f64);
    let building = all.iter().filter(|c| c.building_graph).count();
    metrics::gauge!(names::INDEX_GRAPHS_BUILDING).set(building as f64);
}
