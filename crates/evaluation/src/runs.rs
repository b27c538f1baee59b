//! Rankings as files, one a set and system, in the run format of TREC (`query Q0 document rank score system`), so that
//! other tools such as trec_eval can score or fuse them.
//!
//! Deliberately not here: reading such files.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use crate::{EvaluationError, System, systems::Ranked};

/// The open files of one set.
pub(crate) struct Runs {
    files: HashMap<String, (PathBuf, BufWriter<File>)>,
}

impl Runs {
    /// Creates `<folder>/<set>.<system>.run` for each system; folder included.
    pub(crate) fn create(folder: &Path, set: &str, systems: &[System]) -> Result<Self, EvaluationError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| EvaluationError::Runs { path, source }
        };
        fs::create_dir_all(folder).map_err(fail(folder))?;
        let mut files = HashMap::new();
        for system in systems {
            let path = folder.join(format!("{set}.{}.run", tag(system)));
            let file = File::create(&path).map_err(fail(&path))?;
            files.insert(tag(system), (path, BufWriter::new(file)));
        }
        Ok(Self { files })
    }

    pub(crate) fn write(
        &mut self,
        query: &str,
        system: &System,
        ranking: &[Ranked<'_>],
    ) -> Result<(), EvaluationError> {
        let tag = tag(system);
        let Some((path, file)) = self.files.get_mut(&tag) else { return Ok(()) };
        for (at, (document, score)) in ranking.iter().enumerate() {
            writeln!(file, "{query} Q0 {document} {} {score} {tag}", at + 1)
                .map_err(|source| EvaluationError::Runs { path: path.clone(), source })?;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<(), EvaluationError> {
        for (path, mut file) in self.files.into_values() {
            file.flush().map_err(|source| EvaluationError::Runs { path, source })?;
        }
        Ok(())
    }
}

/// A system's name without spaces, as the format asks.
fn tag(system: &System) -> String {
    system.name().replace(' ', "_")
}
