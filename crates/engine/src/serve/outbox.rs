//! Events on their way to callers.
//!
//! Sending an event wakes whoever waits for it, which takes longer than all else that a token needs of the worker. So
//! events are gathered while a step is settled, and sent while the device computes the next one; or at once where there
//! is none, or something that takes time comes first.
//!
//! Invariant: the events of a stream are sent in the order they were put in.

use edgewise_model_api::{GenerationEvent, GenerationSender};

/// Events that were not sent yet, with the streams they go to.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    events: Vec<(GenerationSender, GenerationEvent)>,
}

impl Outbox {
    /// Takes an event for the stream of `sender`.
    pub(crate) fn put(&mut self, sender: &GenerationSender, event: GenerationEvent) {
        self.events.push((sender.clone(), event));
    }

    /// Sends what there is. Whether anybody listens is looked at between steps.
    pub(crate) fn send(&mut self) {
        for (sender, event) in self.events.drain(..) {
            let _ = sender.send(event);
        }
    }
}
