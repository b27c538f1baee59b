//! Looks at each server now and then: `/health`, or `/v1/models` where there is no such path.

use std::{sync::Arc, time::Duration};

use edgewise_telemetry::names::{self, labels};

use crate::{probe, replica::Replica, shared::Shared};

/// Longest a look may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Watches one replica until the task is dropped.
pub(crate) async fn watch(shared: Arc<Shared>, index: usize) {
    let Some(replica) = shared.replicas.get(index) else { return };
    loop {
        let answers = answers(&shared, replica).await;
        let changed = replica.set_ready(answers);
        if changed {
            match answers {
                true => tracing::info!(replica = replica.base, "an upstream server answers again"),
                false => tracing::warn!(replica = replica.base, "an upstream server does not answer"),
            }
        }
        if answers {
            // Before the first request needs it; what can't be found out now is asked again.
            let _ = probe::profile(&shared, replica).await;
        }
        let ready = shared.replicas.iter().filter(|replica| replica.is_ready()).count();
        metrics::gauge!(names::UPSTREAM_REPLICAS, labels::STATE => "ready").set(ready as f64);
        metrics::gauge!(names::UPSTREAM_REPLICAS, labels::STATE => "down").set((shared.replicas.len() - ready) as f64);
        tokio::time::sleep(shared.options.health_interval).await;
    }
}

async fn answers(shared: &Shared, replica: &Replica) -> bool {
    for path in ["/health", "/v1/models"] {
        match shared.get(replica, path).timeout(PATIENCE).send().await.map(|response| response.status().as_u16()) {
            Ok(404 | 405 | 501) => {}
            // A key that is refused here may be good for completions.
            Ok(status) => return status < 500,
            // One that reads a long prompt may be too busy to say so: requests find out whether it is stuck.
            Err(error) if error.is_timeout() && !error.is_connect() => return replica.is_ready(),
            Err(_) => return false,
        }
    }
    // It has neither path, but it answers.
    true
}
