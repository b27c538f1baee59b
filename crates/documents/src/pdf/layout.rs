//! The reading order of a page: columns, tables, and the flow of lines within each.
//!
//! Segments are swept from top to bottom. A band is a run of segments that leaves a vertical strip of the page free, a
//! gutter; where the text on its sides fills columns the band is read column by column, where it stands in short pieces
//! side by side it is a table. What lies between bands is read line by line. Columns are looked into again, so that a
//! table in a column is found.

use super::lines::Segment;

/// Columns in columns that are looked into.
const MAX_DEPTH: usize = 4;
/// Narrowest gutter, in font sizes.
const MIN_GUTTER: f64 = 0.9;
/// Fewest lines of a column of text.
const MIN_COLUMN_LINES: usize = 3;
/// A line of a column has at least this many characters on average.
const MIN_COLUMN_CHARS: usize = 16;
/// A line that leaves more than this share of the width free on one side may be one of a column.
const NARROW: f64 = 0.35;
/// Widest vertical gap in a band, in font sizes.
const MAX_BAND_GAP: f64 = 4.0;
/// Most columns of a table.
const MAX_COLUMNS: usize = 40;

/// A part of a page, in reading order.
#[derive(Debug)]
pub(super) enum Region {
    /// Lines of running text, from top to bottom.
    Flow(Vec<Segment>),
    /// A table: rows of cells.
    Table(Vec<Vec<String>>),
}

/// The regions of a page's segments.
pub(super) fn regions(segments: Vec<Segment>) -> Vec<Region> {
    let mut out = Vec::new();
    read(segments, 0, &mut out);
    out
}

/// Left and right edge of some text, and its smallest font size.
#[derive(Clone, Copy)]
struct Extent {
    left: f64,
    right: f64,
    size: f64,
}

impl Extent {
    fn of(segments: &[Segment]) -> Self {
        let none = Self { left: f64::INFINITY, right: f64::NEG_INFINITY, size: f64::INFINITY };
        segments.iter().fold(none, |extent, s| extent.with(Self { left: s.x0, right: s.x1, size: s.size }))
    }

    fn with(self, other: Self) -> Self {
        Self { left: self.left.min(other.left), right: self.right.max(other.right), size: self.size.min(other.size) }
    }

    /// Those of the free strips that have text on both sides and are wide enough.
    fn gutters(self, free: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> + '_ {
        let is_gutter = move |strip: &(f64, f64)| {
            strip.0 > self.left && strip.1 < self.right && strip.1 - strip.0 >= MIN_GUTTER * self.size
        };
        free.iter().copied().filter(is_gutter)
    }
}

/// Segments that share gutters.
struct Band {
    segments: Vec<Segment>,
    extent: Extent,
    /// Strips without text, from left to right.
    free: Vec<(f64, f64)>,
}

fn read(segments: Vec<Segment>, depth: usize, out: &mut Vec<Region>) {
    let mut flow: Vec<Segment> = Vec::new();
    for band in bands(segments) {
        let columns = if depth < MAX_DEPTH { columns(&band) } else { Vec::new() };
        if columns.len() < 2 {
            flow.extend(band.segments);
            continue;
        }
        let split = split(&band.segments, &columns);
        if are_text(&split, &columns) {
            out.extend(lines(std::mem::take(&mut flow)));
            for column in split {
                read(column, depth + 1, out);
            }
        } else if let Some(table) = table(&split) {
            flow.extend(table.before);
            out.extend(lines(std::mem::take(&mut flow)));
            out.push(Region::Table(table.rows));
            flow.extend(table.after);
        } else {
            flow.extend(band.segments);
        }
    }
    out.extend(lines(flow));
}

