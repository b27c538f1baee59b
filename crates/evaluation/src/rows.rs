//! Rows of a long measurement, kept line by line, so that one that was interrupted goes on where it stopped.
//!
//! ```text
//! {"rows": 1, "of": "<what was measured, with which options>"}
//! one JSON object a row
//! ```
//!
//! A row is written when it is known, before the next is begun. A half-written last line, as a kill leaves it, is cut off
//! and measured again. Deliberately not here: what a row is.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::EvaluationError;

/// First line of the file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    rows: u32,
    of: String,
}

/// What to do with a file of another measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// Refuse it: it is the user's.
    Refuse,
    /// Begin anew in its place: it is a leftover of ours.
    Replace,
}

/// Rows known so far, and where new ones go.
#[derive(Debug)]
pub struct Rows<T> {
    rows: Vec<T>,
    file: Option<(PathBuf, File)>,
}

impl<T: Serialize + DeserializeOwned> Rows<T> {
    /// Rows that are kept nowhere.
    pub fn in_memory() -> Self {
        Self { rows: Vec::new(), file: None }
    }

    /// Rows in the file at `path`, which is made if it is missing. `of` says what is measured and with which options:
    /// rows of anything else are not mixed with it.
    ///
    /// # Errors
    /// [`EvaluationError::Rows`] if the file can't be used, is in use, or is of another measurement.
    pub fn open(path: &Path, of: &str, other: Other) -> Result<Self, EvaluationError> {
        let fail = |reason: String| EvaluationError::Rows { path: path.to_owned(), reason };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|error| fail(error.to_string()))?;
        }
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = opened.map_err(|error| fail(error.to_string()))?;
        file.try_lock().map_err(|error| fail(error.to_string()))?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
        let header = Header { rows: 1, of: of.to_owned() };
        let mut lines = text.split_inclusive('\n');
        let found = lines.next().filter(|line| line.ends_with('\n'));
        let same = found.and_then(|line| serde_json::from_str(line).ok()) == Some(header);
        let (mut rows, mut sound) = (Vec::new(), found.map_or(0, str::len));
        if same {
            for line in lines.take_while(|line| line.ends_with('\n')) {
                let Ok(row) = serde_json::from_str(line) else { break };
                rows.push(row);
                sound += line.len();
            }
        } else if found.is_some() && other == Other::Refuse {
            return Err(fail("it holds something else, or rows of another model, set or options".to_owned()));
        }
        let mut begin = || -> std::io::Result<()> {
            if same {
                file.set_len(sound as u64)?;
            } else {
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
                let mut line = serde_json::to_vec(&Header { rows: 1, of: of.to_owned() })?;
                line.push(b'\n');
                file.write_all(&line)?;
            }
            file.seek(SeekFrom::End(0)).map(|_| ())
        };
        begin().map_err(|error| fail(error.to_string()))?;
        Ok(Self { rows, file: Some((path.to_owned(), file)) })
    }

    /// What is known so far.
    pub fn rows(&self) -> &[T] {
        &self.rows
    }

    /// Where they are kept.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }

    /// Adds and keeps a row.
    ///
    /// # Errors
    /// [`EvaluationError::Rows`] if it can't be written.
    pub fn add(&mut self, row: T) -> Result<(), EvaluationError> {
        if let Some((path, file)) = &mut self.file {
            let written = serde_json::to_vec(&row).map_err(std::io::Error::from).and_then(|mut line| {
                line.push(b'\n');
                file.write_all(&line)
            });
            written.map_err(|error| EvaluationError::Rows { path: path.clone(), reason: error.to_string() })?;
        }
        self.rows.push(row);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_and_half_a_row_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/rows.jsonl");
        let open = |of: &str, other| Rows::<(usize, String)>::open(&path, of, other);
        let mut rows = open("a", Other::Refuse).unwrap();
        for n in 0..3 {
            rows.add((n, format!("row {n}"))).unwrap();
        }
        assert!(open("a", Other::Refuse).is_err(), "in use");
        drop(rows);
        let whole = std::fs::read(&path).unwrap();
        for (cut, left) in [(0, 3), (1, 2), (11, 2), (12, 2), (14, 1)] {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let mut again = open("a", Other::Refuse).unwrap();
            assert_eq!(again.rows().len(), left, "{cut}");
            again.add((9, "more".to_owned())).unwrap();
            drop(again);
            assert_eq!(open("a", Other::Refuse).unwrap().rows().last().unwrap().0, 9);
        }
    }

    #[test]
    fn rows_of_something_else_are_refused_or_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        let open = |of: &str, other| Rows::<usize>::open(&path, of, other);
        open("a", Other::Refuse).unwrap().add(1).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(open("b", Other::Refuse), Err(EvaluationError::Rows { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert!(open("b", Other::Replace).unwrap().rows().is_empty());
        std::fs::write(&path, "my shopping list\nmilk\n").unwrap();
        assert!(open("b", Other::Refuse).is_err());
    }
}
