//! What a question to a collection may use at most: kept with the collection, enforced by whoever plans questions.

use edgewise_documents::Ceiling;

use crate::{Collection, RetrievalError};

impl Collection {
    /// The limits of every question to this collection.
    ///
    /// # Errors
    /// When the collection can't be read.
    pub fn ceiling(&self) -> Result<Ceiling, RetrievalError> {
        Ok(self.current()?.profile().ceiling)
    }

    /// Puts `ceiling` in force for every question from now on, in this process and others; nothing is indexed again. It
    /// holds until another is set.
    ///
    /// # Errors
    /// [`RetrievalError::InvalidRequest`] for a limit of 0; [`RetrievalError::Locked`] if another process writes.
    pub fn set_ceiling(&self, ceiling: Ceiling) -> Result<(), RetrievalError> {
        ceiling.validate().map_err(|(name, rule)| RetrievalError::InvalidRequest(format!("{name} {rule}")))?;
        let mut slot = self.writer();
        let (state, _) = self.write(&mut slot)?;
        let mut profile = (**state.profile()).clone();
        profile.ceiling = ceiling;
        self.put_profile_in_force(state, &profile).map(drop)
    }
}