/// Cuts segments, which come from top to bottom, into bands with gutters in common.
fn bands(segments: Vec<Segment>) -> Vec<Band> {
    let left = segments.iter().map(|s| s.x0).fold(f64::INFINITY, f64::min);
    let right = segments.iter().map(|s| s.x1).fold(f64::NEG_INFINITY, f64::max);
    let mut bands: Vec<Band> = Vec::new();
    let mut rows: Vec<Vec<Segment>> = Vec::new();
    for segment in segments {
        match rows.last_mut().filter(|row| row.iter().any(|other| other.beside(&segment))) {
            Some(row) if row.len() < MAX_COLUMNS => row.push(segment),
            _ => rows.push(vec![segment]),
        }
    }
    for row in rows {
        let free = row.iter().fold(vec![(left - 1.0, right + 1.0)], |free, segment| without(&free, segment));
        let extent = Extent::of(&row);
        let is_split = extent.gutters(&free).next().is_some();
        let widest = |free: &[(f64, f64)]| free.iter().map(|(start, end)| end - start).fold(0.0, f64::max);
        let is_narrow = |free: &[(f64, f64)]| widest(free) > NARROW * (right - left);
        let top = row.iter().map(Segment::top).fold(f64::INFINITY, f64::min);
        let joined = bands.last_mut().and_then(|band| {
            let bottom = band.segments.last().map_or(top, Segment::bottom);
            let shared = row.iter().fold(band.free.clone(), |free, segment| without(&free, segment));
            let had = band.extent.gutters(&band.free).next().is_some();
            let all = band.extent.with(extent);
            // A line that leaves no gutter ends a band that has one. A line that leaves much of the width free may
            // begin one, beside lines of another column that are still to come.
            let keeps = match had {
                true => all.gutters(&shared).next().is_some(),
                false => !is_split && (is_narrow(&shared) || !is_narrow(&free)),
            };
            (keeps && top - bottom < MAX_BAND_GAP * extent.size).then_some((band, shared, all))
        });
        match joined {
            Some((band, shared, all)) => {
                band.segments.extend(row);
                (band.free, band.extent) = (shared, all);
            }
            None => bands.push(Band { segments: row, extent, free }),
        }
    }
    bands
}

/// The free strips less what a segment covers.
fn without(free: &[(f64, f64)], segment: &Segment) -> Vec<(f64, f64)> {
    let pieces = free.iter().flat_map(|(start, end)| [(*start, end.min(segment.x0)), (start.max(segment.x1), *end)]);
    pieces.filter(|(start, end)| end > start).collect()
}

/// The columns that a band's gutters make: left and right edges.
fn columns(band: &Band) -> Vec<(f64, f64)> {
    let mut edges = vec![f64::NEG_INFINITY];
    for (start, end) in band.extent.gutters(&band.free) {
        edges.push((start + end) / 2.0);
    }
    edges.push(f64::INFINITY);
    edges.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

/// The segments of each column.
fn split(segments: &[Segment], columns: &[(f64, f64)]) -> Vec<Vec<Segment>> {
    let inside = |segment: &Segment, (left, right): (f64, f64)| {
        let middle = (segment.x0 + segment.x1) / 2.0;
        left <= middle && middle < right
    };
    columns.iter().map(|column| segments.iter().filter(|s| inside(s, *column)).cloned().collect()).collect()
}

/// Whether columns hold running text: in at least two, most of the characters stand in lines that fill the column.
fn are_text(split: &[Vec<Segment>], columns: &[(f64, f64)]) -> bool {
    if columns.len() > 6 {
        return false;
    }
    let is_text = |segments: &&Vec<Segment>| {
        let widest = segments.iter().map(|s| s.x1 - s.x0).fold(0.0, f64::max);
        let chars = |segment: &Segment| segment.text.chars().count();
        let all: usize = segments.iter().map(chars).sum();
        let long: Vec<usize> = segments.iter().filter(|s| s.x1 - s.x0 > 0.6 * widest).map(chars).collect();
        let in_long: usize = long.iter().sum();
        long.len() >= MIN_COLUMN_LINES && in_long >= long.len() * MIN_COLUMN_CHARS && in_long * 10 >= all * 6
    };
    let text = split.iter().filter(is_text).count();
    text >= 2 && text * 2 >= split.len()
}

/// A table with what stands above and below it in its band.
struct Table {
    before: Vec<Segment>,
    rows: Vec<Vec<String>>,
    after: Vec<Segment>,
}

/// The table in a band, or `None` if too few rows have more than one cell.
fn table(split: &[Vec<Segment>]) -> Option<Table> {
    let mut cells: Vec<(usize, &Segment)> =
        split.iter().enumerate().flat_map(|(column, segments)| segments.iter().map(move |s| (column, s))).collect();
    cells.sort_by(|(_, a), (_, b)| a.y.total_cmp(&b.y));
    let mut rows: Vec<(Vec<(usize, &Segment)>, f64)> = Vec::new();
    for (column, segment) in cells {
        match rows.last_mut().filter(|(row, _)| row.iter().any(|(_, other)| other.beside(segment))) {
            Some((row, bottom)) => {
                row.push((column, segment));
                *bottom = bottom.max(segment.bottom());
            }
            None => rows.push((vec![(column, segment)], segment.bottom())),
        }
    }
    // Lines that fill one column only, above the first and below the last row of several cells, are not of the table:
    // a heading mostly.
    let is_filled = |(row, _): &(Vec<(usize, &Segment)>, f64)| row.iter().any(|(column, _)| *column != row[0].0);
    let (first, last) = (rows.iter().position(is_filled)?, rows.iter().rposition(is_filled)?);
    if rows.iter().filter(|row| is_filled(row)).count() < 2 {
        return None;
    }
    // A cell of the last row may go on in the lines below.
    let goes_on = |at: usize| {
        let above = rows[at - 1].1;
        rows[at].0.iter().all(|(column, s)| *column > 0 && s.top() - above < 0.35 * s.size)
    };
    let end = (last + 1..rows.len()).find(|at| !goes_on(*at)).unwrap_or(rows.len());
    let after: Vec<Segment> = rows.drain(end..).flat_map(|(row, _)| row).map(|(_, s)| s.clone()).collect();
    let before: Vec<Segment> = rows.drain(..first).flat_map(|(row, _)| row).map(|(_, s)| s.clone()).collect();
    let mut table: Vec<Vec<String>> = Vec::new();
    let mut last_bottom = f64::NEG_INFINITY;
    for (row, bottom) in rows {
        let top = row.iter().map(|(_, s)| s.top()).fold(f64::INFINITY, f64::min);
        let size = row.iter().map(|(_, s)| s.size).fold(0.0, f64::max);
        let mut texts = vec![String::new(); split.len()];
        let mut row = row;
        row.sort_by(|(_, a), (_, b)| a.x0.total_cmp(&b.x0));
        for (column, segment) in row {
            join(&mut texts[column], &segment.text);
        }
        // A line without a first cell, close below, continues the row above.
        let continues = texts[0].is_empty() && top - last_bottom < 0.35 * size;
        last_bottom = bottom;
        match table.last_mut().filter(|_| continues) {
            Some(above) => above.iter_mut().zip(&texts).for_each(|(cell, more)| join(cell, more)),
            None => table.push(texts),
        }
    }
    Some(Table { before, rows: table, after })
}

fn join(text: &mut String, more: &str) {
    if !text.is_empty() && !more.is_empty() {
        text.push(' ');
    }
    text.push_str(more);
}

/// A flow of lines: segments side by side become one.
fn lines(segments: Vec<Segment>) -> Option<Region> {
    let mut segments = segments;
    segments.sort_by(|a, b| a.y.total_cmp(&b.y));
    let mut rows: Vec<Vec<Segment>> = Vec::new();
    for segment in segments {
        match rows.last_mut().filter(|row| row.iter().any(|other| other.beside(&segment))) {
            Some(row) => row.push(segment),
            None => rows.push(vec![segment]),
        }
    }
    let mut out = Vec::with_capacity(rows.len());
    for mut row in rows {
        row.sort_by(|a, b| a.x0.total_cmp(&b.x0));
        let largest = row.iter().map(|s| s.text.len()).max().unwrap_or(0);
        let Some(main) = row.iter().find(|s| s.text.len() == largest).cloned() else { continue };
        let mut text = String::new();
        row.iter().for_each(|segment| join(&mut text, &segment.text));
        out.push(Segment {
            text,
            x0: row.iter().map(|s| s.x0).fold(f64::INFINITY, f64::min),
            x1: row.iter().map(|s| s.x1).fold(f64::NEG_INFINITY, f64::max),
            heading: row.iter().find_map(|s| s.heading),
            bold: row.iter().all(|s| s.bold),
            mono: row.iter().all(|s| s.mono),
            ..main
        });
    }
    (!out.is_empty()).then_some(Region::Flow(out))
}
